"""What is compared differs in what its name says, and in nothing else that counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rmat_jax.ablate.variants import (
    Variant,
    baselines,
    changed,
    grid,
    named,
    num_params,
    parse_variant,
    parse_vary,
    same_parameters,
    state_bytes,
)
from rmat_jax.config import PAPER, Config, RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.flags import load_config
from rmat_jax.model import RMAT

MODEL = RMATConfig(
    **PAPER,
    vocab_size=11,
    width=16,
    num_layers=2,
    num_heads=2,
    chunk_len=16,
    window_len=8,
    memory_slots=8,
    memory_writes=4,
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
        "no local stream",
        "rope=none",
    ):
        assert expected in {variant.name for variant in ALL}
    # that is the queue
    assert "gate=none" not in {variant.name for variant in ALL}


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
    off = changed(CONFIG, {"model.streams": ("full", "local")})
    assert num_params(off.model) < 0.7 * num_params(MODEL)


def test_the_grid_of_the_default_model():
    """What the base does not use is no variant; the paper's memory does not take the MLPs'
    parameters away.
    """
    config = load_config("configs/quickstart.py")
    found = {variant.name: variant for variant in grid(config)}
    assert {
        "paper",
        "with local stream",
        "gate=evicted",
        "memory_bias=0.0",
        "memory_writes=32",
    } <= found.keys()
    assert (
        not [name for name in found if name.startswith(("gate_", "window="))]
        and "queue" not in found
    )
    for variant in found.values():
        made = same_parameters(changed(config, variant.changes), config.model).model
        assert 2 * made.hidden >= config.model.hidden
        assert num_params(made) >= 0.99 * num_params(config.model)
    assert num_params(
        same_parameters(changed(config, found["paper"].changes), config.model).model
    ) > 1.3 * num_params(config.model)


def test_half_of_one_is_no_variant():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, memory_writes=1))
    assert "memory_writes=0" not in {variant.name for variant in grid(config)}


def test_parameters_are_those_of_the_model():
    params = RMAT(MODEL).init(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))["params"]
    assert num_params(MODEL) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_transformer_xl_has_the_nearest_state():
    (found,) = named(CONFIG, "transformer-xl")
    model = changed(CONFIG, found.changes).model
    assert model.streams == ("local",) and model.window == "sliding"
    assert model.window_len == model.chunk_len
    wanted = state_bytes(MODEL)

    def away(chunk):
        other = dataclasses.replace(model, chunk_len=chunk, window_len=chunk)
        return abs(state_bytes(other) - wanted)

    assert away(model.chunk_len) == min(away(chunk) for chunk in (1, 2, 4, 8, 16, 32, 64))
    assert away(64) > away(model.chunk_len)


def test_full_attention_sees_the_whole_segment():
    (found,) = [variant for variant in baselines(CONFIG) if variant.name == "full attention"]
    made = changed(CONFIG, found.changes)
    assert made.model.chunk_len == CONFIG.segment_len and made.model.streams == ("full",)


def test_values_are_parsed_by_type():
    assert parse_variant("small: model.memory_slots=8 model.streams=full,local") == Variant(
        "small", {"model.memory_slots": 8, "model.streams": "full,local"}
    )
    assert changed(CONFIG, {"model.streams": "full,local"}).model.streams == ("full", "local")
    assert [v.changes for v in parse_vary("model.gate_bias=-2;0.5")] == [
        {"model.gate_bias": -2},
        {"model.gate_bias": 0.5},
    ]
    assert changed(CONFIG, {"model.gate_bias": -1}).model.gate_bias == -1.0


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: parse_variant("small model.memory_slots=8"), ["small model", "NAME: KEY=VALUE"]),
        (lambda: parse_vary("model.gate_bias"), ["model.gate_bias", "KEY=VALUE;VALUE"]),
        (lambda: changed(CONFIG, {"model.gait": "none"}), ["model.gait"]),
        (lambda: changed(CONFIG, {"model": 3}), ["'model'"]),
        (lambda: changed(CONFIG, {"model.memory_slots": "many"}), ["many", "int"]),
        (lambda: named(CONFIG, "memory of"), ["memory of", "memory off"]),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(UserError) as error:
        call()
    for word in words:
        assert word in str(error.value)
