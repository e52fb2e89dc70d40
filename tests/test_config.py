"""Configs: each rule names the value, itself and a way out; plain values and configs are the same
thing.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rmat_jax.config import (
    PAPER,
    STREAMS,
    Config,
    DataConfig,
    LogConfig,
    OptimConfig,
    RMATConfig,
    from_dict,
    from_saved,
    to_dict,
)
from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from rmat_jax.modules.carry import initial_state
from tests.models import equations, make_params, make_tokens

RULES = [
    (
        RMATConfig,
        {"width": 100},
        "width=100 must be a multiple of num_heads=8; try width=96 or 104",
    ),
    (RMATConfig, {"width": 4}, "width=4 must be a multiple of num_heads=8; try width=8"),
    (
        RMATConfig,
        {"window_len": 60, "streams": ("full", "local")},
        "window_len=60 must divide chunk_len=256; try window_len=32 or 64",
    ),
    (
        RMATConfig,
        {"memory_writes": 7},
        "memory_writes=7 must divide chunk_len=256; try memory_writes=4 or 8",
    ),
    (
        RMATConfig,
        {"memory_slots": 4},
        "memory_writes=256 must not exceed memory_slots=4; write fewer",
    ),
    (RMATConfig, {"num_layers": 0}, "num_layers=0 must be positive"),
    (RMATConfig, {"chunk_len": -8}, "chunk_len=-8 must be positive"),
    (RMATConfig, {"rope_base": float("nan")}, "rope_base=nan must be positive"),
    (
        RMATConfig,
        {"mlp_width": -1},
        "mlp_width=-1 must not be negative; 0 stands for four times the width",
    ),
    (
        RMATConfig,
        {"memory_writes": -1},
        "memory_writes=-1 must not be negative; 0 stands for every token of the chunk",
    ),
    (
        RMATConfig,
        {"bptt_chunks": -1},
        "bptt_chunks=-1 must not be negative; 0 stands for all chunks",
    ),
    (
        RMATConfig,
        {"streams": ()},
        "streams is empty; name at least one of 'full', 'local', 'memory'",
    ),
    (
        RMATConfig,
        {"streams": ("full", "world")},
        "streams='world' is not one of 'full', 'local', 'memory'",
    ),
    (
        RMATConfig,
        {"streams": ("local", "full")},
        "must be in this order, each once: ('full', 'local')",
    ),
    (RMATConfig, {"streams": ("full", "full")}, "must be in this order, each once: ('full',)"),
    (
        RMATConfig,
        {"streams": ("memory",)},
        "streams=('memory',) never reads the chunk itself; add 'full' or 'local'",
    ),
    (RMATConfig, {"window": "round"}, "window='round' is not one of 'block', 'sliding'"),
    (RMATConfig, {"gate": "open"}, "gate='open' is not one of 'evicted', 'newest', 'none'"),
    (RMATConfig, {"memory_pool": "max"}, "memory_pool='max' is not one of 'mean', 'attention'"),
    (
        RMATConfig,
        {"memory_age": "old"},
        "memory_age='old' is not one of 'none', 'rotary', 'tokens'",
    ),
    (RMATConfig, {"rope": "all"}, "rope='all' is not one of 'per_head', 'global', 'none'"),
    (
        RMATConfig,
        {"remat": "all"},
        "remat='all' is not one of 'none', 'block', 'chunk', 'chunk+block'",
    ),
    (
        RMATConfig,
        {"dtype": "float16"},
        "dtype='float16' is not one of 'float32', 'bfloat16', 'float64'",
    ),
    (RMATConfig, {"dropout": 1.0}, "dropout=1.0 must lie in [0, 1)"),
    (RMATConfig, {"gate_noise": -1.0}, "gate_noise=-1.0 must not be negative"),
    (
        RMATConfig,
        {"width": 24},
        "width/num_heads=3 must be even to be rotated; change width or num_heads",
    ),
    (
        RMATConfig,
        {"width": 24, "rope": "global"},
        "width/num_heads=3 must be even to be rotated; change width or num_heads",
    ),
    (
        DataConfig,
        {"path": "a", "tfds": "b"},
        "data.path and data.tfds are both set; give one source",
    ),
    (DataConfig, {"heldout_path": "a"}, "data.heldout_path is set without data.path; give both"),
    (DataConfig, {"synthetic": "xor"}, "data.synthetic='xor' is not one of '', 'recall'"),
    (
        DataConfig,
        {"synthetic": "recall", "passkey": True},
        "data.passkey needs text, data.synthetic has none; give one of them",
    ),
    (DataConfig, {"passkey_decoys": -1.0}, "passkey_decoys=-1.0 must not be negative"),
    (DataConfig, {"passkey_decoys": 0.5}, "data.passkey_decoys=0.5 needs data.passkey=True"),
    (
        DataConfig,
        {"recall_pairs": 9},
        "recall_pairs=9 must not exceed recall_symbols=8: keys are distinct",
    ),
    (DataConfig, {"heldout_fraction": 1.5}, "heldout_fraction=1.5 must lie in [0, 1)"),
    (OptimConfig, {"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
    (OptimConfig, {"final_fraction": 2.0}, "final_fraction=2.0 must lie in [0, 1]"),
    (OptimConfig, {"weight_decay": -0.1}, "weight_decay=-0.1 must not be negative"),
    (LogConfig, {"every": 0}, "every=0 must be positive"),
    (LogConfig, {"save_every": -1}, "log.save_every=-1 must not be negative"),
    (
        Config,
        {"accumulation": 3},
        "accumulation=3 must divide batch_size=8; try accumulation=2 or 4",
    ),
    (Config, {"steps": 50}, "optim.warmup_steps=100 must be below steps=50; try 5"),
    (Config, {"seed": -1}, "seed=-1 must not be negative"),
]


@pytest.mark.parametrize(
    ("cls", "values", "message"), RULES, ids=lambda x: str(x) if isinstance(x, dict) else ""
)
def test_a_broken_rule_says_what_and_why(cls, values, message):
    with pytest.raises(UserError) as error:
        cls(**values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_rules_of_what_is_not_there_do_not_apply():
    RMATConfig(streams=("full", "local"), memory_writes=7)
    RMATConfig(width=24, rope="none")
    RMATConfig(chunk_len=96, window_len=64)


def test_rules_hold_after_a_replacement():
    with pytest.raises(UserError, match="memory_writes=7 must divide chunk_len=32"):
        dataclasses.replace(RMATConfig(chunk_len=7, memory_writes=7), chunk_len=32)


def test_plain_values_and_back():
    config = Config(
        model=RMATConfig(streams=("local", "memory"), gate="newest"),
        optim=OptimConfig(learning_rate=0.5),
        seed=3,
    )
    assert from_dict(Config, to_dict(config)) == config
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(Config, {}) == Config()


def test_a_run_older_than_a_key_means_what_it_did():
    values = to_dict(Config(model=RMATConfig(**PAPER), seed=3))
    for key in ("fusion", "gate_form", "gate_scope", "gate_curve", "memory_source", "token_shift"):
        del values["model"][key]
    old = from_saved(Config, values)
    assert (
        old == Config(model=RMATConfig(**PAPER), seed=3)
        and from_saved(RMATConfig, values["model"]) == old.model
    )
    # today's defaults
    assert from_dict(Config, values) != old
    assert from_saved(Config, to_dict(Config())) == Config()


def test_streams_may_be_written_with_commas():
    assert from_dict(RMATConfig, {"streams": ("full,local",)}).streams == ("full", "local")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "Config has no key 'stepz'; did you mean 'steps'?"),
        ({"model": {"chunklen": 3}}, "RMATConfig has no key 'chunklen'; did you mean 'chunk_len'?"),
        ({"qqqq": 3}, "Config has no key 'qqqq'"),
        ({"optim": {"learning_rate": float("inf")}}, "learning_rate=inf must be a finite number"),
        ({"model": {"gate": "open"}}, "gate='open' is not one of"),
    ],
    ids=str,
)
def test_an_unknown_key_names_its_nearest(values, message):
    with pytest.raises(UserError) as error:
        from_dict(Config, values)
    assert message in str(error.value)


def test_derived_sizes():
    config = RMATConfig(
        streams=STREAMS, width=32, num_heads=4, chunk_len=16, window_len=4, memory_writes=2
    )
    assert (config.head_dim, config.hidden, config.run_len) == (8, 128, 8)
    assert config.has_memory and not config.has_window_carry
    assert dataclasses.replace(config, window="sliding").has_window_carry
    assert not dataclasses.replace(config, window="sliding", streams=("full",)).has_window_carry
    assert Config(model=config, chunks_per_step=3).segment_len == 48
    assert (config.slots, config.writes) == (32, 2) and RMATConfig(
        chunk_len=7, memory_slots=9
    ).writes == 7


@pytest.mark.parametrize(
    "options",
    [
        {},
        PAPER,
        PAPER | {"window": "sliding", "memory_pool": "attention"},
        PAPER | {"gate": "none", "streams": ("local", "memory")},
        PAPER | {"gate_scope": "slot"},
        {"gate": "evicted"},
        {"streams": ("full", "local"), "mlp_width": 40},
    ],
    ids=str,
)
def test_flops_are_those_of_the_products_in_the_program(options):
    """Every matrix product of one chunk through one layer, counted from the traced program."""
    sizes = dict(
        width=32,
        num_heads=4,
        chunk_len=16,
        window_len=4,
        memory_slots=8,
        memory_writes=2,
        num_layers=1,
    )
    config = RMATConfig(**sizes, **options)
    state, tokens = initial_state(config, 1, closed=True), make_tokens(config, 1, 16)
    program = jax.make_jaxpr(lambda p: RMAT(config).apply({"params": p}, tokens, state))(
        make_params(config)
    )
    flops = 0
    for product in equations(program.jaxpr):
        if product.primitive.name == "dot_general":
            contracted = product.params["dimension_numbers"][0][0]
            left = product.invars[0].aval.shape
            flops += (
                2
                * product.outvars[0].aval.size
                * np.prod([left[axis] for axis in contracted], dtype=int)
            )
    assert flops == 16 * config.flops_per_token()
