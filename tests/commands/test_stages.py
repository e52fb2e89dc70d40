"""A curriculum: stage after stage, each with the weights of the one before."""

import numpy as np
import pytest

from rmat_jax import flags
from rmat_jax.commands import main
from rmat_jax.errors import UserError
from rmat_jax.train.checkpoint import restore_params

LINES = """
from rmat_jax import flags

def get_config():
    c = flags.defaults()
    c.data.synthetic = "recall"
    c.model.vocab_size, c.model.width, c.model.num_layers, c.model.num_heads = 24, 8, 1, 2
    c.model.chunk_len, c.batch_size, c.steps, c.optim.warmup_steps = 8, 2, 2, 0
    c.log.trackers, c.log.sample_tokens, c.eval_tokens, c.mesh.data = (), 0, 64, 1
    return c

def get_stages():
    return STAGES
"""
STAGES = [{"chunks_per_step": 2, "data.recall_gap": 0}, {"chunks_per_step": 3, "steps": 1}]


def write(folder, stages=STAGES):
    file = folder / "mine.py"
    file.write_text(LINES.replace("STAGES", repr(stages)))
    return str(file)


def weights(workdir):
    params, values, step, _ = restore_params(workdir / "checkpoints")
    return np.concatenate([np.ravel(x) for x in _leaves(params)]), values, step


def _leaves(tree):
    return [tree] if not isinstance(tree, dict) else sum(map(_leaves, tree.values()), [])


def test_a_stage_begins_with_the_weights_of_the_one_before(tmp_path, capsys):
    command = ["train", f"--config={write(tmp_path)}", f"--workdir={tmp_path / 'run'}"]
    # no step changes anything, so each stage ends with what it began with
    frozen = [*command, "--config.optim.learning_rate=1e-30", "--config.optim.weight_decay=0"]
    assert main(frozen) == 0
    first, values, step = weights(tmp_path / "run/stage-1")
    assert (values["chunks_per_step"], values["data"]["recall_gap"], step) == (2, 0, 2)
    second, values, step = weights(tmp_path / "run/stage-2")
    assert (values["chunks_per_step"], values["data"]["recall_gap"], step) == (3, 4, 1)
    np.testing.assert_array_equal(first, second)
    # the control: another seed of the second stage alone begins elsewhere
    alone = [*frozen[:2], f"--workdir={tmp_path / 'alone'}", "--config.seed=1", *frozen[3:]]
    assert main(alone) == 0
    assert np.abs(weights(tmp_path / "alone/stage-2")[0] - second).max() > 1e-3
    # the same command trains nothing anew
    capsys.readouterr()
    assert main(frozen) == 0
    printed = capsys.readouterr()
    assert "compiling the train step" not in printed.out + printed.err
    assert "stage 2 of 2" in printed.out + printed.err


def test_overrides_hold_in_every_stage(tmp_path):
    stages = flags.load_stages(write(tmp_path), ["--config.steps=7"])
    assert [c.steps for c in stages] == [7, 7] and [c.chunks_per_step for c in stages] == [2, 3]
    assert [c.steps for c in flags.load_stages(write(tmp_path))] == [2, 1]
    # a file without stages has one
    assert flags.load_stages("quickstart") == [flags.load_config("quickstart")]


@pytest.mark.parametrize(
    "stages, message",
    [
        ([], r"get_stages\(\) of config file .* must return a list of dicts, .*; it returns \[\]"),
        ({"steps": 2}, "must return a list of dicts"),
        ([{"step": 2}], "no config has the key 'step'; did you mean"),
        ([{"steps": 0}], "steps=0 must be positive"),
    ],
)
def test_stages_that_are_none_are_said(tmp_path, stages, message):
    with pytest.raises(UserError, match=message):
        flags.load_stages(write(tmp_path, stages))


def test_until_stops_one_run_alone(tmp_path):
    command = ["train", f"--config={write(tmp_path)}", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="--until=1 stops one run, and .* has 2 stages; leave it"):
        main([*command, "--until=1"])
    assert not (tmp_path / "run").exists()
