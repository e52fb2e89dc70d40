"""The sums of `inspect`, whose size does not depend on the text's length."""

import numpy as np

from rmat_jax.config import IGNORE, RMATConfig
from rmat_jax.evals.look.read import Seen, horizon, mark_ages, turn

# the most bins of a timeline
BINS = 96
# the bins of the content's age: 1, 2..3, 4..7, ... chunks
AGE_BINS = 32


class Timeline:
    """Sums along a sequence of unknown length, in at most BINS bins of equally many steps."""

    def __init__(self):
        self.steps_per_bin = 1
        self._bins: list[np.ndarray] = []
        self._steps = 0

    def add(self, values: np.ndarray) -> None:
        """Adds one step. Every step has the same number of values."""
        if self._steps == BINS * self.steps_per_bin:
            self._bins = [a + b for a, b in zip(self._bins[::2], self._bins[1::2], strict=True)]
            self.steps_per_bin *= 2
        if self._steps % self.steps_per_bin == 0:
            self._bins.append(np.zeros(np.shape(values)))
        self._bins[-1] += values
        self._steps += 1

    def sums(self) -> np.ndarray:
        """The sums, [bins, values]; the last bin may hold fewer steps."""
        return np.array(self._bins)


class Counts:
    """All sums so far over scored tokens. Reads count if the memory held something."""

    def __init__(self, config: RMATConfig):
        layers, heads, chunk = config.num_layers, config.num_heads, config.chunk_len
        self.config = config
        self.chunks = self.tokens = 0
        # bits with memory, and with the memory emptied before each chunk
        self.bits = np.zeros(2)
        self.place_bits_2C, self.place_tokens_C = np.zeros((2, chunk)), np.zeros(chunk)
        # tokens, bits with and without memory; openness and writes; memory's share and reads
        self.time = Timeline()
        # the number of queries that had a memory to read
        self.reads = 0
        # attention by the age of slots
        self.mass_LA = np.zeros((layers, turn(config) + 1))
        # the same if all slots were read alike
        self.even_LA = np.zeros_like(self.mass_LA)
        # attention by the age of what slots held
        self.content_mass_LX, self.content_even_LX = np.zeros((2, layers, AGE_BINS))
        self.share_LC, self.share_reads_C = np.zeros((layers, chunk)), np.zeros(chunk)
        self.share_LH, self.slots_LH = np.zeros((2, layers, heads))
        self.open_LD = np.zeros((layers, config.width))
        writes = config.memory.writes if config.memory else 0
        self.open_LK, self.writes_K = np.zeros((layers, writes)), np.zeros(writes)
        self.left_LA, self.left_A = np.zeros((layers, horizon(config))), np.zeros(horizon(config))

    def add(self, seen: Seen, targets_NC: np.ndarray) -> None:
        """Adds what was seen in more chunks, on the host."""
        scored_NC = targets_NC != IGNORE
        for index in range(int(scored_NC.any(1).sum())):
            chunk = Seen(*(None if x is None else np.asarray(x[index], np.float64) for x in seen))
            self._add(chunk, scored_NC[index])
            self.chunks += 1

    def _add(self, seen: Seen, scored_C: np.ndarray) -> None:
        count, layers = int(scored_C.sum()), self.config.num_layers
        bits_2C = np.stack(
            [seen.loss_C, seen.loss_C if seen.cut_C is None else seen.cut_C]
        ) / np.log(2)
        self.tokens += count
        self.bits += bits_2C.sum(1)
        self.place_bits_2C += bits_2C
        self.place_tokens_C += scored_C
        open_L, writes, share_L, reads = np.zeros(layers), 0, np.zeros(layers), 0
        if self.config.memory and seen.ages_M.any():
            reads = count
            share_L = seen.share_LC[:, scored_C].sum(1)
            self._add_reads(seen, scored_C)
        # a padded chunk's write means nothing
        if self.config.memory and count == len(scored_C):
            self._add_left(seen)
            if self.config.memory.gated:
                open_L, writes = seen.open_LK.sum(1), seen.writes_K.sum()
                self.open_LD += seen.open_LD
                self.open_LK += seen.open_LK
                self.writes_K += seen.writes_K
        self.time.add(np.concatenate([[count], bits_2C.sum(1), open_L, [writes], share_L, [reads]]))

    def _add_reads(self, seen: Seen, scored_C: np.ndarray) -> None:
        count, ages_M, written_M = scored_C.sum(), seen.ages_M.astype(int), seen.ages_M > 0
        even = count / written_M.sum()
        self.reads += int(count)
        for layer in range(self.config.num_layers):
            content_M = np.minimum(np.frexp(seen.content_LM[layer])[1] - 1, AGE_BINS - 1)[written_M]
            mass_M = seen.mass_LM[layer][written_M]
            np.add.at(self.mass_LA[layer], ages_M[written_M], mass_M)
            np.add.at(self.even_LA[layer], ages_M[written_M], even)
            np.add.at(self.content_mass_LX[layer], content_M, mass_M)
            np.add.at(self.content_even_LX[layer], content_M, even)
        self.share_LC[:, scored_C] += seen.share_LC[:, scored_C]
        self.share_reads_C += scored_C
        self.share_LH += seen.share_LH
        self.slots_LH += seen.slots_LH

    def _add_left(self, seen: Seen) -> None:
        (ages_R,) = mark_ages(self.config, self.chunks, 1)
        for age, left_L in zip(ages_R, seen.left_RL, strict=True):
            if age >= 0:
                self.left_LA[:, age] += left_L
                self.left_A[age] += 1

    # The results. They are NaN where nothing was counted.

    @property
    def writes(self) -> int:
        """The number of writes to slots that held something."""
        return int(self.writes_K.sum())

    def means_by_time(self) -> dict[str, np.ndarray]:
        """Means by bin: its middle in `tokens`, bits per token `kept` and `cut`, `open_L`, and
        `share_L`.
        """
        sums, layers = self.time.sums(), self.config.num_layers
        tokens, kept, cut, open_L, writes, share_L, reads = np.split(
            sums, np.cumsum([1, 1, 1, layers, 1, layers]), axis=1
        )
        return {
            "tokens": (tokens.cumsum() - tokens[:, 0] / 2),
            "kept": ratio(kept, tokens)[:, 0],
            "cut": ratio(cut, tokens)[:, 0],
            "open_L": ratio(open_L, writes),
            "share_L": ratio(share_L, reads),
        }

    def retention_LA(self) -> np.ndarray:
        """How much is left of an entry 0, 1, 2, ... chunks after its write, as far as the text's
        length shows.
        """
        known = self.left_A > 0
        return self.left_LA[:, known] / self.left_A[known]

    def read_by_age_LA(self) -> tuple[np.ndarray, np.ndarray]:
        """The share of the memory's attention by the slot's age, 1, 2, ... chunks, and the same if
        all slots were read alike.
        """
        return ratio(self.mass_LA[:, 1:], self.reads), ratio(self.even_LA[:, 1:], self.reads)

    def read_by_content_LX(self) -> tuple[np.ndarray, np.ndarray]:
        """The same by the mean age of what the slot held, 1, 2..3, 4..7, ... chunks, up to the
        oldest.
        """
        last = int(np.flatnonzero(self.content_even_LX.any(0)).max(initial=0)) + 1
        return ratio(self.content_mass_LX[:, :last], self.reads), ratio(
            self.content_even_LX[:, :last], self.reads
        )


def ratio(sums: np.ndarray, counts: np.ndarray | float) -> np.ndarray:
    """Divides sums by counts; NaN where nothing was counted."""
    counts = np.broadcast_to(counts, np.shape(sums))
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
