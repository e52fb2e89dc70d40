"""Held-out loss: the cost of each scored token, and its position in chunk and document."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from rmat_jax.config import IGNORE, Config
from rmat_jax.errors import UserError
from rmat_jax.modules.documents import NOBODY
from rmat_jax.modules.state import State, initial_state
from rmat_jax.train import sharding
from rmat_jax.train.step import eval_step
from rmat_jax.types import PyTree

# the fewest documents over which a standard error is taken
MIN_DOCUMENTS = 10


@functools.partial(jax.jit, static_argnames=("config", "cut", "mesh"))
def _step(config, params, carried, batch, cut, mesh):
    read = functools.partial(eval_step, config, cut=cut)
    if mesh is None:
        return read(params, carried, batch)
    read = sharding.spread(
        mesh,
        read,
        sharding.CARRIED,
        sharding.ROWS,
        whole_lanes=_by_chunk(batch, cut),
    )
    carried, scores = read(params, carried, batch)
    return carried, jax.lax.with_sharding_constraint(scores, sharding.replicated(mesh))


@dataclasses.dataclass(frozen=True)
class Heldout:
    """The n scored tokens of a held-out text, in the order in which they were read."""

    # [n] float64, -log2 of the token's probability
    bits: np.ndarray
    # [n] bool, whether the token was the most likely one
    correct: np.ndarray
    # [n] the position in the chunk of the token that predicts it
    positions: np.ndarray
    # [n] the position in the document of the token that predicts it
    offsets: np.ndarray
    # [n] the number of the document, distinct over all lanes: B (index in its lane, from 1) + lane
    documents: np.ndarray
    # [n] the number of the lane and batch
    segments: np.ndarray
    chunk_len: int
    # the number of raw bytes that the tokens stand for
    num_bytes: int | None

    @property
    def scored(self) -> int:
        """The number of scored tokens."""
        return len(self.bits)

    @property
    def bits_per_token(self) -> float:
        return float(self.bits.mean())

    @property
    def bits_per_byte(self) -> float | None:
        """None where the tokens stand for no bytes."""
        return None if self.num_bytes is None else float(self.bits.sum() / self.num_bytes)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def score(self) -> float:
        """Bits per byte; where the tokens stand for no bytes, accuracy."""
        return self.accuracy if self.bits_per_byte is None else self.bits_per_byte

    @property
    def unit(self) -> str:
        """The unit of `score`."""
        return "accuracy" if self.bits_per_byte is None else "bits per byte"

    def by_offset(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns mean bits by position in the document, in power-of-two bins.

        Returns:
            Edges [n + 1], 0, 1, 2, 4, 8, ...: bin i holds edges[i] <= offset < edges[i + 1]; mean
            bits [n], NaN in an empty bin; scored tokens [n].
        """
        bins = offset_bins(self.offsets)
        means, counts = _means(bins, self.bits, bins.max() + 1)
        return np.concatenate([[0], 2 ** np.arange(len(counts))]), means, counts

    def units(self) -> tuple[str, np.ndarray]:
        """Returns the units that a standard error takes as independent.

        These are documents, or segments of them where there are fewer than MIN_DOCUMENTS. A
        document that is longer than a lane's share of the text counts as several.

        Returns:
            "documents" or "segments", and for each token the number of its unit.
        """
        if len(np.unique(self.documents)) >= MIN_DOCUMENTS:
            return "documents", self.documents
        return "segments", self.segments


def evaluate_heldout(
    config: Config,
    params: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    num_bytes: int | None,
    *,
    cut: bool = False,
    mesh: Mesh | None = None,
) -> Heldout:
    """Scores held-out text, read as in training: the state of each lane goes from batch to batch.

    Compiles once for a config, `cut`, and the names and shapes of a batch.

    Args:
        config: the config of the run.
        params: the parameters of the model.
        batches: batches of tokens, targets (-1: not scored), documents, and offsets (a token's
            position in its document): [B, T] int32 each, all of one shape, T a multiple of the
            chunk. A lane goes on from batch to batch. They may have `forget` [B, N], see
            `eval_step`.
        num_bytes: the raw bytes that all scored targets stand for; None: they stand for no bytes.
        cut: empty the memory before each chunk, see `eval_step`.
        mesh: the devices of `params`, which share the rows. Every process gives all rows and gets
            all results.

    Raises:
        UserError: nothing is scored, or the mesh does not divide the rows; then the message names
            an array of the state.
    """
    carried, parts = None, []
    for index, batch in enumerate(batches):
        rows, length = batch["tokens"].shape
        if carried is None:
            carried = _nothing_read(config, rows, mesh)
            last_B, count_B = np.full(rows, NOBODY), np.zeros(rows, np.int64)
        scored_BT = batch["targets"] != IGNORE
        # without targets no logits are computed
        names = ("tokens", *["targets"] * bool(scored_BT.any()), "documents", "forget")
        read = {name: batch[name] for name in names if name in batch}
        if mesh is not None:
            read = sharding.global_batch(
                mesh, rows, range(rows), read, whole_lanes=_by_chunk(batch, cut)
            )
        carried, scores = _step(
            config=config, params=params, carried=carried, batch=read, cut=cut, mesh=mesh
        )

        begins_BT = np.diff(batch["documents"], axis=1, prepend=last_B[:, None]) != 0
        count_BT = count_B[:, None] + begins_BT.cumsum(1)
        last_B, count_B = batch["documents"][:, -1], count_BT[:, -1]
        if scores is None:
            continue
        scores = jax.device_get(scores)
        lane_BT = np.broadcast_to(np.arange(rows)[:, None], (rows, length))
        columns = {
            "bits": scores.loss_BT / np.log(2, dtype=np.float64),
            "correct": scores.correct_BT.astype(bool),
            "positions": np.broadcast_to(
                np.arange(length) % config.model.chunk_len, (rows, length)
            ),
            "offsets": batch["offsets"],
            "documents": count_BT * rows + lane_BT,
            "segments": index * rows + lane_BT,
        }
        parts.append({name: column[scored_BT] for name, column in columns.items()})
    if not parts:
        raise UserError(
            "the held-out batches hold no token to score; hold out more text, or raise eval_tokens"
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Heldout(**joined, chunk_len=config.model.chunk_len, num_bytes=num_bytes)


def _by_chunk(batch: Mapping[str, np.ndarray], cut: bool) -> bool:
    """Whether `eval_step` reads chunk after chunk, so that time cannot be divided."""
    return cut or "forget" in batch


def _nothing_read(config: Config, rows: int, mesh: Mesh | None) -> State:
    empty = functools.partial(initial_state, config.model, rows)
    if mesh is None:
        return empty()
    return jax.jit(empty, out_shardings=sharding.shardings(mesh, jax.eval_shape(empty)))()


def offset_bins(offsets: np.ndarray) -> np.ndarray:
    """Returns the power-of-two bin of each offset: 0 for 0, 1 for 1, 2 for 2..3, 3 for 4..7."""
    return np.frexp(offsets)[1]


def _means(bins: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means of the values in `count` bins, NaN in an empty one, and their numbers."""
    counts = np.bincount(bins, minlength=count)
    sums = np.bincount(bins, values, minlength=count)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), counts
