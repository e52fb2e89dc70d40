"""Measures the time of a training step against the tokens of a call, for our model and others.

All models are timed in one run. A round is one step of every model at every size, in an order of
its own, so that the machine's drift hits all alike. A step is the loss, its gradient and AdamW, on
random tokens. PyTorch's models compute in float32.

Our model is timed with all chunks of the call at once and with one at a time. Full attention and
the Transformer-XL are the same code, with one chunk as long as the call, and with a window of one
chunk. PyTorch's models are those of `torch_peers.py`.
"""

import dataclasses
import functools
import json
import platform
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax import flops
from rmat_jax.bench import torch_peers
from rmat_jax.config import TRANSFORMER_XL, Config, Local, RMATConfig, to_dict
from rmat_jax.errors import UserError
from rmat_jax.machine import facts as machine
from rmat_jax.machine import keep_memory, load
from rmat_jax.model import chunks_at_once
from rmat_jax.progress import Progress, say
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import init_state
from rmat_jax.train.step import train_step

LENGTHS, LANES, ROUNDS = (2048, 16384), (1, 4), 5
# the seconds to wait before each step
PAUSE = 0.3
# the rows and columns of the product that measures the machine's speed
PRODUCT = 2048


@dataclasses.dataclass
class Row:
    """One model at one size."""

    model: str
    lanes: int
    # the tokens of each lane in a step
    tokens: int
    # the chunks that the layers take at once; None: the model has no chunks
    chunks_at_once: int | None
    parameters: int
    # the FLOPs of a step, without what is computed again; None: not counted
    flops: int | None
    # the memory of the compiled step, with parameters and optimiser; None: not known
    peak_bytes: int | None
    compile_seconds: float
    # the time of each step
    samples_s: list[float] = dataclasses.field(default_factory=list)

    @property
    def rate(self) -> tuple[float, float, float]:
        """Tokens a second: first quartile, median, third quartile."""
        return tuple(self.lanes * self.tokens / np.percentile(self.samples_s, (75, 50, 25)))


@dataclasses.dataclass
class Report:
    """The results of a benchmark."""

    rows: list[Row]
    facts: dict
    # FLOPs a second of a matrix product in the model's dtype
    product_speed: float
    notes: list[str]

    def share(self, row: Row) -> float | None:
        """The speed of the model's products over that of a large product."""
        if row.flops is None:
            return None
        return row.flops / float(np.median(row.samples_s)) / self.product_speed

    def json(self) -> str:
        rows = [
            dataclasses.asdict(row)
            | {
                "tokens_per_second": dict(zip(("q1", "median", "q3"), row.rate, strict=True)),
                "product_share": self.share(row),
            }
            for row in self.rows
        ]
        values = self.facts | {
            "product_flops_per_second": self.product_speed,
            "rows": rows,
            "notes": self.notes,
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """Tables for people, in Markdown."""
        lines = [
            "| lanes x tokens | model | parameters | tokens a second: median (quartiles) | times "
            "the first | FLOPs a token | of products' speed | peak, MiB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        first = self.rows[0].model
        ours = {(r.lanes, r.tokens): r.rate[1] for r in self.rows if r.model == first}
        for row in sorted(self.rows, key=lambda row: (row.tokens, row.lanes)):
            low, median, high = row.rate
            share = self.share(row)
            cells = (
                f"{row.lanes} x {row.tokens:,}",
                row.model,
                f"{row.parameters:,}",
                f"{median:,.0f} ({low:,.0f} to {high:,.0f})",
                f"{median / ours[row.lanes, row.tokens]:.2f}",
                "" if row.flops is None else f"{row.flops / row.lanes / row.tokens / 1e6:.1f}M",
                "" if share is None else f"{share:.0%}",
                "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        about = self.facts["machine"]
        lines += [
            "",
            f"Products of {PRODUCT} x {PRODUCT} numbers run at {self.product_speed / 1e9:,.0f} "
            "GFLOPs a second.",
            f"{about['device']}, load {about['load_before']:.2f} before and "
            f"{about['load_after']:.2f} after.",
            *self.notes,
        ]
        return "\n".join(lines)


Timed = tuple[Row, Callable[[], None]]


def in_jax(name: str, model: RMATConfig, lanes: int, tokens: int) -> Timed:
    """Makes a model of this project, and a call of its train step."""
    chunks = tokens // model.chunk_len
    config = Config(model=model, batch_size=lanes, chunks_per_step=chunks, eval_batch_size=1)
    optimizer = make_optimizer(config)
    state = jax.jit(functools.partial(init_state, config, optimizer))()
    text_BT = np.random.default_rng(0).integers(0, model.vocab_size, (lanes, tokens + 1), np.int32)
    batch = {
        "tokens": text_BT[:, :-1],
        "targets": text_BT[:, 1:],
        "documents": np.zeros((lanes, tokens), np.int32),
    }
    start = time.perf_counter()
    step = functools.partial(train_step, config, optimizer)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    used = compiled.memory_analysis()
    row = Row(
        model=name,
        lanes=lanes,
        tokens=tokens,
        chunks_at_once=chunks_at_once(model, lanes, chunks),
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        flops=3 * flops.per_token(model) * lanes * tokens,
        peak_bytes=used.argument_size_in_bytes + used.temp_size_in_bytes,
        compile_seconds=time.perf_counter() - start,
    )

    def call():
        nonlocal state
        state, sums = compiled(state, batch)
        sums.loss.block_until_ready()

    return row, call


def in_torch(name: str, config: RMATConfig, lanes: int, tokens: int) -> Timed:
    """Makes a model of another package, and a call of its train step."""
    parameters, call = torch_peers.make(name, config, lanes, tokens)
    return Row(name, lanes, tokens, None, parameters, None, None, 0.0), call


def ours(config: RMATConfig) -> dict[str, Callable[[int], RMATConfig]]:
    """The models in JAX by name. Each makes a config for so many tokens of a call."""
    # a memory that keeps outputs has only one schedule
    at_a_time = {"ours, a chunk at a time": lambda _: _scheduled(config, 1)}
    return {
        "ours": lambda _: config,
        **({} if config.memory and config.memory.keeps_outputs else at_a_time),
        "full attention": lambda tokens: _alone(config, ("full",), None, tokens),
        "Transformer-XL": lambda _: _alone(
            config, TRANSFORMER_XL.branches, Local(config.chunk_len), config.chunk_len
        ),
    }


def _scheduled(config: RMATConfig, chunks: int) -> RMATConfig:
    return dataclasses.replace(config, chunks_at_once=chunks)


def _alone(config: RMATConfig, branches, local, chunk_len: int) -> RMATConfig:
    """A config of the same sizes without a memory."""
    return dataclasses.replace(
        config, branches=branches, local=local, memory=None, chunk_len=chunk_len
    )


def bench_train(
    config: RMATConfig,
    lengths: Sequence[int] = LENGTHS,
    lanes: Sequence[int] = LANES,
    rounds: int = ROUNDS,
    models: Sequence[str] = (),
    command: str = "",
) -> Report:
    """Times training steps.

    Args:
        config: our model; the others take its width, depth, heads and vocabulary.
        lengths: the numbers of tokens of a lane in a step, each a multiple of the chunk.
        lanes: the numbers of lanes.
        rounds: the number of samples of each model and size.
        models: the names of the models to time; none: all that are installed.
        command: the command, for the report.

    Raises:
        UserError: bad input.
    """
    check(config, lengths, rounds, ROUNDS)
    keep_memory()
    known, notes = ours(config), []
    makers = {
        name: lambda lanes, tokens, name=name: in_jax(name, known[name](tokens), lanes, tokens)
        for name in known
    }
    for name in torch_peers.PACKAGES:
        missing = torch_peers.missing(name)
        if missing is None:
            makers[name] = functools.partial(in_torch, name, config)
        elif name in models:
            raise UserError(f"models={name} is not installed; run: {missing}")
        else:
            notes.append(f"{name} is left out; to time it, run: {missing}")
    for name in models:
        if name not in makers:
            raise UserError(f"models={name} is not there; there is {', '.join(makers)}")
    before, progress = load(), Progress()
    timed = []
    for tokens in lengths:
        for count in lanes:
            for name in models or makers:
                if progress.due():
                    say(f"  {name}, {count} x {tokens:,} tokens: making it ready")
                row, call = makers[name](count, tokens)
                call()
                timed.append((row, call))
    products, rng = [], np.random.default_rng(0)
    for number in range(rounds):
        for place in rng.permutation(len(timed)):
            row, call = timed[place]
            # the threads of the other library wait actively for a while
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            row.samples_s.append(time.perf_counter() - start)
            if progress.due():
                say(f"  round {number + 1} of {rounds}: {row.model}, {row.lanes} x {row.tokens:,}")
        products.append(product_speed(config.dtype))
    facts = {
        "benchmark": "train",
        "command": command,
        "model": to_dict(config),
        "rounds": rounds,
        "machine": machine() | {"load_before": before, "load_after": load()},
        "versions": {"jax": jax.__version__, "python": platform.python_version()}
        | torch_peers.versions(),
    }
    return Report([row for row, _ in timed], facts, float(np.median(products)), notes)


def check(config: RMATConfig, lengths: Sequence[int], rounds: int, default: int) -> None:
    """Raises UserError for lengths that are not whole chunks, or fewer rounds than one."""
    for length in lengths:
        if length % config.chunk_len:
            raise UserError(
                f"lengths={length} must be a multiple of model.chunk_len={config.chunk_len}"
            )
    if rounds < 1:
        raise UserError(f"rounds={rounds} must be at least 1; the default is {default}")


def product_speed(dtype: str) -> float:
    """The FLOPs a second of a product of two large matrices, the fastest of five."""
    x = jnp.ones((PRODUCT, PRODUCT), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * PRODUCT**3 / min(seconds)
