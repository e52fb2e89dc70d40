"""The variants to compare: changes of one config, each with a name. All train on the same tokens,
with the same optimiser and number of parameters.
"""

import ast
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rmat_jax.config import BRANCHES, PAPER, Config, RMATConfig, typed
from rmat_jax.errors import UserError
from rmat_jax.flags import changed
from rmat_jax.infer import open_chunk
from rmat_jax.model import RMAT

BASE = "base"


@dataclasses.dataclass(frozen=True)
class Variant:
    """The base config with some keys changed, such as {"model.memory.gate": "none"}."""

    name: str
    changes: Mapping[str, Any]

    def __str__(self) -> str:
        return ", ".join(
            f"{key.removeprefix('model.')}={typed(value)}" for key, value in self.changes.items()
        )


def baselines(config: Config) -> list[Variant]:
    """The usual models to compare with, from the same code.

    full attention    over all tokens of a lane in a training step, and nothing before them
    local only        each token sees its window
    transformer-xl    a sliding window W = C in every layer (arXiv 1901.02860), as long as the
                      base's bytes of state allow
    memory off        the base without its memory
    queue             full attention and the base's memory, without a gate
    paper             the base with all settings of arXiv 2507.00453
    """
    c = config.model
    found = [
        Variant(
            "full attention",
            {
                "model.branches": ("full",),
                "model.chunk_len": config.segment_len,
                "chunks_per_step": 1,
            },
        ),
        Variant("local only", {"model.branches": ("local",)}),
        _transformer_xl(config),
    ]
    if c.memory:
        queue = {"model.branches": ("full", "memory"), "model.memory.gate": "none"}
        found += [
            Variant(
                "memory off", {"model.branches": tuple(b for b in c.branches if b != "memory")}
            ),
            Variant("queue", queue),
            Variant("paper", _paper()),
        ]
    return [variant for variant in found if _applies(config, variant)]


def _paper() -> dict[str, Any]:
    """The paper's settings of everything but sizes."""
    changes: dict[str, Any] = {
        "model.branches": PAPER.branches,
        "model.local.sliding": PAPER.local.sliding,
        "model.token_shift": PAPER.token_shift,
    }
    for name in ("keeps", "read", "gate", "gate_bias"):
        changes[f"model.memory.{name}"] = getattr(PAPER.memory, name)
    return changes


def grid(config: Config) -> list[Variant]:
    """Changes every option of the architecture that the base uses, one at a time."""
    c = config.model
    options: list[tuple[str, tuple]] = [
        ("memory.gate", ("none", "slot", "gru")),
        ("memory.keeps", ("inputs", "outputs")),
        ("memory.read", ("joint", "stream")),
        ("memory.key_bias", (0.0, -4.0)),
        ("local.sliding", (False, True)),
        ("rope", ("per_head", "global", "none")),
        ("token_shift", (False, True)),
    ]
    if c.memory:
        for name in ("slots", "writes"):
            size = getattr(c.memory, name)
            options.append((f"memory.{name}", (max(size // 2, 1), 2 * size)))
    found = []
    for branch in ("full", "local"):
        word = "no" if branch in c.branches else "with"
        branches = tuple(b for b in BRANCHES if (b in c.branches) != (b == branch))
        found.append(Variant(f"{word} {branch} branch", {"model.branches": branches}))
    for key, values in options:
        found += [Variant(f"{key}={value}", {f"model.{key}": value}) for value in values]
    named: dict[Config, Variant] = {}
    for variant in [*baselines(config), *found]:
        if _applies(config, variant):
            # if two names stand for the same config, the first one is kept
            named.setdefault(changed(config, variant.changes), variant)
    return list(named.values())


def named(config: Config, names: str) -> list[Variant]:
    """The variants of a comma-separated list: "grid", "baselines", or names out of the grid. Raises
    UserError.
    """
    sets = {"grid": grid, "baselines": baselines}
    known = {variant.name: variant for variant in grid(config)}
    found: dict[str, Variant] = {}
    for name in filter(None, names.split(",")):
        if name not in sets and name not in known:
            raise UserError(
                f"no variant of this config is named {name!r}; there is "
                f"{', '.join([*sets, *known])}"
            )
        found |= {v.name: v for v in sets[name](config)} if name in sets else {name: known[name]}
    return list(found.values())


def _applies(config: Config, variant: Variant) -> bool:
    """Whether a variant differs from the base and breaks no rule, such as one on its sizes."""
    try:
        return changed(config, variant.changes) != config
    except UserError:
        return False


def parse_variant(text: str) -> Variant:
    """Reads `NAME: KEY=VALUE KEY=VALUE`, such as `wide: model.width=512`."""
    name, colon, rest = text.partition(":")
    changes = dict(_change(part, text) for part in rest.split())
    if not (name.strip() and colon and changes):
        raise UserError(
            f'--variant={text!r} must read "NAME: KEY=VALUE KEY=VALUE", '
            'such as "wide: model.width=512"'
        )
    return Variant(name.strip(), changes)


def parse_vary(text: str) -> list[Variant]:
    """Reads `KEY=VALUE;VALUE`, and makes a variant for each value."""
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise UserError(
            f'--vary={text!r} must read "KEY=VALUE;VALUE", such as "model.memory.key_bias=-4;-2;0"'
        )
    return [
        Variant(f"{key.removeprefix('model.')}={value}", dict([_change(f"{key}={value}", text)]))
        for value in values.split(";")
    ]


def _change(part: str, whole: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals:
        raise UserError(f"{part!r} in {whole!r} has no value; write KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        # a word
        return key, value


def same_parameters(config: Config, target: RMATConfig) -> Config:
    """Changes the width of the MLPs so that the model has as nearly as many parameters as `target`
    as possible.

    A unit of `mlp_width` adds 2 `width` parameters to a layer, so a layer's number is met within
    `width`. If the MLPs would have less than half of the target's width, they stay as they are, and
    the model has more parameters.
    """
    model, wanted = config.model, num_params(target)
    at = {width: num_params(dataclasses.replace(model, mlp_width=width)) for width in (1, 2)}
    hidden = round(1 + (wanted - at[1]) / (at[2] - at[1]))
    if num_params(model) == wanted or hidden < target.mlp_width / 2:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(model, mlp_width=hidden))


@functools.lru_cache
def num_params(model: RMATConfig) -> int:
    shapes = jax.eval_shape(RMAT(model).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def state_bytes(model: RMATConfig) -> int:
    """The bytes of one stream's state in mid-chunk, with all that is needed to go on."""
    return jax.eval_shape(lambda: open_chunk.initial_state(model, 1)).num_bytes()


def _transformer_xl(config: Config) -> Variant:
    """A Transformer-XL with W = C, the divisor of a step's tokens whose state is nearest to the
    base's in bytes.
    """
    length, wanted = config.segment_len, state_bytes(config.model)

    def variant(chunk):
        changes = {
            "model.branches": ("local",),
            "model.local.sliding": True,
            "model.local.window": chunk,
            "model.chunk_len": chunk,
            "chunks_per_step": length // chunk,
        }
        return Variant("transformer-xl", changes)

    lengths = [chunk for chunk in range(1, length + 1) if length % chunk == 0]
    return min(
        map(variant, lengths),
        key=lambda found: abs(state_bytes(changed(config, found.changes).model) - wanted),
    )
