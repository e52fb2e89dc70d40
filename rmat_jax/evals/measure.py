"""What the report measures: the model with and without its memory, the baselines, the gauges."""

import dataclasses
import sys

import numpy as np

from rmat_jax.config import Config
from rmat_jax.data import Data
from rmat_jax.evals.baselines import gzip_bits_per_byte, order2_bits_per_byte
from rmat_jax.evals.gauges import Openness, fusion_weights, gate_openness
from rmat_jax.evals.heldout import Heldout, Mean, clustered_mean, evaluate_heldout
from rmat_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model on one held-out set. What only text has is None where the data is no text."""

    kept: Heldout
    cut: Heldout | None  # the same tokens, memory emptied before each chunk; None: the model has no memory
    fusion_LS: np.ndarray
    openness: Openness | None
    gzip: tuple[float, float] | None  # bits per byte: each document on its own, all as one file
    order2: float | None  # bits per byte

    @property
    def is_text(self) -> bool:
        return self.kept.num_bytes is not None

    @property
    def unit(self) -> str:
        return "bits per byte" if self.is_text else "of accuracy"

    def score(self, heldout: Heldout) -> float:
        return heldout.bits_per_byte if self.is_text else heldout.accuracy

    def gain(self, where: np.ndarray | slice = slice(None)) -> Mean:
        """What memory gains, in `unit`, on some of the tokens; positive is better, whichever the unit."""
        if self.is_text:
            gains = (self.cut.bits - self.kept.bits) * self.kept.scored / self.kept.num_bytes
        else:
            gains = self.kept.correct.astype(float) - self.cut.correct
        return clustered_mean(gains[where], self.kept.units()[1][where])


def measure(config: Config, params: PyTree, data: Data) -> Measured:
    """Reads the held-out batches with and without memory; a line on stderr before each step that takes time."""
    heldout, model = data.heldout, config.model
    _say(f"held-out loss of {len(heldout)} batches")
    kept = evaluate_heldout(config, params, heldout, heldout.num_bytes)
    cut = openness = gzip = order2 = None
    if model.has_memory:
        _say("held-out loss with the memory emptied before each chunk")
        cut = evaluate_heldout(config, params, heldout, heldout.num_bytes, cut=True)
        if model.gate != "none":
            _say("gates")
            openness = gate_openness(config, params, heldout)
    if heldout.num_bytes is not None:
        _say("gzip and the order-2 byte model")
        gzip = gzip_bits_per_byte(heldout.texts())
        order2 = order2_bits_per_byte(data.source.train(), heldout.texts())
    return Measured(kept, cut, fusion_weights(config, params), openness, gzip, order2)


def _say(text: str) -> None:
    print(f"report: {text}", file=sys.stderr, flush=True)
