"""Times each path of one layer's attention, forward and gradient, against the obvious code.

The layer reads a call of whole chunks, as in training. Its queries, keys, values and slots are
random. All paths are timed in turn.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.bench.train import check
from rmat_jax.config import RMATConfig, to_dict
from rmat_jax.errors import UserError
from rmat_jax.machine import facts, keep_memory, load
from rmat_jax.modules.block import Block, Heads
from rmat_jax.ops.attention import Keys
from rmat_jax.progress import Progress, say

PATHS = ("obvious", "xla", "cudnn", "splash")
ROUNDS = 15


@dataclasses.dataclass
class Row:
    """One path at one length."""

    path: str
    tokens: int
    # the temporaries of the compiled gradient
    temporary_bytes: int
    forward_s: list[float]
    gradient_s: list[float]


@dataclasses.dataclass
class Report:
    """The results of a benchmark."""

    rows: list[Row]
    facts: dict
    notes: list[str]

    def json(self) -> str:
        values = {"rows": [dataclasses.asdict(row) for row in self.rows], "notes": self.notes}
        return json.dumps(self.facts | values, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """A table for people, in Markdown."""
        lines = [
            "| tokens | path | forward, ms: median (quartiles) | times faster | forward and "
            "gradient, ms | times faster | temporaries, MiB |",
            "|---|---|---|---|---|---|---|",
        ]
        first = {row.tokens: row for row in self.rows if row.path == "obvious"}
        for row in self.rows:
            cells = [f"{row.tokens:,}", row.path]
            for name in ("forward_s", "gradient_s"):
                low, median, high = np.percentile(getattr(row, name), (25, 50, 75)) * 1e3
                base = np.median(getattr(first[row.tokens], name)) * 1e3
                cells += [f"{median:.2f} ({low:.2f} to {high:.2f})", f"{base / median:.2f}"]
            lines.append(f"| {' | '.join(cells)} | {row.temporary_bytes / 2**20:,.0f} |")
        about = self.facts["machine"]
        lines += [
            "",
            f"{about['device']}, load {about['load_before']:.2f} before and "
            f"{about['load_after']:.2f} after.",
            *self.notes,
        ]
        return "\n".join(lines)


def bench_attention(
    config: RMATConfig,
    lengths: Sequence[int] = (2048, 16384),
    rounds: int = ROUNDS,
    command: str = "",
) -> Report:
    """Times the attention of one layer on one lane.

    Args:
        config: gives sizes, branches and dtype.
        lengths: the numbers of tokens of a call, each a multiple of the chunk.
        rounds: the number of samples of each path and length.
        command: the command, for the report.

    Raises:
        UserError: bad input.
    """
    check(config, lengths, rounds, ROUNDS)
    keep_memory()
    before, progress, timed, notes = load(), Progress(), [], []
    for length in lengths:
        for path in PATHS:
            try:
                timed.append(_path(config, path, length))
            except (UserError, ValueError, NotImplementedError, RuntimeError) as error:
                # kernels of other devices raise errors of several kinds
                reason = " ".join(str(error).split())[:160]
                notes.append(f"{path}, {length:,} tokens: left out, {reason}")
            if progress.due():
                say(f"  {path}, {length:,} tokens: ready")
    for number in range(rounds):
        for place in np.roll(np.arange(len(timed)), -number * len(timed) // rounds):
            row, forward, gradient = timed[place]
            row.forward_s.append(_seconds(forward))
            row.gradient_s.append(_seconds(gradient))
        if progress.due():
            say(f"  round {number + 1} of {rounds}")
    about = {
        "benchmark": "attention",
        "command": command,
        "model": to_dict(config),
        "rounds": rounds,
        "machine": facts() | {"load_before": before, "load_after": load()},
        "versions": {"jax": jax.__version__},
    }
    return Report([row for row, _, _ in timed], about, notes)


def _path(config: RMATConfig, path: str, length: int) -> tuple[Row, Callable, Callable]:
    """Compiles the attention, and the attention with its gradient, and makes the row."""
    c, chunks = config, length // config.chunk_len
    dtype, block = jnp.dtype(c.dtype), Block(c)

    def normal(rows, size, key):
        shape = (rows, size, c.num_heads, c.head_dim)
        return jax.random.normal(key, shape, dtype)

    def inputs(key):
        parts = jax.random.split(key, 9)
        heads = Heads(*(normal(1, length, k) for k in parts[:5]))
        own, past, slots = (heads.keys, heads.values), [], None
        if c.carries_window:
            past = [tuple(normal(chunks, c.local.window, k) for k in parts[5:7])]
        if c.memory:
            slots = tuple(normal(chunks, c.memory.slots, k) for k in parts[7:])
        return heads, own, past, slots

    def seen(pair, first):
        """Makes keys of one document."""
        rows, size = chunks, pair[0].size // (chunks * c.width)
        shape = (rows, size, c.num_heads, c.head_dim)
        places = None if first is None else np.arange(first, first + size)[None]
        documents = jnp.zeros((rows, size), jnp.int32)
        return Keys(*(x.reshape(shape) for x in pair), documents, places)

    def attend(params, heads, own, past, slots):
        return block.apply(
            {"params": params},
            path,
            heads,
            seen(own, 0),
            [seen(pair, -c.local.window) for pair in past],
            slots and seen(slots, None),
            method=Block.attend,
        )

    def loss(*args):
        return (attend(*args).astype(jnp.float32) ** 2).sum()

    found = jax.jit(inputs)(jax.random.key(0))
    params = _parameters(config)
    forward = jax.jit(attend).lower(params, *found).compile()
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4))).lower(params, *found).compile()
    row = Row(path, length, gradient.memory_analysis().temp_size_in_bytes, [], [])
    call_forward, call_gradient = (
        lambda compiled=compiled: compiled(params, *found) for compiled in (forward, gradient)
    )
    _seconds(call_forward), _seconds(call_gradient)
    return row, call_forward, call_gradient


def _parameters(config: RMATConfig) -> dict:
    """The parameters of a layer that attention needs."""
    wide = jnp.dtype(config.param_dtype)
    found = {}
    if len(config.fused) > 1:
        found["fusion"] = jnp.zeros(len(config.fused), wide)
    if config.memory and config.memory.joint:
        found["memory_bias"] = jnp.full(config.num_heads, config.memory.key_bias, wide)
    return found


def _seconds(call: Callable) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
