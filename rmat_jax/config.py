"""Every setting of the project, its default, its check, and the sizes derived from it.

Frozen dataclasses over the standard library only, so that code without JAX can share them. Defaults
are defined here alone. `configs/*.py` start from these values and change some.

May import: errors.
"""

import dataclasses
import difflib
import math
import numbers
import os
import typing

from rmat_jax.errors import UserError

# the version of the settings' names and meanings, saved with every config; see `from_saved`
VERSION = 2
BRANCHES = ("full", "local", "memory")
# a target that is not scored
IGNORE = -1
# the value of a key that one of two configs lacks
ABSENT = "(absent)"
# counts, such as the tokens of a step, are 32-bit integers on the devices and stay below this
COUNTS = 2**31
# the most layers, more than any model has, so that a loop over layers stays short
LAYERS = 10_000
# the most parameters, 4 TiB of float32, more than any machine holds
PARAMETERS = 2**40


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


class _Section:
    """The checks that sections share. `PREFIX` is the text that a user types before a key."""

    PREFIX: typing.ClassVar[str] = ""

    def _named(self, name: str) -> str:
        return f"{self.PREFIX}{name}={typed(getattr(self, name))}"

    def _check(self, condition: bool, name: str, rule: str) -> None:
        _check(condition, f"{self._named(name)} {rule}")

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        listed = ", ".join(choices)
        self._check(getattr(self, name) in choices, name, f"is not one of {listed}")

    def _positive(self, *names: str) -> None:
        for name in names:
            self._check(getattr(self, name) > 0, name, "must be positive")
            self._countable(name)

    def _not_negative(self, *names: str, meaning: str = "") -> None:
        for name in names:
            self._check(getattr(self, name) >= 0, name, "must not be negative" + meaning)
            self._countable(name)

    def _countable(self, name: str) -> None:
        value = getattr(self, name)
        self._check(not isinstance(value, int) or value < COUNTS, name, f"must be below {COUNTS}")

    def _fraction(self, *names: str) -> None:
        for name in names:
            self._check(0 <= getattr(self, name) < 1, name, "must lie in [0, 1)")

    def _fill(self, name: str, used: bool, where: str) -> None:
        """Fills in a setting that is used. One that is not used must not be set."""
        if used and getattr(self, name) is None:
            field = next(f for f in dataclasses.fields(self) if f.name == name)
            object.__setattr__(self, name, field.metadata["default"])
        self._check(
            used or getattr(self, name) is None, name, f"has no effect {where}; leave it out"
        )


def typed(value: typing.Any) -> str:
    """Returns a value as a user types it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"


def tokenizer_kind(tokenizer: str) -> str:
    """Returns the kind of `data.tokenizer`: its word, or "file" for a path."""
    path = "/" in tokenizer or tokenizer.endswith((".json", ".model"))
    return "file" if path else tokenizer


def _check_divides(small: str, small_value: int, large: str, large_value: int) -> None:
    if large_value % small_value:
        low = [d for d in range(1, math.isqrt(large_value) + 1) if large_value % d == 0]
        divisors = {*low, *(large_value // d for d in low)}
        below = max((d for d in divisors if d < small_value), default=0)
        above = min((d for d in divisors if d > small_value), default=0)
        near = [d for d in (below, above) if d]
        tried = " or ".join(f"{small}={d}" for d in near)
        raise UserError(f"{small}={small_value} must divide {large}={large_value}; try {tried}")


def divisor(number: int, most: int) -> int:
    """Returns the largest divisor of a number that is at most `most`, and at least 1."""
    return max(d for d in range(1, max(min(most, number), 1) + 1) if number % d == 0)


@dataclasses.dataclass(frozen=True)
class Local(_Section):
    """The local branch: each token sees the W tokens up to itself."""

    PREFIX = "model.local."

    # [W] The number of tokens that each token sees, itself included. None: the largest power of two
    # up to 64 that divides the chunk.
    window: int | None = None
    # Whether the window slides over the chunk's border. False: a chunk is cut into blocks of W
    # tokens, and a token sees its block up to itself.
    sliding: bool = True

    def __post_init__(self):
        self._positive(*["window"] if self.window is not None else [])

    def sized(self, chunk_len: int) -> "Local":
        """Returns a copy with its size filled in."""
        return dataclasses.replace(self, window=self.window or math.gcd(64, chunk_len))


@dataclasses.dataclass(frozen=True)
class Memory(_Section):
    """The memory branch: a first-in-first-out queue of M vectors a layer, carried across chunks."""

    PREFIX = "model.memory."

    # [M] The number of slots in each layer, a multiple of `writes`. None: twice `writes`.
    slots: int | None = None
    # [K] The number of slots that each chunk writes. Each is made from the mean of C / K tokens.
    # None: C, one slot for each token.
    writes: int | None = None
    # What a slot is made of. "inputs": the layer's normalised inputs, read with the layer's key and
    # value projections. "outputs": the layer's outputs, read with separate projections.
    keeps: str = "inputs"
    # How the slots are read. "joint": in the softmax of the first branch, together with the chunk's
    # tokens. "stream": in a separate softmax, as a branch with its own share.
    read: str = "joint"
    # How a new entry is mixed with the slot that it replaces. "slot": by one number a slot. "gru":
    # by a GRU cell, channel by channel. "none": the entry takes the slot's place.
    gate: str = "slot"
    # The gate's bias before training. A positive bias favours the new entry, a negative one the old
    # slot.
    gate_bias: float | None = dataclasses.field(default=None, metadata={"default": 2.2, "start": 1})
    # The bias that each head adds to the scores of the slots, before training. Needs read="joint".
    key_bias: float | None = dataclasses.field(default=None, metadata={"default": -2.0, "start": 1})

    def __post_init__(self):
        self._positive(*(n for n in ("slots", "writes") if getattr(self, n) is not None))
        self._choice("keeps", ("inputs", "outputs"))
        self._choice("read", ("joint", "stream"))
        self._choice("gate", ("slot", "gru", "none"))
        self._fill("gate_bias", self.gated, "with model.memory.gate=none")
        self._fill("key_bias", self.joint, "with model.memory.read=stream")

    def sized(self, chunk_len: int) -> "Memory":
        """Returns a copy with its sizes filled in."""
        writes = self.writes or chunk_len
        return dataclasses.replace(self, writes=writes, slots=self.slots or 2 * writes)

    def check_slots(self) -> None:
        """Raises UserError where `slots` is no multiple of `writes`."""
        if self.slots % self.writes:
            low = max(self.slots // self.writes, 1) * self.writes
            raise UserError(
                f"{self._named('slots')} must be a multiple of {self._named('writes')}; "
                f"try model.memory.slots={low} or {low + self.writes}"
            )

    @property
    def joint(self) -> bool:
        """Whether the first branch's softmax covers the slots together with the chunk's tokens."""
        return self.read == "joint"

    @property
    def keeps_outputs(self) -> bool:
        """Whether entries are made of the layer's outputs, and read with separate projections."""
        return self.keeps == "outputs"

    @property
    def gated(self) -> bool:
        return self.gate != "none"

    def keeps_tokens(self, chunk_len: int) -> bool:
        """Whether an entry is one token's unchanged input, so that its key and value are known."""
        return self.writes == chunk_len and not self.gated and not self.keeps_outputs


def _start(default: typing.Any) -> typing.Any:
    """Makes a field for a setting that trained weights do not depend on."""
    return dataclasses.field(default=default, metadata={"start": 1})


@dataclasses.dataclass(frozen=True)
class RMATConfig(_Section):
    """The model. By default each layer has full attention, local attention and a memory.

    Letters in brackets are the dimensions of `types.py`; docs/architecture.md has the equations.
    `local` and `memory` are None where `branches` leaves them out.
    """

    PREFIX = "model."

    # [V] The number of tokens in the vocabulary. 257: all bytes and the end-of-document token; with
    # a tokenizer from a file, the size of its vocabulary.
    vocab_size: int = 257
    # [D] The width of a token's vector, a multiple of `num_heads`.
    width: int = 256
    # [L] The number of layers.
    num_layers: int = 4
    # [H] The number of attention heads in each layer.
    num_heads: int = 8
    # [F] The hidden width of each MLP. None: four times the width.
    mlp_width: int | None = None
    # [C] The number of tokens in a chunk.
    chunk_len: int = 256
    # The branches of attention: "full" (the chunk so far), "local" (the last tokens), "memory" (the
    # slots). Any of them in this order, but not the memory alone.
    branches: tuple[str, ...] = BRANCHES
    # The settings of the local branch.
    local: Local | None = None
    # The settings of the memory.
    memory: Memory | None = None
    # How positions rotate queries and keys (RoPE). "per_head": each head has all frequencies.
    # "global": the frequencies run once over all heads. "none": nothing is rotated.
    rope: str = "per_head"
    # The base of RoPE's frequencies. The slowest one turns once in about 2 pi times this many
    # positions.
    rope_base: float = 10_000.0
    # Whether a token's vector also holds the token before it: x_t = E[t] + E[t - 1] Wp.
    token_shift: bool = True
    # Whether the output projection uses the embedding's table.
    tie_embeddings: bool = False
    # The fraction of activations that training sets to zero.
    dropout: float = _start(0.0)
    # The type of the activations: "float32", "bfloat16" or "float64".
    dtype: str = "float32"
    # What the backward pass computes again, to save memory. "none": nothing. "block": each layer,
    # except the results of attention. "chunk": each group of chunks. "chunk+block": both.
    remat: str = _start("none")
    # The code that computes attention over whole chunks: "obvious", "xla", "cudnn" (NVIDIA),
    # "splash" (TPU), or "auto", the fastest that fits.
    attention: str = _start("auto")
    # [G] The largest number of chunks that the layers read at once. None: as many as suit the
    # hardware. It is 1 where the memory keeps outputs.
    chunks_at_once: int | None = _start(None)

    def __post_init__(self):
        self._positive("vocab_size", "width", "num_layers", "num_heads", "chunk_len")
        self._check(self.num_layers <= LAYERS, "num_layers", f"must be at most {LAYERS:,}")
        if self.mlp_width is None:
            object.__setattr__(self, "mlp_width", 4 * self.width)
        self._positive("mlp_width")
        self._positive("rope_base")
        if self.width % self.num_heads:
            low = self.width // self.num_heads * self.num_heads
            near = " or ".join(str(n) for n in (low, low + self.num_heads) if n)
            raise UserError(
                f"{self._named('width')} must be a multiple of {self._named('num_heads')}; "
                f"try model.width={near}"
            )
        chunk = self.chunk_len
        object.__setattr__(self, "branches", tuple(self.branches))
        listed = ",".join(BRANCHES)
        self._check(bool(self.branches), "branches", f"is empty; name at least one of {listed}")
        for branch in self.branches:
            rule = f"names {branch!r}, which is not one of {listed}"
            self._check(branch in BRANCHES, "branches", rule)
        ordered = tuple(b for b in BRANCHES if b in self.branches)
        rule = f"must be in this order, each once: {','.join(ordered)}"
        self._check(self.branches == ordered, "branches", rule)
        rule = "never reads the chunk itself; add full or local"
        self._check(self.branches != ("memory",), "branches", rule)
        self._fill_groups()
        if self.local and not self.local.sliding:
            _check_divides("model.local.window", self.local.window, "model.chunk_len", chunk)
        if self.memory:
            _check_divides("model.memory.writes", self.memory.writes, "model.chunk_len", chunk)
            self.memory.check_slots()
        layer = self.width * (4 * self.width + 2 * self.mlp_width)
        size = 2 * self.vocab_size * self.width + self.num_layers * layer
        rule = f"makes more than {PARAMETERS:,} parameters with model.width={self.width}; try less"
        self._check(size <= PARAMETERS, "num_layers", rule)
        self._choice("rope", ("per_head", "global", "none"))
        self._choice("remat", ("none", "block", "chunk", "chunk+block"))
        self._choice("dtype", ("float32", "bfloat16", "float64"))
        self._fraction("dropout")
        self._choice("attention", ("auto", "obvious", "xla", "cudnn", "splash"))
        if self.chunks_at_once is not None:
            self._positive("chunks_at_once")
            rule = (
                "must be 1 with model.memory.keeps=outputs, whose memory needs the layer's output"
            )
            self._check(self.chunks_at_once == 1 or not self._waits, "chunks_at_once", rule)
        rule = f"leaves heads of {self.head_dim}, which must be even to be rotated; change it"
        self._check(self.rope == "none" or self.head_dim % 2 == 0, "num_heads", rule)

    def _fill_groups(self) -> None:
        """Fills in `local` and `memory` where their branch is on; elsewhere they must be None."""
        for name, default in (("local", Local), ("memory", Memory)):
            group, used = getattr(self, name), name in self.branches
            if group is not None and not used:
                raise UserError(
                    f"model.{name} has no effect with {self._named('branches')}; "
                    f"add {name} to the branches, or leave model.{name} out"
                )
            if used:
                group = (group or default()).sized(self.chunk_len)
            object.__setattr__(self, name, group)

    @property
    def head_dim(self) -> int:
        """[E] = D / H."""
        return self.width // self.num_heads

    @property
    def run_len(self) -> int:
        """The number of tokens of which one entry is the mean, C / K."""
        return self.chunk_len // self.memory.writes

    @property
    def _waits(self) -> bool:
        """Whether a layer needs its outputs at one chunk before it can read the next."""
        return self.memory is not None and self.memory.keeps_outputs

    def at_once(self, chunks: int, most: int) -> int:
        """[G] Returns how many chunks of a call are read at once, a divisor of their number.

        Args:
            chunks: the number of chunks of the call.
            most: the limit where `chunks_at_once` is None.
        """
        return divisor(chunks, 1 if self._waits else self.chunks_at_once or most)

    @property
    def carries_window(self) -> bool:
        """Whether the last W keys and values cross the chunk's border."""
        return self.local is not None and self.local.sliding

    @property
    def fused(self) -> tuple[str, ...]:
        """The branches that have a share: all, except a memory that is read jointly."""
        joint = self.memory is not None and self.memory.joint
        return tuple(b for b in self.branches if b != "memory" or not joint)

    @property
    def param_dtype(self) -> str:
        """The dtype of parameters, memory, gates, softmax and logits: float32, or float64 if
        `dtype` is.
        """
        return "float64" if self.dtype == "float64" else "float32"

    def meaning(self) -> dict[str, typing.Any]:
        """Returns the settings that weights and saved states depend on, nested, ready for JSON."""
        return _without_starts(self)


def _without_starts(config: typing.Any) -> dict[str, typing.Any]:
    out = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "start" not in field.metadata:
            out[field.name] = _without_starts(value) if dataclasses.is_dataclass(value) else value
    return out


# The literal reading of arXiv 2507.00453, with its chunk of 512 tokens. The sizes are our choice.
PAPER = RMATConfig(
    chunk_len=512,
    local=Local(window=64, sliding=True),
    memory=Memory(slots=512, writes=64, keeps="outputs", read="stream", gate="gru", gate_bias=-2.0),
    token_shift=False,
)
# A plain queue of the last 2 C tokens' vectors, read in the softmax of the chunk.
QUEUE = RMATConfig(branches=("full", "memory"), memory=Memory(gate="none"))
# Transformer-XL (arXiv 1901.02860): each token sees the last W tokens across the chunk's border.
TRANSFORMER_XL = RMATConfig(branches=("local",), local=Local(window=256))
# A plain decoder whose context is one chunk.
FULL_ATTENTION = RMATConfig(branches=("full",), chunk_len=1024)


@dataclasses.dataclass(frozen=True)
class DataConfig(_Section):
    """The text to read. Without `path`, `mixture`, `tfds` and `synthetic` it is the source code of
    the Python standard library.
    """

    PREFIX = "data."

    # A file, or a folder of files: text, JSON lines, CSV, parquet or Arrow, also as .gz or .zst.
    path: str = ""
    # Several files or folders in place of `path`, each with its share of the tokens, such as
    # "books/:0.7,code/:0.3".
    mixture: str = ""
    # The held-out file or folder. Without it `heldout_fraction` of `path` is held out.
    heldout_path: str = ""
    # A pattern for the names of the files of a folder to read, such as "*.txt".
    pattern: str = "*"
    # The format of the files. "auto": it is found from each file's first bytes and name. "text":
    # plain text. "messages": rows are dialogues, or prompts with answers, and the loss is on the
    # answers alone.
    format: str = "auto"
    # The field of a row that holds the text. Empty: "text", or else the only text field.
    feature: str = ""
    # A dataset of TensorFlow Datasets, such as pg19 or lm1b.
    tfds: str = ""
    # The split to train on; it may be a slice, such as "train[:10%]".
    tfds_train: str = "train"
    # The split that is held out.
    tfds_heldout: str = "validation"
    # The folder that holds the dataset, or to which it is downloaded. Empty: the default of TFDS.
    tfds_dir: str = ""
    # Synthetic documents instead of text. "recall": a document states key-value pairs and asks for
    # the values in its last chunk. Empty: there are none.
    synthetic: str = ""
    # Whether the text is cut into documents that state a number and ask for it at their end. Only
    # the number's digits are scored.
    passkey: bool = False
    # The mean number of other numbers in each chunk before the question.
    passkey_decoys: float = 0.0
    # The number of key-value pairs in a document.
    recall_pairs: int = 4
    # The mean number of times that the keys were told before, with other values. The last values
    # count.
    recall_updates: float = 0.0
    # The number of whole chunks between the chunk with the facts and the one that asks.
    recall_gap: int = 4
    # Where the facts stand. "first": in the first chunk. "any": in any chunk, with the logarithm of
    # the distance uniformly distributed. "even": in any chunk, with the distance so distributed.
    recall_place: str = "first"
    # The number of distinct keys, and of distinct values. One guess in this many is right.
    recall_symbols: int = 8
    # The fraction of the text that is held out where `heldout_path` is empty.
    heldout_fraction: float = 0.05
    # The tokenizer: "bytes", "bpe" or "words" (the last two are made from the text, with
    # model.vocab_size entries), or the path of a tokenizer.json, its folder, or a .model of
    # sentencepiece. The workdir keeps a copy.
    tokenizer: str = "bytes"
    # The seed of the order of documents.
    seed: int = 0

    def __post_init__(self):
        named = [name for name in ("path", "mixture", "tfds", "synthetic") if getattr(self, name)]
        _check(len(named) <= 1, f"data.{' and data.'.join(named)} are both set; give one source")
        files = bool(self.path or self.shares)
        _check(
            files or not self.heldout_path, "data.heldout_path is set without data.path; give both"
        )
        cuts = self.passkey and bool(self.mixture)
        self._check(not cuts, "passkey", "cuts one text, not a data.mixture; give data.path")
        self._choice("synthetic", ("", "recall"))
        both = self.passkey and bool(self.synthetic)
        self._check(not both, "passkey", "needs text, data.synthetic has none; give one of them")
        self._choice("recall_place", ("first", "any", "even"))
        self._check(
            self.tokenizer in ("bytes", "bpe", "words") or self.tokenizer_kind == "file",
            "tokenizer",
            "is not one of bytes, bpe, words, and no path; write a folder as ./NAME",
        )
        self._choice("format", ("auto", "text", "messages"))
        rule = "reads records of data.path or data.mixture; give one, without data.passkey"
        self._check(not self.answers_only or (files and not self.passkey), "format", rule)
        self._fraction("heldout_fraction")
        self._positive("recall_pairs", "recall_symbols")
        self._not_negative("seed", "passkey_decoys", "recall_updates", "recall_gap")
        fits = self.passkey or not self.passkey_decoys
        self._check(fits, "passkey_decoys", "needs data.passkey=True")
        fits = not self.recall_updates or (bool(self.synthetic) and self.recall_place != "first")
        rule = "needs data.synthetic=recall with facts in any chunk; set data.recall_place=any"
        self._check(fits, "recall_updates", rule)
        self._check(
            self.recall_pairs <= self.recall_symbols,
            "recall_pairs",
            f"must not exceed {self._named('recall_symbols')}: keys are distinct",
        )

    @property
    def tokenizer_kind(self) -> str:
        """The kind of `tokenizer`, see `tokenizer_kind`."""
        return tokenizer_kind(self.tokenizer)

    @property
    def scores_text(self) -> bool:
        """Whether a text is scored, in bits. Else synthetic answers are scored, by accuracy."""
        return not (self.synthetic or self.passkey)

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """The paths of `mixture` and their weights, which add up to 1."""
        found = []
        for item in filter(None, self.mixture.split(",")):
            path, colon, weight = item.rpartition(":")
            try:
                found.append((path, float(weight)))
            except ValueError:
                colon = ""
            if not (colon and path):
                raise UserError(
                    f"data.mixture names {item!r}, which must be PATH:WEIGHT, such as books/:0.7"
                )
            if not 0 < found[-1][1] < math.inf:
                raise UserError(
                    f"data.mixture gives {path} the weight {weight}, which must be a positive "
                    "number; leave out what shall not be read"
                )
        total = sum(weight for _, weight in found)
        return tuple((path, weight / total) for path, weight in found)

    @property
    def answers_only(self) -> bool:
        """Whether only the answers of dialogues are scored."""
        return self.format == "messages"

    @property
    def choices(self) -> int:
        """The number of values that a synthetic answer, or a digit of a pass key, can have."""
        return 10 if self.passkey else self.recall_symbols


OPTIMISERS = ("adamw", "muon", "adafactor", "lion", "schedule_free")


def _following(default: float) -> typing.Any:
    """Makes a field whose default and use depend on another setting."""
    return dataclasses.field(default=None, metadata={"default": default})


@dataclasses.dataclass(frozen=True)
class OptimConfig(_Section):
    """The optimiser, its schedule, and what happens at bad steps."""

    PREFIX = "optim."

    # The optimiser: "adamw" (arXiv 1711.05101), "muon" (kellerjordan.github.io/posts/muon; AdamW
    # for embedding, output table and vectors), "adafactor" (arXiv 1804.04235, without relative
    # steps), "lion" (arXiv 2302.06675) or "schedule_free" (AdamW, arXiv 2405.15682; its average is
    # used).
    name: str = "adamw"
    # The peak of the learning rate. docs/training.md compares rates for each optimiser.
    learning_rate: float = 1e-3
    # The learning rate after the warm-up. "cosine": it falls until the last step. "wsd": it stays
    # at the peak and falls linearly in the last tenth of the steps (arXiv 2405.18392). "constant":
    # it stays at the peak.
    schedule: str = "cosine"
    # The learning rate of the last step, as a fraction of the peak. A constant schedule ignores it.
    final_fraction: float = 0.1
    # The steps in which the learning rate rises from 0 to its peak.
    warmup_steps: int = 100
    # Decoupled weight decay. Norms, biases, gates and fusion weights have none.
    weight_decay: float = 0.1
    # The decay of the first moment. With "schedule_free" it is the weight of the average, with
    # "lion" the weight of the momentum in the step. None: 0.9. "adafactor" has none.
    beta1: float | None = _following(0.9)
    # The decay of the second moment. With "lion" it is the decay of the momentum. None: 0.95, with
    # "lion" 0.99. "adafactor" has none.
    beta2: float | None = _following(0.95)
    # The largest global norm of the gradient. A gradient with a larger norm is scaled down to it.
    clip_norm: float = 1.0
    # The decay of a moving average of the weights, such as 0.999. The average is then evaluated and
    # used. 0: there is no average.
    ema: float = 0.0
    # What to do at a gradient that is not finite. "stop": end the run. "skip": skip the update.
    # "rollback": restore the last checkpoint, and skip the data that was read since.
    bad_step: str = "stop"
    # With "skip" and "rollback", a gradient is also bad when its norm lies this many standard
    # deviations above the mean of the last norms.
    bad_step_sigmas: float = 6.0

    def __post_init__(self):
        self._choice("name", OPTIMISERS)
        betas, where = self.name != "adafactor", "with optim.name=adafactor"
        if self.name == "lion" and self.beta2 is None:
            object.__setattr__(self, "beta2", 0.99)
        self._fill("beta1", betas, where)
        self._fill("beta2", betas, where)
        self._positive("learning_rate", "clip_norm", "bad_step_sigmas")
        self._choice("bad_step", ("stop", "skip", "rollback"))
        self._choice("schedule", ("cosine", "wsd", "constant"))
        self._fraction("ema", *["beta1", "beta2"] * betas)
        averages = self.name == "schedule_free"
        self._check(
            not averages or self.schedule == "constant",
            "schedule",
            "falls, and optim.name=schedule_free needs a rate that does not; give "
            "optim.schedule=constant",
        )
        rule = "must be positive with optim.name=schedule_free"
        self._check(not averages or self.beta1 > 0, "beta1", rule)
        rule = "averages what optim.name=schedule_free has averaged; leave one of them out"
        self._check(not (averages and self.ema), "ema", rule)
        self._not_negative("warmup_steps", "weight_decay")
        self._check(0 <= self.final_fraction <= 1, "final_fraction", "must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class MeshConfig(_Section):
    """How devices share the work. Training computes the same on any mesh, so the mesh may change
    when a run resumes.

    The lanes of the batch are spread over data * fsdp devices. The axis `data` copies parameters
    and optimiser state, `fsdp` divides them, and `tensor` divides them and the matrix products of
    each lane. `context` copies parameters and divides each lane's time. `sharding.py` has the
    rules.
    """

    PREFIX = "mesh."

    # The number of devices that divide the lanes. 0: all devices that the other axes leave.
    data: int = 0
    # The number of devices that divide parameters, optimiser state and lanes.
    fsdp: int = 1
    # The number of devices that divide each matrix product. They should be neighbours, since they
    # communicate in every layer.
    tensor: int = 1
    # The number of devices that divide each lane's time. Each reads some chunks and hands its
    # memory to the next.
    context: int = 1
    # The way to use several devices. "jit": jax.jit with shardings. "pmap": jax.pmap over `data`
    # alone, for the devices of one process.
    parallelism: str = "jit"

    def __post_init__(self):
        self._not_negative("data", meaning="; 0 stands for all devices that are left")
        self._positive("fsdp", "tensor", "context")
        self._choice("parallelism", ("jit", "pmap"))
        self._check(
            self.parallelism == "jit" or self.fsdp == self.tensor == self.context == 1,
            "parallelism",
            f"copies all parameters to every device, so it needs {self._named('fsdp')}, "
            f"{self._named('tensor')} and {self._named('context')} to be 1; use "
            "mesh.parallelism=jit",
        )

    def sizes(self, count: int) -> dict[str, int]:
        """Returns the size of each axis for `count` devices, the outermost axis first."""
        others = self.fsdp * self.tensor * self.context
        data = self.data or max(count // others, 1)
        return {"data": data, "fsdp": self.fsdp, "context": self.context, "tensor": self.tensor}


TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclasses.dataclass(frozen=True)
class LogConfig(_Section):
    """Records, evaluations and checkpoints. They do not touch the training, so they may change when
    a run resumes.
    """

    PREFIX = "log."

    # The steps between two records in metrics.jsonl and the trackers.
    every: int = 20
    # The seconds between two progress lines.
    seconds: float = 5.0
    # The steps between two evaluations. 0: only at the end.
    eval_every: int = 500
    # The steps between two checkpoints. 0: only at the end.
    save_every: int = 500
    # The number of newest checkpoints to keep. The one with the lowest training loss is kept too.
    keep: int = 2
    # Whether the checkpoint with the lowest held-out loss is kept too. `--step=best` uses it.
    keep_best: bool = True
    # The run ends after this many evaluations without a lower held-out loss. 0: it ends at the last
    # step.
    patience: int = 0
    # The length in tokens of the sample that is written after each evaluation. 0: no sample.
    sample_tokens: int = 256
    # The text with which a sample begins. Empty: the start of a document.
    sample_prompt: str = ""
    # The trackers that show the records: any of "tensorboard", "wandb" and "trackio".
    trackers: tuple[str, ...] = ("tensorboard",)
    # Two steps, START:STOP. The steps between them are traced for TensorBoard's profiler. Empty:
    # nothing is traced.
    profile: str = ""

    def __post_init__(self):
        rule = "must be START:STOP, two steps such as 10:13, START before STOP"
        self._check(not self.profile or self.traced is not None, "profile", rule)
        object.__setattr__(self, "trackers", tuple(self.trackers))
        for tracker in self.trackers:
            rule = f"names {tracker!r}; name each of {', '.join(TRACKERS)} at most once"
            self._check(tracker in TRACKERS and self.trackers.count(tracker) == 1, "trackers", rule)
        self._positive("every", "keep")
        self._not_negative("seconds", "eval_every", "save_every", "sample_tokens", "patience")
        rule = "needs log.eval_every above 0: without evaluations it cannot count them"
        self._check(not self.patience or self.eval_every > 0, "patience", rule)

    @property
    def traced(self) -> tuple[int, int] | None:
        """The steps between which a trace is made."""
        start, colon, stop = self.profile.partition(":")
        if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
            return None
        return int(start), int(stop)


@dataclasses.dataclass(frozen=True)
class Config(_Section):
    """The settings of one training run."""

    model: RMATConfig = RMATConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    log: LogConfig = LogConfig()
    # The number of optimiser steps.
    steps: int = 1000
    # [B] The number of lanes, the rows of a batch. Each lane is an endless stream of documents.
    batch_size: int = 8
    # [N] The number of chunks of each lane that one optimiser step reads.
    chunks_per_step: int = 4
    # The number of parts of a batch that a device computes one after the other, to save memory.
    # Their gradients are added up.
    accumulation: int = 1
    # The number of tokens of held-out text that an evaluation reads.
    eval_tokens: int = 65_536
    # The number of lanes of an evaluation. With an equal number, runs of any batch_size are scored
    # on the same text.
    eval_batch_size: int = 8
    # The seed of the parameters and of dropout.
    seed: int = 0

    def __post_init__(self):
        self._not_negative("seed")
        self._positive("steps", "batch_size", "chunks_per_step", "accumulation")
        if self.model.chunks_at_once is not None:
            names = "model.chunks_at_once", "chunks_per_step"
            _check_divides(names[0], self.model.chunks_at_once, names[1], self.chunks_per_step)
        self._positive("eval_tokens", "eval_batch_size")
        _check_divides("accumulation", self.accumulation, "batch_size", self.batch_size)
        tokens = self.batch_size * self.segment_len
        rule = f"makes {tokens:,} tokens a step, which must be below {COUNTS:,}"
        self._check(tokens < COUNTS, "batch_size", rule)
        warmup = self.optim.warmup_steps
        _check(
            warmup < self.steps,
            f"optim.warmup_steps={warmup} must be below steps={self.steps}; "
            f"try optim.warmup_steps={self.steps // 10}",
        )

    @property
    def segment_len(self) -> int:
        """[T] = N C, the tokens of each lane that one step reads."""
        return self.chunks_per_step * self.model.chunk_len


def to_dict(config: typing.Any) -> dict[str, typing.Any]:
    """Returns a config as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(
    cls: type, values: typing.Mapping[str, typing.Any], prefix: str | None = None
) -> typing.Any:
    """Makes the frozen config `cls` from nested plain values; a missing key keeps its default.

    Keys of a part that is switched off are ignored. A config file may set them for users who switch
    the part on.

    Args:
        cls: a dataclass of this file.
        values: the values by key; a group may be None.
        prefix: the text that a user types before a key, for the errors; None: that of `cls`.

    Raises:
        UserError: a key that `cls` does not have, a value of the wrong type, or one against a rule.
    """
    prefix = getattr(cls, "PREFIX", "") if prefix is None else prefix
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints, kwargs = typing.get_type_hints(cls), {}
    for key, value in _switched_on(cls, values).items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise UserError(f"no config has the key {prefix}{key}{hint}")
        kwargs[key] = _value(f"{prefix}{key}", value, hints[key], fields[key])
    return cls(**kwargs)


def _switched_on(
    cls: type, values: typing.Mapping[str, typing.Any]
) -> typing.Mapping[str, typing.Any]:
    """Returns the values without the keys of parts that they switch off."""
    off = set()
    if cls is RMATConfig:
        off = {"local", "memory"} - set(_parts(values.get("branches", BRANCHES)))
    if cls is Memory:
        off |= {"gate_bias"} if values.get("gate") == "none" else set()
        off |= {"key_bias"} if values.get("read") == "stream" else set()
    if cls is OptimConfig:
        off |= {"beta1", "beta2"} if values.get("name") == "adafactor" else set()
    return {key: value for key, value in values.items() if key not in off}


def unused(values: typing.Mapping[str, typing.Any]) -> dict[str, str]:
    """Returns the keys of a nested Config without effect, with the setting that disables each."""
    model = values.get("model", {})
    kept, found = _switched_on(RMATConfig, model), {}
    for name in ("local", "memory"):
        if name in model and name not in kept:
            found[f"model.{name}"] = f"model.branches={typed(_parts(model['branches']))}"
    memory = kept.get("memory") or {}
    for name, by in (("gate_bias", "gate"), ("key_bias", "read")):
        if name in memory and name not in _switched_on(Memory, memory):
            found[f"model.memory.{name}"] = f"model.memory.{by}={memory[by]}"
    optim = values.get("optim", {})
    for name in optim.keys() - _switched_on(OptimConfig, optim).keys():
        found[f"optim.{name}"] = f"optim.name={optim['name']}"
    return found


def _parts(value: typing.Any, key: str = "model.branches") -> tuple[str, ...]:
    """Returns the items of a list, which may be one string with commas."""
    items = [value] if isinstance(value, str) else value
    try:
        return tuple(part for item in items for part in item.split(",") if part)
    except (TypeError, AttributeError):
        raise UserError(
            f"{key}={value!r} must be a list of words, with commas between them"
        ) from None


def _value(key: str, value: typing.Any, hint: typing.Any, field: dataclasses.Field) -> typing.Any:
    """Converts a plain value to the type of a field. Raises UserError."""
    kinds = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    kind = next(k for k in kinds if k is not type(None))
    if value is None and len(kinds) > 1:
        return None
    if dataclasses.is_dataclass(kind):
        if dataclasses.is_dataclass(value):
            return value
        _check(isinstance(value, typing.Mapping), f"{key}={value!r} must be a group of settings")
        return from_dict(kind, value)
    if typing.get_origin(kind) is tuple:
        return _parts(value, key)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        _check(math.isfinite(value), f"{key}={value} must be a finite number")
        return float(value)
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    names = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    default = field.metadata.get("default", field.default)
    raise UserError(f"{key}={value!r} must be {names[kind]}, such as {default!r}")


def to_saved(config: typing.Any) -> dict[str, typing.Any]:
    """Returns `to_dict` with the version, to be written to disk."""
    return {"version": VERSION} | to_dict(config)


def from_saved(cls: type, values: typing.Mapping[str, typing.Any], what: str) -> typing.Any:
    """Reads the config that `to_saved` wrote.

    Args:
        cls: Config or RMATConfig.
        values: the result of `to_saved`.
        what: the place that the values come from, for the error.

    Raises:
        UserError: another version wrote them.
    """
    found = values.get("version", 1)  # version 1 wrote no number
    if found != VERSION:
        raise UserError(
            f"{what} was saved by version {found} of rmat_jax's settings, this is version "
            f"{VERSION}; use the code that saved it, or train anew"
        )
    return from_dict(cls, {key: value for key, value in values.items() if key != "version"})


def differences(
    there: typing.Mapping[str, typing.Any],
    here: typing.Mapping[str, typing.Any],
    ignore: tuple[str, ...] = (),
) -> list[tuple[str, typing.Any, typing.Any]]:
    """Compares two `to_dict` configs. Returns their differences: (dotted key, value there, here).

    Keys and groups in `ignore` are skipped. Where only one config has a key, the value of the other
    is ABSENT. Tuples equal lists, since JSON has no tuples.
    """

    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, typing.Mapping):
                yield from flat(value, f"{prefix}{key}.")
            elif not any(f"{prefix}{key}.".startswith(f"{group}.") for group in ignore):
                yield (
                    f"{prefix}{key}",
                    ",".join(map(str, value)) if isinstance(value, list | tuple) else value,
                )

    there, here = dict(flat(there)), dict(flat(here))
    found = [(key, there.get(key, ABSENT), here.get(key, ABSENT)) for key in here | there]
    return [(key, was, now) for key, was, now in found if was != now]
