"""The measurements of `position`: three readings of the held-out tokens, baselines and gauges."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rmat_jax.config import IGNORE, Config, RMATConfig
from rmat_jax.data import Data
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suite import say
from rmat_jax.evals.suites.position.baselines import gzip_bits_per_byte, order2_bits_per_byte
from rmat_jax.evals.suites.position.gauges import Openness, fusion_weights, gate_openness
from rmat_jax.train.heldout import Heldout, evaluate_heldout
from rmat_jax.train.step import FORGET, KEEP
from rmat_jax.types import PyTree

Batches = Sequence[Mapping[str, np.ndarray]]


class CutOnce(NamedTuple):
    """The reading with the memory emptied at one chunk border, the cut, in each document.

    A document that is too short has no cut.
    """

    heldout: Heldout
    # [n] tokens since the cut, for each scored token; -1: before the cut, or in a document without
    since: np.ndarray

    @property
    def documents(self) -> int:
        """The number of documents that were cut."""
        return len(np.unique(self.heldout.documents[self.since >= 0]))


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one model on one held-out set.

    Fields for text are None where the data is no text.
    """

    kept: Heldout
    # the same tokens with the memory emptied before each chunk; None: the model has no memory
    cut: Heldout | None
    # from `fusion_weights`
    fusion_LS: np.ndarray
    # None: the model has no gate
    openness: Openness | None
    # bits per byte of each document on its own, and of all as one file
    gzip: tuple[float, float] | None
    # bits per byte
    order2: float | None
    # None: there is no memory, no text, or no document that is long enough
    once: CutOnce | None = None

    @property
    def is_text(self) -> bool:
        return self.kept.num_bytes is not None

    @property
    def unit(self) -> str:
        return "bits per byte" if self.is_text else "of accuracy"

    def gain(self, where: np.ndarray | slice = slice(None)) -> Mean:
        """Returns what memory gains on some of the tokens, in `unit`; positive is better."""
        if self.is_text:
            gains = (self.cut.bits - self.kept.bits) * self.kept.scored / self.kept.num_bytes
        else:
            gains = self.kept.correct.astype(float) - self.cut.correct
        return clustered_mean(gains[where], self.kept.units()[1][where])


def measure(config: Config, params: PyTree, data: Data) -> Measured:
    """Reads the held-out batches with and without memory, and measures baselines and gauges.

    It prints a line on stderr before each step that takes time.
    """
    heldout, model = data.heldout, config.model
    say(f"held-out loss of {len(heldout)} batches")
    kept = evaluate_heldout(config, params, heldout, heldout.num_bytes)
    cut = openness = gzip = order2 = once = None
    if model.memory:
        say("held-out loss with the memory emptied before each chunk")
        cut = evaluate_heldout(config, params, heldout, heldout.num_bytes, cut=True)
        if heldout.num_bytes is not None:
            once = cut_once(config, params, heldout, heldout.num_bytes)
        if model.memory.gated:
            say("gates")
            openness = gate_openness(config, params, heldout)
    if heldout.num_bytes is not None:
        say("gzip and the order-2 byte model")
        gzip = gzip_bits_per_byte(heldout.texts())
        order2 = order2_bits_per_byte(data.source.train(), heldout.texts())
    return Measured(kept, cut, fusion_weights(config, params), openness, gzip, order2, once)


def cut_once(
    config: Config, params: PyTree, batches: Batches, num_bytes: int | None
) -> CutOnce | None:
    """Reads the batches with the memory emptied where `choose_cuts` says.

    Args:
        config: the experiment.
        params: the model's parameters.
        batches: as `evaluate_heldout` takes them.
        num_bytes: the bytes that the scored tokens stand for.

    Returns:
        None where no document is long enough.
    """
    batches = list(batches)
    documents_BT, targets_BT = (
        np.concatenate([b[name] for b in batches], axis=1) for name in ("documents", "targets")
    )
    forget_BN, since_BT = choose_cuts(config.model, documents_BT, targets_BT != IGNORE)
    if not (forget_BN == FORGET).any():
        return None
    say("held-out loss with the memory emptied once in each document")
    parts = np.split(forget_BN, len(batches), axis=1)
    marked = [
        batch | {"forget": part} for batch, part in zip(map(dict, batches), parts, strict=True)
    ]
    since = [
        since_Bt[batch["targets"] != IGNORE]
        for batch, since_Bt in zip(batches, np.split(since_BT, len(batches), axis=1), strict=True)
    ]
    return CutOnce(evaluate_heldout(config, params, marked, num_bytes), np.concatenate(since))


def choose_cuts(
    model: RMATConfig, documents_BT: np.ndarray, scored_BT: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses one chunk border in each document that is long enough.

    It is the first border in the document's second half at which the document has filled the whole
    queue and goes on for a chunk.

    Args:
        model: the config of the model.
        documents_BT: the id of each token's document, in whole lanes.
        scored_BT: whether tokens are scored; a document without any such token is padding.

    Returns:
        `forget` [B, N] for the batches, and the tokens since the cut [B, T]; -1: no cut before it.
    """
    rows, length = documents_BT.shape
    chunk = model.chunk_len
    filling = -(-model.memory.slots // model.memory.writes) * chunk
    forget_BN = np.full((rows, length // chunk), KEEP, np.int32)
    since_BT = np.full((rows, length), -1)
    for lane in range(rows):
        starts = np.flatnonzero(np.diff(documents_BT[lane], prepend=documents_BT[lane, 0] - 1))
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            border = max(_round_up((start + end) // 2, chunk), _round_up(start, chunk) + filling)
            if border + chunk <= end and scored_BT[lane, start:end].any():
                forget_BN[lane, border // chunk] = FORGET
                since_BT[lane, border:end] = np.arange(end - border)
    return forget_BN, since_BT


def _round_up(place: int, chunk: int) -> int:
    return -(-place // chunk) * chunk
