"""Configs: each rule names the key as it is typed, its value, and a way out; plain values and
configs are the same thing.
"""

import dataclasses
import json

import pytest

from rmat_jax import flags
from rmat_jax.config import (
    BRANCHES,
    FULL_ATTENTION,
    PAPER,
    QUEUE,
    TRANSFORMER_XL,
    Config,
    DataConfig,
    Local,
    LogConfig,
    Memory,
    OptimConfig,
    RMATConfig,
    from_dict,
    from_saved,
    to_dict,
    to_saved,
    unused,
)
from rmat_jax.errors import UserError

PRESETS = [RMATConfig(), PAPER, QUEUE, TRANSFORMER_XL, FULL_ATTENTION]
RULES = [
    (
        RMATConfig,
        {"width": 100},
        "model.width=100 must be a multiple of model.num_heads=8; try model.width=96 or 104",
    ),
    (
        RMATConfig,
        {"width": 4},
        "model.width=4 must be a multiple of model.num_heads=8; try model.width=8",
    ),
    (
        RMATConfig,
        {"local": Local(window=60, sliding=False)},
        "model.local.window=60 must divide model.chunk_len=256; try model.local.window=32 or",
    ),
    (
        RMATConfig,
        {"memory": Memory(writes=7)},
        "model.memory.writes=7 must divide model.chunk_len=256; try model.memory.writes=4 or",
    ),
    (
        RMATConfig,
        {"memory": Memory(slots=4)},
        "model.memory.slots=4 must be a multiple of model.memory.writes=256; "
        "try model.memory.slots=256 or 512",
    ),
    (RMATConfig, {"num_layers": 0}, "model.num_layers=0 must be positive"),
    (RMATConfig, {"width": 10**18}, "model.width=1000000000000000000 must be below 2147483648"),
    (RMATConfig, {"num_layers": 10**9}, "model.num_layers=1000000000 must be at most 10,000"),
    (RMATConfig, {"width": 2**21}, "makes more than 1,099,511,627,776 parameters"),
    (Config, {"seed": 2**32}, "seed=4294967296 must be below 2147483648"),
    (Config, {"batch_size": 10**6, "chunks_per_step": 10**6}, "tokens a step, which must be below"),
    (RMATConfig, {"chunk_len": -8}, "model.chunk_len=-8 must be positive"),
    (RMATConfig, {"rope_base": float("nan")}, "model.rope_base=nan must be positive"),
    (RMATConfig, {"mlp_width": -1}, "model.mlp_width=-1 must be positive"),
    (Memory, {"writes": 0}, "model.memory.writes=0 must be positive"),
    (Local, {"window": -1}, "model.local.window=-1 must be positive"),
    (
        RMATConfig,
        {"branches": ()},
        "model.branches= is empty; name at least one of full,local,memory",
    ),
    (
        RMATConfig,
        {"branches": ("full", "world")},
        "model.branches=full,world names 'world', which is not one of full,local,memory",
    ),
    (
        RMATConfig,
        {"branches": ("local", "full")},
        "model.branches=local,full must be in this order, each once: full,local",
    ),
    (RMATConfig, {"branches": ("full", "full")}, "must be in this order, each once: full"),
    (
        RMATConfig,
        {"branches": ("memory",)},
        "model.branches=memory never reads the chunk itself; add full or local",
    ),
    (
        RMATConfig,
        {"branches": ("full",), "local": Local(window=4)},
        "model.local has no effect with model.branches=full; add local to the branches, or",
    ),
    (Memory, {"gate": "open"}, "model.memory.gate=open is not one of slot, gru, none"),
    (Memory, {"keeps": "all"}, "model.memory.keeps=all is not one of inputs, outputs"),
    (Memory, {"read": "head"}, "model.memory.read=head is not one of joint, stream"),
    (
        Memory,
        {"gate": "none", "gate_bias": 1.0},
        "model.memory.gate_bias=1.0 has no effect with model.memory.gate=none; leave it out",
    ),
    (
        Memory,
        {"read": "stream", "key_bias": 1.0},
        "model.memory.key_bias=1.0 has no effect with model.memory.read=stream; leave it out",
    ),
    (RMATConfig, {"rope": "all"}, "model.rope=all is not one of per_head, global, none"),
    (
        RMATConfig,
        {"remat": "all"},
        "model.remat=all is not one of none, block, chunk, chunk+block",
    ),
    (
        RMATConfig,
        {"dtype": "float16"},
        "model.dtype=float16 is not one of float32, bfloat16, float64",
    ),
    (RMATConfig, {"dropout": 1.0}, "model.dropout=1.0 must lie in [0, 1)"),
    (RMATConfig, {"width": 24}, "model.num_heads=8 leaves heads of 3, which must be even"),
    (
        RMATConfig,
        {"width": 24, "rope": "global"},
        "model.num_heads=8 leaves heads of 3, which must be even",
    ),
    (
        DataConfig,
        {"path": "a", "tfds": "b"},
        "data.path and data.tfds are both set; give one source",
    ),
    (DataConfig, {"heldout_path": "a"}, "data.heldout_path is set without data.path; give both"),
    (DataConfig, {"synthetic": "xor"}, "data.synthetic=xor is not one of , recall"),
    (
        DataConfig,
        {"synthetic": "recall", "passkey": True},
        "data.passkey=True needs text, data.synthetic has none; give one of them",
    ),
    (DataConfig, {"passkey_decoys": -1.0}, "data.passkey_decoys=-1.0 must not be negative"),
    (DataConfig, {"passkey_decoys": 0.5}, "data.passkey_decoys=0.5 needs data.passkey=True"),
    (
        DataConfig,
        {"synthetic": "recall", "recall_updates": 1.0},
        "data.recall_updates=1.0 needs data.synthetic=recall with facts in any chunk",
    ),
    (
        DataConfig,
        {"recall_pairs": 9},
        "data.recall_pairs=9 must not exceed data.recall_symbols=8: keys are distinct",
    ),
    (DataConfig, {"heldout_fraction": 1.5}, "data.heldout_fraction=1.5 must lie in [0, 1)"),
    (OptimConfig, {"learning_rate": 0.0}, "optim.learning_rate=0.0 must be positive"),
    (OptimConfig, {"final_fraction": 2.0}, "optim.final_fraction=2.0 must lie in [0, 1]"),
    (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay=-0.1 must not be negative"),
    (LogConfig, {"every": 0}, "log.every=0 must be positive"),
    (LogConfig, {"patience": 2, "eval_every": 0}, "log.patience=2 needs log.eval_every above 0"),
    (LogConfig, {"save_every": -1}, "log.save_every=-1 must not be negative"),
    (
        Config,
        {"accumulation": 3},
        "accumulation=3 must divide batch_size=8; try accumulation=2 or accumulation=4",
    ),
    (
        Config,
        {"steps": 50},
        "optim.warmup_steps=100 must be below steps=50; try optim.warmup_steps=5",
    ),
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
    RMATConfig(width=24, rope="none")
    # a sliding window may have any length
    RMATConfig(chunk_len=96, local=Local(window=64))


def test_rules_hold_after_a_replacement():
    config = RMATConfig(chunk_len=7, memory=Memory(writes=7))
    with pytest.raises(UserError, match="model.memory.writes=7 must divide model.chunk_len=32"):
        dataclasses.replace(config, chunk_len=32)


@pytest.mark.parametrize("model", PRESETS)
def test_plain_values_and_back(model):
    config = Config(model=model, optim=OptimConfig(learning_rate=0.5), seed=3)
    assert from_dict(Config, to_dict(config)) == config
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert from_saved(Config, json.loads(json.dumps(to_saved(config))), "this") == config
    assert from_dict(Config, flags.defaults(model).to_dict()).model == model


def test_no_values_are_the_defaults():
    assert from_dict(Config, {}) == Config() == from_dict(Config, flags.defaults().to_dict())


def test_another_version_is_refused():
    with pytest.raises(UserError, match="runs/old was saved by version 1 of rmat_jax's settings"):
        from_saved(Config, to_dict(Config()), "runs/old")


def test_branches_may_be_written_with_commas():
    for value in (("full,local",), "full,local", ["full", "local"]):
        assert from_dict(RMATConfig, {"branches": value}).branches == ("full", "local")


def test_keys_of_what_is_off_are_dropped():
    """A file of configs/ may set them for those who switch it on."""
    values = {"branches": ["full", "memory"], "local": {"window": 16}}
    values["memory"] = {"gate": "none", "gate_bias": 1.0, "read": "stream", "key_bias": 1.0}
    model = from_dict(RMATConfig, values)
    assert model.local is None and model.memory == Memory(512, 256, gate="none", read="stream")
    assert unused({"model": values}) == {
        "model.local": "model.branches=full,memory",
        "model.memory.gate_bias": "model.memory.gate=none",
        "model.memory.key_bias": "model.memory.read=stream",
    }
    assert unused(to_dict(Config())) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "no config has the key stepz; did you mean steps?"),
        (
            {"model": {"chunklen": 3}},
            "no config has the key model.chunklen; did you mean model.chunk_len?",
        ),
        (
            {"model": {"memory": {"slotz": 3}}},
            "no config has the key model.memory.slotz; did you mean model.memory.slots?",
        ),
        ({"qqqq": 3}, "no config has the key qqqq"),
        (
            {"optim": {"learning_rate": float("inf")}},
            "optim.learning_rate=inf must be a finite number",
        ),
        ({"model": {"memory": {"gate": "open"}}}, "model.memory.gate=open is not one of"),
        ({"model": {"width": "wide"}}, "model.width='wide' must be a whole number, such as 256"),
        ({"model": {"memory": 3}}, "model.memory=3 must be a group of settings"),
    ],
    ids=str,
)
def test_bad_values_name_the_key(values, message):
    with pytest.raises(UserError) as error:
        from_dict(Config, values)
    assert message in str(error.value)


def test_derived_sizes():
    config = RMATConfig(
        width=32,
        num_heads=4,
        chunk_len=16,
        local=Local(window=4, sliding=False),
        memory=Memory(writes=2),
    )
    assert (config.head_dim, config.mlp_width, config.run_len) == (8, 128, 8)
    assert config.branches == BRANCHES and not config.carries_window
    assert dataclasses.replace(config, local=Local()).carries_window
    assert not FULL_ATTENTION.carries_window
    assert Config(model=config, chunks_per_step=3).segment_len == 48
    assert (config.memory.slots, config.memory.writes) == (4, 2)
    small = RMATConfig(chunk_len=24)
    assert (small.memory.slots, small.memory.writes, small.local.window) == (48, 24, 8)


def test_shares_are_of_the_branches_with_a_softmax_of_their_own():
    assert RMATConfig().fused == ("full", "local") and PAPER.fused == BRANCHES
    assert QUEUE.fused == ("full",)


# Command lines.


def load(*overrides, config="configs/quickstart.py"):
    return flags.load_config(config, [f"--config.model.{override}" for override in overrides]).model


def test_sizes_that_nobody_sets_follow():
    model = load("chunk_len=32", "width=64")
    assert (model.mlp_width, model.memory.writes, model.memory.slots) == (256, 32, 64)
    model = load("memory.writes=8", "mlp_width=40", "memory.gate_bias=1")
    assert (model.mlp_width, model.memory.slots, model.memory.gate_bias) == (40, 16, 1.0)


def test_a_branch_that_the_file_leaves_out_can_be_added():
    added = load("branches=full,local,memory", "local.window=32", config="configs/enwik8.py")
    assert added.local == Local(window=32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("local.window=32", "branches=full,memory"),
            "--config.model.local.window=32 has no effect with model.branches=full,memory; drop "
            "it, or add local to model.branches",
        ),
        (
            ("memory.gate=none", "memory.gate_bias=1"),
            "--config.model.memory.gate_bias=1 has no effect with model.memory.gate=none; drop it",
        ),
    ],
)
def test_an_override_without_effect_is_refused(overrides, message):
    with pytest.raises(UserError) as error:
        load(*overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


FILES = {
    "None": ("c.steps = None", "steps=None must be a whole number, such as 1000"),
    "a text": ("c.model.width = 'big'", "model.width='big' must be a whole number, such as 256"),
    "numbers": ("c.model.branches = [1, 2]", "model.branches=.* must be a list of words"),
    "a truth": ("c.steps = True", "steps=True must be a whole number"),
    "an exit": ("raise SystemExit(0)", "line 4, failed: SystemExit: 0"),
    "an interrupt": ("raise KeyboardInterrupt", "line 4, failed: KeyboardInterrupt"),
    "nothing": ("c = None", "must have get_config.., .* it returns NoneType"),
}


def write_config(file, line, arguments=""):
    file.write_text(
        "import pathlib, numpy as np\nfrom rmat_jax import flags\n"
        f"def get_config({arguments}):\n    c = flags.defaults(); {line}\n    return c\n",
        encoding="utf-8",
    )
    return str(file)


@pytest.mark.parametrize("case", FILES)
def test_a_config_file_that_is_wrong_is_one_clear_line(case, tmp_path):
    line, message = FILES[case]
    with pytest.raises(UserError, match=message) as caught:
        flags.load_config(write_config(tmp_path / "mine.py", line))
    assert "\n" not in str(caught.value)


def test_a_config_file_with_arguments_is_told(tmp_path):
    with pytest.raises(UserError, match="TypeError: get_config.. missing 1 required"):
        flags.load_config(write_config(tmp_path / "mine.py", "pass", "size"))


def test_numpy_numbers_are_numbers_and_paths_are_texts(tmp_path):
    lines = "c.model.width = np.int64(64); c.optim.learning_rate = np.float32(0.5)"
    lines += "; c.data.path = pathlib.Path('a')"
    config = flags.load_config(write_config(tmp_path / "mine.py", lines))
    assert (config.model.width, config.optim.learning_rate, config.data.path) == (64, 0.5, "a")
    assert type(config.model.width) is int and type(config.data.path) is str
