"""Bad input gives one clear line (the value, the rule, what to do) and exit code 2.

Nothing is lost by it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from rmat_jax import commands, flags, infer
from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from tests.train.test_resume import CONFIG, ROOT, small_flags


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A line of text, and another.\n" * 400)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `train.py` or a command, and returns its exit code and its standard error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments, main=commands.train_alone):
        monkeypatch.setattr("sys.argv", ["train.py", *map(str, arguments)])
        code = flags.run(main)
        return code, capsys.readouterr().err

    return run


def assert_one_line(result, *parts: str) -> None:
    code, stderr = result
    assert code == 2, stderr
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    for part in parts:
        assert part in stderr


BAD = {
    "a key that no config has": (
        ["--config.model.chunk_lne=32"],
        ["chunk_lne", "--config.model.chunk_len"],
    ),
    "a key of another group": (
        ["--config.chunk_len=32"],
        ["did you mean --config.model.chunk_len"],
    ),
    "an override without its dashes": (
        ["config.steps=5"],
        ["lacks its dashes", "--config.steps=5"],
    ),
    "an override without dashes and config": (
        ["model.width=5"],
        ["lacks its dashes", "--config.model.width=5"],
    ),
    "an override without a value": (["--config.steps", "5"], ["has no value"]),
    "dashes for a value": (["--until=--"], ["--until=-- has no value"]),
    "another flag": (["--workdri=x"], ["--workdri=x", "did you mean --workdir"]),
    "a value of another type": (["--config.model.width=wide"], ["model.width", "wide"]),
    "a choice that is none": (
        ["--config.model.memory.gate=oldest"],
        ["model.memory.gate=oldest", "slot, gru, none"],
    ),
    "a key of what is switched off": (
        ["--config.model.branches=full,memory"],
        ["--config.model.local.window=8 has no effect with model.branches=full,memory; drop it"],
    ),
    "heads that do not divide": (
        ["--config.model.width=100", "--config.model.num_heads=8"],
        ["try model.width=96 or 104"],
    ),
    "windows that do not divide": (
        ["--config.model.local.window=7", "--config.model.local.sliding=False"],
        ["model.local.window=7", "model.chunk_len=16", "try"],
    ),
    "writes that do not divide": (
        ["--config.model.memory.writes=3"],
        ["model.memory.writes=3", "must divide model.chunk_len=16"],
    ),
    "a warm-up longer than the run": (
        ["--config.optim.warmup_steps=10"],
        ["warmup_steps=10", "steps=10"],
    ),
    "two sources": (["--config.data.tfds=pg19"], ["data.path and data.tfds", "give one"]),
    "a path that does not exist": (["--config.data.path=nowhere.txt"], ["nowhere.txt"]),
    "a corpus too small": (["--config.batch_size=4096"], ["4096", "batch_size"]),
    "token ids outside the vocabulary": (
        ["--config.model.vocab_size=200"],
        ["257", "vocab_size=200"],
    ),
    "a step before the first": (["--until=0"], ["until=0"]),
    "64 bits that JAX does not have": (["--config.model.dtype=float64"], ["JAX_ENABLE_X64=1"]),
    "a mesh larger than the devices": (
        ["--config.mesh.fsdp=9"],
        ["mesh.fsdp=9", "needs 9 devices, there are 8"],
    ),
    "lanes that the mesh does not divide": (
        ["--config.mesh.data=8"],
        ["batch_size=4", "accumulation=2 = 16"],
    ),
    "a vocabulary that the mesh does not divide": (
        ["--config.mesh.tensor=2"],
        ["mesh.tensor=2 must divide model.vocab_size=257", "try model.vocab_size=258"],
    ),
    "held-out lanes that the mesh does not divide": (
        ["--config.mesh.data=2", "--config.eval_batch_size=3"],
        ["eval_batch_size=3", "try eval_batch_size=4"],
    ),
    "pmap that divides parameters": (
        ["--config.mesh.parallelism=pmap", "--config.mesh.fsdp=2"],
        ["mesh.fsdp=2", "jit"],
    ),
    "an address for a workdir": (
        ["--workdir=s3://bucket/run"],
        ["is an address", "mount the bucket"],
    ),
    "a process without the others": (
        ["--process_id=1"],
        ["--coordinator", "give all three or none"],
    ),
    "a workdir that is a file": ([f"--workdir={__file__}"], ["cannot be made"]),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_and_exit_code_2(case, run, text, tmp_path):
    arguments, parts = BAD[case]
    result = run(
        f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *small_flags(text), *arguments
    )
    assert_one_line(result, *parts)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_control_good_input_is_not_an_error(run, text, tmp_path):
    code, stderr = run(
        f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *small_flags(text), "--until=1"
    )
    assert (code, stderr) == (0, "")


def test_a_config_file_that_is_not_there(run, tmp_path):
    assert_one_line(
        run("--config=configs/quikstart.py", f"--workdir={tmp_path}"),
        "quikstart",
        "configs/quickstart.py",
    )


def test_a_config_file_that_fails(run, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from rmat_jax import flags\n"
        "def get_config():\n    c = flags.defaults()\n    c.model.widht = 3\n    return c\n"
    )
    assert_one_line(run(f"--config={file}", f"--workdir={tmp_path}"), "mine.py", "widht", "width")


def test_no_flags(run):
    assert_one_line(run(), "--config", "--workdir")


def test_an_empty_corpus(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "nothing.txt").touch()
    assert_one_line(
        run(
            f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *small_flags(tmp_path / "empty")
        ),
        "empty",
    )


def test_a_workdir_of_another_config(run, workdir):
    before = {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}
    text = workdir.parent / "text.txt"
    result = run(
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        *small_flags(text),
        "--config.model.mlp_width=24",
    )
    assert_one_line(result, "model.mlp_width was 64, is 24", "--config.model.mlp_width=64")
    # Nothing is lost.
    assert before == {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}


COMMANDS = {
    "an empty prompt": (["generate", "--prompt="], ["the prompt is empty"]),
    "no prompt": (["generate"], ["no prompt", "--prompt=TEXT"]),
    "no prompt for a new session": (["generate", "--session=nobody.safetensors"], ["no prompt"]),
    "no tokens asked for": (
        ["generate", "--prompt=a", "--max_new_tokens=0"],
        ["max_new_tokens=0", "--session=FILE"],
    ),
    "fewer than none": (
        ["generate", "--prompt=a", "--max_new_tokens=-1"],
        ["max_new_tokens=-1", "from 1 to"],
    ),
    "a session in no folder": (
        ["generate", "--prompt=a", "--session=no/a"],
        ["no/a", "no folder no"],
    ),
    "a session that is none": (
        ["generate", "--session=README.md"],
        ["README.md", "is no safetensors file, or damaged"],
    ),
    "an empty stop": (["generate", "--prompt=a", "--stop="], ["stop=", "empty"]),
    "a seed that is none": (["generate", "--prompt=a", "--seed=-1"], ["seed=-1"]),
    "a top_p above 1": (["generate", "--prompt=a", "--top_p=1.5"], ["top_p=1.5"]),
    "a text that is not there": (["score", "nowhere.txt"], ["nowhere.txt", "standard input"]),
    "an unknown suite": (["evaluate", "--suite=positions", "--out=x"], ["positions", "position"]),
    "an unknown flag": (["generate", "--prompt=a", "--temprature=1"], ["temprature"]),
    "an unknown command": (["generat"], ["generat"]),
    "a misspelt flag of ablate": (
        ["ablate", f"--config={CONFIG}", "--out=x", "--jbos=2"],
        ["--jbos=2", "did you mean --jobs"],
    ),
    "a flag that ablate has not": (
        ["ablate", f"--config={CONFIG}", "--out=x"],
        ["--workdir", "--help lists them"],
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case, run, workdir):
    arguments, parts = COMMANDS[case]
    where = [f"--workdir={workdir}"] if arguments[0] != "generat" else []
    assert_one_line(run(main=lambda: commands.main([*arguments, *where])), *parts)


def test_a_workdir_without_a_checkpoint(run, tmp_path):
    result = run(
        main=lambda: commands.main(["generate", "--prompt=a", f"--workdir={tmp_path / 'no'}"])
    )
    assert_one_line(result, "no checkpoint")
    assert not Path(tmp_path / "no").exists()


@pytest.mark.parametrize("token", [-1, 11])
def test_token_ids_outside_the_vocabulary(token):
    model = RMAT(
        RMATConfig(
            vocab_size=11,
            width=8,
            num_layers=1,
            num_heads=2,
            chunk_len=4,
        )
    )
    with pytest.raises(UserError, match=f"token id {token} is outside the vocabulary 0..10"):
        infer.prefill(model, {}, infer.begin(model, 1), np.array([[1, token, 3]]))


def test_configs_are_sound():
    """Every file of configs/ passes its checks and survives JSON."""
    from rmat_jax.config import Config, from_dict, to_dict

    files = sorted((ROOT / "configs").glob("*.py"))
    assert len(files) >= 5
    for file in files:
        config = flags.load_config(str(file))
        assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
