"""Every setting of the project, its default, its check, and the sizes derived from it.

Frozen dataclasses over the standard library only, so that code without JAX can share them. This is
the one home of each default: `configs/*.py` start from these values and change some, nobody
downstream guesses one.
"""

import dataclasses
import math
import typing

from rmat_jax.errors import UserError

STREAMS = ("full", "local", "memory")
# what arXiv 2507.00453 says where the defaults of RMATConfig are others, which docs/results.md
# compares
PAPER = {
    "streams": STREAMS,
    "fusion": "layer",
    "gate": "evicted",
    "gate_form": "gru",
    "gate_scope": "channel",
    "gate_curve": "sigmoid",
    "memory_source": "output",
    "memory_age": "none",
    "token_shift": False,
}
# runs older than a key did this
BEFORE = {
    key: PAPER[key]
    for key in ("fusion", "gate_form", "gate_scope", "gate_curve", "memory_source", "token_shift")
}
# a target that is not scored
IGNORE = -1
# Of RMATConfig: trained weights compute the same with any.
TRAINING_ONLY = ("dropout", "gate_bias", "gate_noise", "memory_bias", "bptt_chunks", "remat")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def _check_divides(small: str, small_value: int, large: str, large_value: int) -> None:
    if large_value % small_value:
        near = [d for d in range(1, large_value + 1) if large_value % d == 0]
        near = sorted(near, key=lambda d: abs(d - small_value))[:2]
        raise UserError(
            f"{small}={small_value} must divide {large}={large_value}; try {small}={' or '.join(map(str, sorted(near)))}"
        )


def _check_positive(owner: object, *names: str) -> None:
    for name in names:
        _check(getattr(owner, name) > 0, f"{name}={getattr(owner, name)} must be positive")


def _check_fraction(owner: object, *names: str) -> None:
    for name in names:
        _check(0 <= getattr(owner, name) < 1, f"{name}={getattr(owner, name)} must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class RMATConfig:
    """The model. Letters in brackets are the dimension key of `types.py`; docs/architecture.md has
    the equations.
    """

    # [V]; 257 = bytes and the end-of-document token
    vocab_size: int = 257
    # [D]
    width: int = 256
    # [L]
    num_layers: int = 4
    # [H]
    num_heads: int = 8
    # [F]; 0: four times the width
    mlp_width: int = 0
    # [C] tokens
    chunk_len: int = 256
    # [W] tokens; divides chunk_len
    window_len: int = 64
    # [M] vectors a layer; 0: twice the chunk
    memory_slots: int = 0
    # [K] slots written a chunk; divides chunk_len; 0: chunk_len, a slot for each token
    memory_writes: int = 0
    # of "full", "local", "memory"
    streams: tuple[str, ...] = ("full", "memory")
    fusion: str = (
        # slots stand in the first stream's softmax; "layer": each stream has a weight; "head": for
        # each head
        "joint"
    )
    # fusion="joint": start of what each head adds to the scores of the slots
    memory_bias: float = -2.0
    window: str = (
        # "block": W-token blocks inside the chunk; "sliding": the last W tokens, across the chunk's
        # border
        "block"
    )
    # "evicted" | "newest" | "none": what a new memory entry is gated against
    gate: str = "none"
    # the new entry itself is the candidate, (1 - z) e + z s; "gru": made of both
    gate_form: str = "blend"
    # one z for a whole slot; "channel": one for each of its channels
    gate_scope: str = "slot"
    # 1.2 sigmoid - 0.1 within [0, 1], so that a slot can be kept for ever; "sigmoid"
    gate_curve: str = "clipped"
    # start of the update gate's bias; negative keeps what the slot holds
    gate_bias: float = -2.0
    # standard deviation of what training adds to the update gate's logits, for a margin
    gate_noise: float = 0.0
    # "mean": of each run of C/K tokens; "attention": K learned queries over the chunk
    memory_pool: str = "mean"
    # a layer's inputs, read with its keys; "output": its outputs, read with their own
    memory_source: str = "input"
    # memory keys are rotated by their age in tokens; "rotary": in chunks; "none"
    memory_age: str = "tokens"
    # "per_head" | "global" | "none"
    rope: str = "per_head"
    rope_base: float = 10_000.0
    # a token's vector also holds the token before it: x_t = E[t] + E[t - 1] Wp
    token_shift: bool = True
    # the output table is the embedding's
    tie_embeddings: bool = False
    dropout: float = 0.0
    # chunks that back-propagation through memory spans; 0: all of a call
    bptt_chunks: int = 0
    # "block" | "chunk" | "chunk+block": what the backward pass computes again
    remat: str = "none"
    # of the activations: "float32" | "bfloat16" | "float64"
    dtype: str = "float32"

    def __post_init__(self):
        _check_positive(
            self, "vocab_size", "width", "num_layers", "num_heads", "chunk_len", "window_len"
        )
        _check_positive(self, "rope_base")
        for name, meaning in (
            ("mlp_width", "four times the width"),
            ("memory_slots", "twice the chunk"),
            ("memory_writes", "every token of the chunk"),
            ("bptt_chunks", "all chunks"),
        ):
            value = getattr(self, name)
            _check(value >= 0, f"{name}={value} must not be negative; 0 stands for {meaning}")
        if self.width % self.num_heads:
            low = self.width // self.num_heads * self.num_heads
            near = " or ".join(str(n) for n in (low, low + self.num_heads) if n)
            raise UserError(
                f"width={self.width} must be a multiple of num_heads={self.num_heads}; try width={near}"
            )
        _check(
            bool(self.streams), "streams is empty; name at least one of 'full', 'local', 'memory'"
        )
        for stream in self.streams:
            _check_choice("streams", stream, STREAMS)
        ordered = tuple(s for s in STREAMS if s in self.streams)
        _check(
            self.streams == ordered,
            f"streams={self.streams} must be in this order, each once: {ordered}",
        )
        _check(
            self.streams != ("memory",),
            "streams=('memory',) never reads the chunk itself; add 'full' or 'local'",
        )
        if "local" in self.streams:
            _check_divides("window_len", self.window_len, "chunk_len", self.chunk_len)
        if self.has_memory:
            _check_divides("memory_writes", self.writes, "chunk_len", self.chunk_len)
            _check(
                self.writes <= self.slots,
                f"memory_writes={self.writes} must not exceed memory_slots={self.slots}; write fewer, or keep more",
            )
        _check_choice("window", self.window, ("block", "sliding"))
        _check_choice("fusion", self.fusion, ("layer", "head", "joint"))
        _check_choice("gate", self.gate, ("evicted", "newest", "none"))
        _check_choice("gate_form", self.gate_form, ("gru", "blend"))
        _check_choice("gate_scope", self.gate_scope, ("channel", "slot"))
        _check_choice("gate_curve", self.gate_curve, ("sigmoid", "clipped"))
        _check_choice("memory_pool", self.memory_pool, ("mean", "attention"))
        _check_choice("memory_source", self.memory_source, ("output", "input"))
        _check_choice("memory_age", self.memory_age, ("none", "rotary", "tokens"))
        _check_choice("rope", self.rope, ("per_head", "global", "none"))
        _check_choice("remat", self.remat, ("none", "block", "chunk", "chunk+block"))
        _check_choice("dtype", self.dtype, ("float32", "bfloat16", "float64"))
        _check_fraction(self, "dropout")
        _check(self.gate_noise >= 0, f"gate_noise={self.gate_noise} must not be negative")
        rotates_heads = self.rope != "none" or self.memory_age == "rotary"
        _check(
            not (rotates_heads and self.head_dim % 2),
            f"width/num_heads={self.head_dim} must be even to be rotated; change width or num_heads",
        )

    @property
    def head_dim(self) -> int:
        """[E] = D / H."""
        return self.width // self.num_heads

    @property
    def hidden(self) -> int:
        """[F], the MLP's width."""
        return self.mlp_width or 4 * self.width

    @property
    def slots(self) -> int:
        """[M], the queue's length."""
        return self.memory_slots or 2 * self.chunk_len

    @property
    def writes(self) -> int:
        """[K], the slots that a chunk writes."""
        return self.memory_writes or self.chunk_len

    @property
    def run_len(self) -> int:
        """Tokens that one memory entry stands for, C / K."""
        return self.chunk_len // self.writes

    @property
    def has_memory(self) -> bool:
        return "memory" in self.streams

    @property
    def fused(self) -> tuple[str, ...]:
        """The streams that have a fusion weight: all, or with fusion="joint" all but the memory."""
        return tuple(s for s in self.streams if s != "memory" or self.fusion != "joint")

    @property
    def has_window_carry(self) -> bool:
        """Whether the last W keys and values cross the chunk's border."""
        return "local" in self.streams and self.window == "sliding"

    @property
    def param_dtype(self) -> str:
        """Of parameters, memory, gates, softmax and logits: float32, or float64 where everything
        is.
        """
        return "float64" if self.dtype == "float64" else "float32"

    def meaning(self) -> dict[str, typing.Any]:
        """What it depends on what trained weights and a state mean, the sizes as numbers."""
        values = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in TRAINING_ONLY
        }
        return values | {
            "mlp_width": self.hidden,
            "memory_slots": self.slots,
            "memory_writes": self.writes,
        }

    def flops_per_token(self) -> int:
        """Forward matrix-multiply FLOPs a token (2 a multiply-add), whole chunks; a training step
        costs three times as much.

        The masked half of a causal product is counted: this is what the code computes.
        """
        c = self
        per_layer = 2 * (4 * c.width**2 + 2 * c.width * c.hidden)
        keys = c.chunk_len + (c.window_len if c.has_window_carry else 0)
        per_layer += 2 * 2 * keys * c.width
        if c.has_memory:
            # read
            per_layer += 2 * 2 * c.slots * c.width
            # keys and values of the slots
            per_layer += 2 * 2 * c.slots * c.width**2 // c.chunk_len
            if c.gate != "none":
                columns = 2 * (1 if c.gate_scope == "slot" else c.width) + (
                    4 * c.width if c.gate_form == "gru" else 0
                )
                per_layer += 2 * columns * c.writes * c.width // c.chunk_len
            if c.memory_pool == "attention":
                per_layer += 2 * 2 * c.writes * c.width
        shift = 2 * c.width**2 if c.token_shift else 0
        return c.num_layers * per_layer + shift + 2 * c.width * c.vocab_size


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read. With neither `path`, `tfds` nor `synthetic`: the Python standard library's own
    sources.
    """

    # a text file, or a folder read file by file
    path: str = ""
    # its held-out counterpart; without it `heldout_fraction` of `path` is held out
    heldout_path: str = ""
    # which files of a folder
    pattern: str = "*"
    # a TFDS name, such as pg19 or lm1b
    tfds: str = ""
    # split names, TFDS slicing included
    tfds_train: str = "train"
    tfds_heldout: str = "validation"
    # the feature that holds the text; empty: the only text feature there is
    tfds_feature: str = ""
    # where the set lies or is downloaded to; empty: TFDS's default
    tfds_dir: str = ""
    # "recall": key-value pairs in a document's first chunk, asked for in its last
    synthetic: str = ""
    # the text is cut into documents that tell a number and ask for it, which alone is scored
    passkey: bool = False
    # so many other numbers in each chunk before the question, on average
    passkey_decoys: float = 0.0
    # pairs a document
    recall_pairs: int = 4
    # whole chunks between the facts' chunk and the one that asks
    recall_gap: int = 4
    # of the facts: the first chunk; "any": drawn, near as often as far; "even": all alike
    recall_place: str = "first"
    # distinct keys, and distinct values: chance is 1 / recall_symbols
    recall_symbols: int = 8
    heldout_fraction: float = 0.05
    tokenizer: str = (
        # "bytes" | "bpe" | "words": made of the corpus, model.vocab_size entries, kept in the
        # workdir
        "bytes"
    )
    # of the documents' order
    seed: int = 0

    def __post_init__(self):
        named = [name for name in ("path", "tfds", "synthetic") if getattr(self, name)]
        _check(len(named) <= 1, f"data.{' and data.'.join(named)} are both set; give one source")
        _check(
            bool(self.path) or not self.heldout_path,
            "data.heldout_path is set without data.path; give both",
        )
        _check_choice("data.synthetic", self.synthetic, ("", "recall"))
        _check(
            not (self.passkey and self.synthetic),
            "data.passkey needs text, data.synthetic has none; give one of them",
        )
        _check_choice("data.recall_place", self.recall_place, ("first", "any", "even"))
        _check_choice("data.tokenizer", self.tokenizer, ("bytes", "bpe", "words"))
        _check_fraction(self, "heldout_fraction")
        _check_positive(self, "recall_pairs", "recall_symbols")
        _check(self.seed >= 0, f"data.seed={self.seed} must not be negative")
        _check(
            self.passkey_decoys >= 0, f"passkey_decoys={self.passkey_decoys} must not be negative"
        )
        _check(
            self.passkey or not self.passkey_decoys,
            f"data.passkey_decoys={self.passkey_decoys} needs data.passkey=True",
        )
        _check(self.recall_gap >= 0, f"recall_gap={self.recall_gap} must not be negative")
        _check(
            self.recall_pairs <= self.recall_symbols,
            f"recall_pairs={self.recall_pairs} must not exceed recall_symbols={self.recall_symbols}: keys are distinct",
        )

    @property
    def scores_text(self) -> bool:
        """Whether every token of a text is predicted; else made answers alone, and the score is an
        accuracy.
        """
        return not (self.synthetic or self.passkey)

    @property
    def choices(self) -> int:
        """Values among which a guesser chooses each made answer."""
        return 10 if self.passkey else self.recall_symbols


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (arXiv 1711.05101), linear warm-up, cosine decay, clipping by global norm."""

    # the peak
    learning_rate: float = 1e-3
    # of the peak, reached at the last step
    final_fraction: float = 0.1
    warmup_steps: int = 100
    # decoupled; off for norms, biases, gates and fusion weights
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self):
        _check_positive(self, "learning_rate", "clip_norm")
        _check_fraction(self, "beta1", "beta2")
        _check(self.warmup_steps >= 0, f"warmup_steps={self.warmup_steps} must not be negative")
        _check(
            0 <= self.final_fraction <= 1,
            f"final_fraction={self.final_fraction} must lie in [0, 1]",
        )
        _check(self.weight_decay >= 0, f"weight_decay={self.weight_decay} must not be negative")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share what. Training is the same on any mesh, so this may change when a run
    resumes.

    The lanes of the batch are spread over data * fsdp devices. The axis `data` copies parameters
    and optimiser state, `fsdp` divides them, `tensor` divides them and each lane's matrix products
    too. `sharding.py` has the rules.
    """

    # devices; 0: all that the other two axes leave
    data: int = 0
    # devices
    fsdp: int = 1
    # devices; neighbours, since they talk in every layer
    tensor: int = 1
    # "jit" | "pmap": jax.pmap over `data` alone, the devices of one process
    parallelism: str = "jit"

    def __post_init__(self):
        _check(
            self.data >= 0,
            f"mesh.data={self.data} must not be negative; 0 stands for all devices that are left",
        )
        for name in ("fsdp", "tensor"):
            _check(getattr(self, name) > 0, f"mesh.{name}={getattr(self, name)} must be positive")
        _check_choice("mesh.parallelism", self.parallelism, ("jit", "pmap"))
        _check(
            self.parallelism == "jit" or self.fsdp == self.tensor == 1,
            f"mesh.parallelism='pmap' copies the parameters to every device: it needs mesh.fsdp={self.fsdp} and "
            f"mesh.tensor={self.tensor} to be 1; use mesh.parallelism=jit",
        )


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is shown and kept. May change when a run resumes: nothing here touches the training."""

    # steps between lines of metrics.jsonl and TensorBoard
    every: int = 20
    # between progress lines
    seconds: float = 5.0
    # steps; 0: only at the end
    eval_every: int = 500
    # steps; 0: only at the end
    save_every: int = 500
    # checkpoints
    keep: int = 2
    # of sample text after each evaluation; 0: none
    sample_tokens: int = 256
    # empty: the start of a document
    sample_prompt: str = ""

    def __post_init__(self):
        _check_positive(self, "every", "keep")
        for name in ("seconds", "eval_every", "save_every", "sample_tokens"):
            _check(
                getattr(self, name) >= 0, f"log.{name}={getattr(self, name)} must not be negative"
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    model: RMATConfig = RMATConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    log: LogConfig = LogConfig()
    steps: int = 1000
    # [B] lanes
    batch_size: int = 8
    # [N] chunks of each lane that one optimiser step reads
    chunks_per_step: int = 4
    # the lanes of a device are computed in this many parts, one after the other
    accumulation: int = 1
    # of held-out text
    eval_tokens: int = 65_536
    eval_batch_size: int = (
        # lanes that read it; its own setting, so that runs of any batch_size are scored on the same
        # text
        8
    )
    # of parameters and dropout
    seed: int = 0

    def __post_init__(self):
        _check(self.seed >= 0, f"seed={self.seed} must not be negative")
        _check_positive(
            self,
            "steps",
            "batch_size",
            "chunks_per_step",
            "accumulation",
            "eval_tokens",
            "eval_batch_size",
        )
        _check_divides("accumulation", self.accumulation, "batch_size", self.batch_size)
        _check(
            self.optim.warmup_steps < self.steps,
            f"optim.warmup_steps={self.optim.warmup_steps} must be below steps={self.steps}; try {self.steps // 10}",
        )

    @property
    def segment_len(self) -> int:
        """[T] = N C, the tokens of each lane that one step reads."""
        return self.chunks_per_step * self.model.chunk_len


def to_dict(config: typing.Any) -> dict[str, typing.Any]:
    """A config as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: typing.Mapping[str, typing.Any]) -> typing.Any:
    """The frozen config `cls` from nested plain values; a missing key keeps its default.

    Raises:
        UserError: a key that `cls` does not have, or a value that breaks a rule.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kwargs = {}
    for key, value in values.items():
        if key not in fields:
            import difflib

            near = difflib.get_close_matches(key, fields, n=1)
            raise UserError(
                f"{cls.__name__} has no key {key!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        default = getattr(cls, key)
        if dataclasses.is_dataclass(default):
            value = from_dict(type(default), value)
        elif isinstance(default, tuple):
            value = tuple(part for item in value for part in item.split(","))
        elif isinstance(default, float):
            _check(math.isfinite(value), f"{key}={value} must be a finite number")
        kwargs[key] = value
    return cls(**kwargs)


def from_saved(cls: type, values: typing.Mapping[str, typing.Any]) -> typing.Any:
    """`from_dict` of a Config or RMATConfig that a run was saved with: keys newer than the run mean
    what it did without them.
    """
    if cls is Config:
        return from_dict(cls, {**values, "model": {**BEFORE, **values.get("model", {})}})
    return from_dict(cls, {**BEFORE, **values})
