"""Measures time and memory of one token against the tokens read before it, and compares our model
with growing caches of keys and values.

All models are timed in one run, in turn. A round is one sample of every model at every context, and
each round begins with another model, so that the machine's drift hits all alike. Batch 1, greedy,
random weights.

Models in JAX write ROOM tokens in a call of the device. GPT-2 writes one token in a call of Python,
as `generate` of transformers does (without its own overhead; nothing is compiled by torch). Below
some thousand tokens these calls take most of GPT-2's time, beyond them its cache. Full attention in
our own code has no such calls.
"""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import jax
import numpy as np

from rmat_jax.bench import gpt2
from rmat_jax.bench.bandwidth import LARGE, read_seconds
from rmat_jax.bench.peers import WARM_UP, FullAttention, Peer, Rmat, greedy, init_params
from rmat_jax.bench.profile import Profile, profile
from rmat_jax.config import RMATConfig, to_dict
from rmat_jax.errors import UserError
from rmat_jax.infer.streams import ROOM, decode
from rmat_jax.machine import facts as machine
from rmat_jax.machine import load
from rmat_jax.progress import Progress, say

CONTEXTS = (512, 1024, 4096, 8192, 16384)
TOKENS, ROUNDS = 64, 15
# the number of tokens that a profile traces
PROFILED = 512


@dataclasses.dataclass
class Row:
    """One model at one context."""

    peer: str
    context: int
    # the time of one token in each sample
    samples_ms: list[float]
    state_bytes: int
    # the weights that one token needs
    weight_bytes: float
    # the part of the state that one token needs
    cache_bytes: float
    # the time to read as many bytes from one buffer
    read_ms: list[float]

    @property
    def ms(self) -> tuple[float, float, float]:
        """First quartile, median, third quartile."""
        return tuple(np.percentile(self.samples_ms, (25, 50, 75)))

    @property
    def share(self) -> float:
        """The least possible time, (weights + state) / bandwidth, over the measured time."""
        return float(np.median(self.read_ms)) / self.ms[1]

    def json(self) -> dict:
        low, median, high = self.ms
        return dataclasses.asdict(self) | {
            "ms": {"q1": low, "median": median, "q3": high},
            "bandwidth_share": self.share,
        }


@dataclasses.dataclass
class Report:
    """The results of a benchmark."""

    rows: list[Row]
    facts: dict
    # bytes a second from memory that no cache holds
    bandwidth: float
    profile: Profile | None
    notes: list[str]

    def json(self) -> str:
        values = self.facts | {
            "memory_bytes_per_second": self.bandwidth,
            "rows": [row.json() for row in self.rows],
            "profile": self.profile and self.profile.json(),
            "notes": self.notes,
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """Tables for people, in Markdown."""
        lines = [
            "| context | model | ms a token: median (quartiles) | times RMAT | state, bytes | of "
            "bandwidth |",
            "|---|---|---|---|---|---|",
        ]
        ours = {row.context: row.ms[1] for row in self.rows if row.peer == "RMAT"}
        for row in sorted(self.rows, key=lambda row: row.context):
            low, median, high = row.ms
            lines.append(
                f"| {row.context:,} | {row.peer} | {median:.3f} ({low:.3f} to {high:.3f}) | "
                f"{median / ours[row.context]:.2f} "
                f"| {row.state_bytes:,} | {row.share:.0%} |"
            )
        machine = self.facts["machine"]
        lines += [
            "",
            "of bandwidth: the time to read the weights and the state that one token needs, from "
            "one buffer of that size in the same caches, divided by the time that the token took. "
            f"Memory outside all caches gives {self.bandwidth / 1e9:.1f} GB a second.",
            f"{machine['device']}, {machine['threads']} "
            f"thread{'s' if machine['threads'] > 1 else ''} each, load "
            f"{machine['load_before']:.2f} before and {machine['load_after']:.2f} after.",
            *self.notes,
        ]
        if self.profile:
            lines += ["", self.profile.text()]
        return "\n".join(lines)


def stream(
    config: RMATConfig,
    contexts: Sequence[int] = CONTEXTS,
    tokens: int = TOKENS,
    rounds: int = ROUNDS,
    *,
    profiled: bool = False,
    seed: int = 0,
    command: str = "",
) -> Report:
    """Times our model, the same code as a full-attention transformer, and GPT-2 where transformers
    is installed.

    Args:
        config: our model; the others take its width, depth, heads, MLP, vocabulary and dtype.
        contexts: the numbers of tokens read before; each must have room for a sample.
        tokens: the number of tokens of a sample. For our model it is rounded up to whole chunks, so
            that every sample pays for the memory's writes.
        rounds: the number of samples of each model and context.
        profiled: also trace our model.
        seed: the seed of weights, prompts and caches.
        command: the command, for the report.

    Raises:
        UserError: bad input.
    """
    check(contexts, tokens, rounds)
    progress, before = Progress(), load()
    params = init_params(config, seed)
    factories: list[Callable[[int], Peer]] = [
        lambda context: Rmat(config, params, context, tokens, seed),
        lambda context: FullAttention(config, params, context, tokens, seed),
    ]
    versions = {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    notes = list(filter(None, [gpt2.missing()]))
    if not notes:
        versions |= gpt2.versions()
        factories += [
            partial(gpt2.GPT2, config, tokens=tokens, seed=seed, static=static)
            for static in (False, True)
        ]
    peers, rows = [], []
    for context in contexts:
        for make in factories:
            peer = make(context)
            if progress.due():
                say(f"  {peer.name}, {context:,} tokens: making it ready")
            sample(peer)
            peers.append(peer)
            rows.append(
                Row(
                    peer.name,
                    context,
                    [],
                    peer.state_bytes,
                    peer.weight_bytes,
                    peer.cache_bytes,
                    [],
                )
            )
    bandwidths = []
    for number in range(rounds):
        order = np.roll(np.arange(len(peers)), -number * len(peers) // rounds)
        for place in order:
            row = rows[place]
            row.samples_ms.append(sample(peers[place]) * 1e3)
            row.read_ms.append(read_seconds(row.weight_bytes + row.cache_bytes) * 1e3)
            if progress.due():
                say(f"  round {number + 1} of {rounds}: {row.peer}, {row.context:,} tokens")
        bandwidths.append(LARGE / read_seconds(LARGE))
    facts = {
        "benchmark": "stream",
        "command": command,
        "model": to_dict(config),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "contexts": list(contexts),
        "tokens": tokens,
        "rounds": rounds,
        "seed": seed,
        "machine": machine() | {"load_before": before, "load_after": load()},
        "versions": versions,
    }
    return Report(
        rows, facts, float(np.median(bandwidths)), profile_of(peers[0]) if profiled else None, notes
    )


def check(contexts: Sequence[int], tokens: int, rounds: int) -> None:
    """Raises UserError for numbers that break a rule."""
    for name, value in (("tokens", tokens), ("rounds", rounds)):
        if value < 1:
            raise UserError(
                f"{name}={value} must be at least 1; the default is "
                f"{TOKENS if name == 'tokens' else ROUNDS}"
            )
    # one token was read before, and one place stays free
    least = tokens + WARM_UP + 2
    for context in contexts:
        if context < least:
            raise UserError(
                f"contexts={context} must be at least {least}, which is tokens={tokens} and "
                f"{WARM_UP + 2} more; "
                "give longer contexts or fewer tokens"
            )


def parse_numbers(name: str, text: str) -> tuple[int, ...]:
    """Reads the numbers of a flag. Raises UserError."""
    numbers = []
    for part in text.split(","):
        if not part.isascii() or not part.strip().isdigit() or int(part) < 1:
            raise UserError(
                f"{name}={text!r}: {part!r} must be a positive integer; write --{name}=512,1024"
            )
        numbers.append(int(part))
    return tuple(sorted(set(numbers)))


def sample(peer: Peer) -> float:
    """Times one sample, in seconds a token."""
    peer.rewind()
    peer.write(WARM_UP)
    start = time.perf_counter()
    peer.write(peer.sample)
    return (time.perf_counter() - start) / peer.sample


def profile_of(peer: Rmat) -> Profile:
    lowered = decode.lower(
        peer.model, peer.params, peer.streams, greedy(peer.model.config.vocab_size), ROOM, -1, 1
    )
    tokens = max(PROFILED, peer.sample) // peer.sample * peer.sample
    return profile(peer.write, tokens, lowered.compile().as_text())


def by_peer(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Groups rows by model, with rising contexts."""
    peers = {}
    for row in sorted(rows, key=lambda row: row.context):
        peers.setdefault(row.peer, []).append(row)
    return peers
