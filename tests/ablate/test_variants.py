"""What is compared differs in what its name says, and in nothing else that counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rmat_jax.ablate.variants import (
    Variant,
    baselines,
    grid,
    named,
    num_params,
    parse_variant,
    parse_vary,
    same_parameters,
    state_bytes,
)
from rmat_jax.config import FULL_ATTENTION, PAPER, QUEUE, TRANSFORMER_XL, Config, Local, RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.flags import changed, load_config
from rmat_jax.model import RMAT

MODEL = dataclasses.replace(
    PAPER,
    vocab_size=11,
    width=16,
    mlp_width=64,
    num_layers=2,
    num_heads=2,
    chunk_len=16,
    local=Local(window=8, sliding=False),
    memory=dataclasses.replace(PAPER.memory, slots=8, writes=4),
)
CONFIG = Config(model=MODEL, chunks_per_step=4)
ALL = grid(CONFIG)


def test_all_variants_are_distinct_and_none_is_the_base():
    configs = [changed(CONFIG, variant.changes) for variant in ALL]
    assert len(set(configs)) == len(configs) > 12
    assert CONFIG not in configs
    assert len({variant.name for variant in ALL}) == len(ALL)
    for expected in (
        "memory off",
        "queue",
        "transformer-xl",
        "full attention",
        "no local branch",
        "rope=none",
    ):
        assert expected in {variant.name for variant in ALL}
    # without its local branch and without its gate
    assert "memory.gate=none" in {variant.name for variant in ALL}


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: variant.name)
def test_variants_read_the_same_tokens_with_the_same_parameters(variant):
    made = same_parameters(changed(CONFIG, variant.changes), MODEL)
    assert made.segment_len == CONFIG.segment_len
    assert made.batch_size == CONFIG.batch_size
    assert made.optim == CONFIG.optim
    # Two parameters a layer and unit of width: the nearest number of units is at most half of that
    # away.
    assert (
        abs(num_params(made.model) - num_params(MODEL))
        <= MODEL.num_layers * (2 * MODEL.width + 1) / 2
    )


def test_parameters_differ_without_making_up_for_them():
    """The control of the test above."""
    off = changed(CONFIG, {"model.branches": ("full", "local")})
    assert num_params(off.model) < 0.7 * num_params(MODEL)


def test_the_grid_of_the_default_model():
    """The paper's memory does not take the MLPs' parameters away."""
    config = load_config("configs/quickstart.py")
    found = {variant.name: variant for variant in grid(config)}
    assert {
        "paper",
        "queue",
        "no local branch",
        "memory.gate=gru",
        "memory.key_bias=0.0",
        "memory.writes=32",
        "local.sliding=False",
    } <= found.keys()
    for variant in found.values():
        made = same_parameters(changed(config, variant.changes), config.model).model
        assert 2 * made.mlp_width >= config.model.mlp_width
        assert num_params(made) >= 0.99 * num_params(config.model)
    assert num_params(
        same_parameters(changed(config, found["paper"].changes), config.model).model
    ) > 1.3 * num_params(config.model)


def test_what_the_base_does_not_use_is_no_variant():
    names = {variant.name for variant in grid(Config(model=QUEUE))}
    assert {"with local branch", "memory.gate=slot", "memory.gate=gru", "paper"} <= names
    assert not [name for name in names if name.startswith("local.")] and "queue" not in names
    names = {variant.name for variant in grid(Config(model=TRANSFORMER_XL))}
    assert not [name for name in names if name.startswith("memory")] and "queue" not in names


@pytest.mark.parametrize(
    "model", [MODEL, PAPER, QUEUE, TRANSFORMER_XL, FULL_ATTENTION, RMATConfig()]
)
def test_no_change_is_no_change(model):
    config = Config(model=model)
    assert changed(config, {}) == config


def test_sizes_that_nobody_set_follow():
    wide = changed(Config(model=QUEUE), {"model.chunk_len": 32, "model.width": 64}).model
    assert (wide.mlp_width, wide.memory.writes, wide.memory.slots) == (256, 32, 64)
    # the control: those that are set stay
    made = changed(CONFIG, {"model.chunk_len": 32}).model
    assert (made.memory.writes, made.memory.slots) == (4, 8)


def test_a_branch_that_the_base_has_not_can_be_added():
    queue = Config(model=QUEUE)
    changes = {"model.branches": "full,local,memory", "model.local.window": 32}
    made = changed(queue, changes).model
    assert made.local == Local(window=32) and made.memory == QUEUE.memory
    assert changed(queue, {"model.memory.gate": "slot"}).model.memory.gate_bias == 2.2
    with pytest.raises(UserError, match="local.window=32 has no effect with model.branches=full,m"):
        changed(queue, {"model.local.window": 32})


def test_half_of_one_is_no_variant():
    config = changed(CONFIG, {"model.memory.writes": 1})
    assert "memory.writes=0" not in {variant.name for variant in grid(config)}


def test_parameters_are_those_of_the_model():
    params = RMAT(MODEL).init(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))["params"]
    assert num_params(MODEL) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_transformer_xl_has_the_nearest_state():
    (found,) = named(CONFIG, "transformer-xl")
    model = changed(CONFIG, found.changes).model
    assert model.branches == ("local",) and model.local.sliding
    assert model.local.window == model.chunk_len
    wanted = state_bytes(MODEL)

    def away(chunk):
        other = dataclasses.replace(model, chunk_len=chunk, local=Local(window=chunk))
        return abs(state_bytes(other) - wanted)

    assert away(model.chunk_len) == min(away(chunk) for chunk in (1, 2, 4, 8, 16, 32, 64))
    assert away(64) > away(model.chunk_len)


def test_full_attention_sees_the_whole_segment():
    (found,) = [variant for variant in baselines(CONFIG) if variant.name == "full attention"]
    made = changed(CONFIG, found.changes)
    assert made.model.chunk_len == CONFIG.segment_len and made.model.branches == ("full",)


def test_values_are_parsed_by_type():
    assert parse_variant("small: model.chunk_len=8 model.branches=full,local") == Variant(
        "small", {"model.chunk_len": 8, "model.branches": "full,local"}
    )
    assert changed(CONFIG, {"model.branches": "full,local"}).model.branches == ("full", "local")
    assert [v.changes for v in parse_vary("model.memory.gate_bias=-2;0.5")] == [
        {"model.memory.gate_bias": -2},
        {"model.memory.gate_bias": 0.5},
    ]
    assert changed(CONFIG, {"model.memory.gate_bias": -1}).model.memory.gate_bias == -1.0


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: parse_variant("small model.chunk_len=8"), ["small model", "NAME: KEY=VALUE"]),
        (
            lambda: parse_vary("model.memory.gate_bias"),
            ["model.memory.gate_bias", "KEY=VALUE;VALUE"],
        ),
        (lambda: changed(CONFIG, {"model.gait": "none"}), ["model.gait"]),
        (lambda: changed(CONFIG, {"model": 3}), ["'model'"]),
        (lambda: changed(CONFIG, {"model.memory.slots": "many"}), ["many", "a whole number"]),
        (lambda: named(CONFIG, "memory of"), ["memory of", "memory off"]),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(UserError) as error:
        call()
    for word in words:
        assert word in str(error.value)
