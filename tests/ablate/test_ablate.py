"""A comparison is trained once, goes on where it was, and reports what its runs scored."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from rmat_jax.ablate import Variant, ablate, report
from rmat_jax.config import (
    PAPER,
    Config,
    DataConfig,
    Local,
    LogConfig,
    MeshConfig,
    OptimConfig,
)
from rmat_jax.errors import UserError
from rmat_jax.evals.suite import load_subject
from rmat_jax.train import loop

MODEL = dataclasses.replace(
    PAPER,
    width=8,
    mlp_width=32,
    num_layers=1,
    num_heads=2,
    chunk_len=8,
    local=Local(window=4, sliding=False),
    memory=dataclasses.replace(PAPER.memory, slots=4, writes=2),
)
VARIANTS = [
    Variant("memory off", {"model.branches": ("full", "local")}),
    Variant("lost", {"optim.learning_rate": 1e30}),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for number in range(8):
        (folder / f"{number}.txt").write_text(
            " ".join(rng.choice(["memory", "queue", "gate"], 100))
        )
    return Config(
        model=MODEL,
        data=DataConfig(path=str(folder), heldout_fraction=0.5),
        optim=OptimConfig(warmup_steps=1, learning_rate=1e-2),
        mesh=MeshConfig(data=1),
        log=LogConfig(every=1, sample_tokens=0),
        steps=6,
        batch_size=2,
        chunks_per_step=2,
        eval_tokens=512,
    )


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    code = ablate(config, out, VARIANTS, (0,), command="python -m rmat_jax ablate --config=x.py")
    return out, code


def results(out):
    return {(r["name"], r["seed"]): r for r in json.loads((out / "results.json").read_text())}


def test_every_run_is_in_the_table(compared, config):
    out, code = compared
    found, report = results(out), (out / "report.md").read_text()
    # one is lost
    assert code == 1
    assert set(found) == {("base", 0), ("memory off", 0), ("lost", 0)}
    base, off = found["base", 0], found["memory off", 0]
    assert f"{base['score']:.4f}" in report and f"{off['score'] - base['score']:+.4f}" in report
    assert f"| {2 ** base['bits_per_token']:.2f} |" in report
    assert base["tokens"] == off["tokens"] == config.steps * config.batch_size * config.segment_len
    assert base["score_without_memory"] is not None and off["score_without_memory"] is None
    assert abs(base["parameters"] - off["parameters"]) <= 8.5
    assert base["score"] != off["score"]
    assert "python -m rmat_jax ablate --config=x.py" in report
    assert (out / "variants.png").stat().st_size and (out / "document.png").stat().st_size


def test_a_run_that_is_lost_says_so_and_keeps_nobody(compared):
    out, _ = compared
    assert "learning_rate" in results(out)["lost", 0]["error"]
    assert "failed: step" in (out / "report.md").read_text()


def test_what_is_finished_is_not_trained_again(compared, config, capsys):
    out, _ = compared
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/checkpoints")}
    assert ablate(config, out, VARIANTS[:1], (0,)) == 0
    assert "2 finished before" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/checkpoints")} == before
    # another config is another run
    other = dataclasses.replace(config, steps=7)
    folders = len(list(out.iterdir()))
    assert ablate(other, out, [], (0,)) == 0
    assert "0 finished before" in capsys.readouterr().err
    assert len(list(out.iterdir())) == folders + 1


def test_runs_may_be_moved_and_what_failed_is_tried_afresh(compared, config, tmp_path):
    out = tmp_path / "elsewhere"
    shutil.copytree(compared[0], out, symlinks=True)
    # its links lead to what was moved with it
    assert load_subject(next(out.glob("base-0-*"))).tokenizer.describe
    assert all(link.resolve().is_relative_to(out) for link in out.glob("*/tokenizer"))
    (lost,) = out.glob("lost-0-*")
    assert ablate(config, out, VARIANTS, (0,)) == 1
    assert (lost / "log.txt").read_text().count("error:") == 2


@pytest.fixture
def editable(config, tmp_path):
    """The same on a text of its own, tmp_path / "text"."""
    (tmp_path / "text").mkdir()
    for number in range(8):
        (tmp_path / "text" / f"{number}.txt").write_text(f"memory {number} " * 50)
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, path=str(tmp_path / "text"))
    )


@pytest.mark.slow
def test_a_text_edited_between_two_commands_is_told(editable, tmp_path):
    out = tmp_path / "out"
    # another text is asked for, not edited: the control
    other = Variant("other text", {"data.heldout_fraction": 0.25})
    assert ablate(editable, out, [other], (0,)) == 0
    assert "The text was changed" not in (out / "report.md").read_text()
    (tmp_path / "text" / "3.txt").write_text("queue " * 50)
    assert ablate(editable, out, [], (0, 1)) == 0
    assert "The text was changed between runs" in (out / "report.md").read_text()
    # a result of an earlier version does not say what it read
    assert not report._changed_text([{}])


def test_text_that_has_changed_since_is_not_measured(editable, tmp_path):
    assert loop.run(editable, tmp_path / "run") == 0
    # the control
    assert load_subject(tmp_path / "run").data.heldout
    (tmp_path / "text" / "3.txt").write_text("queue " * 50)
    changed = load_subject(tmp_path / "run")
    with pytest.raises(UserError, match="the data of .* has changed: .*; bring it back"):
        _ = changed.data


def test_a_signal_reaches_the_runs_which_save(config, tmp_path):
    long = dataclasses.replace(config, steps=100_000)

    def stop():
        while not list(tmp_path.glob("*/metrics.jsonl")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert ablate(long, tmp_path, [], (0,)) == 128 + signal.SIGTERM
    (log,) = tmp_path.glob("*/log.txt")
    assert "saved at step" in log.read_text()
    assert not multiprocessing.active_children()
    assert "1 to come" in (tmp_path / "report.md").read_text()


def test_a_run_whose_parent_is_killed_saves_and_ends(config, tmp_path):
    long = dataclasses.replace(config, steps=100_000)
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=ablate, args=(long, tmp_path, [], (0,)))
    parent.start()
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("*/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.1)
        (log,) = tmp_path.glob("*/log.txt")
        parent.kill()
        while "saved at step" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        parent.kill()
    assert "SIGTERM" in log.read_text() and "saved at step" in log.read_text()


@pytest.mark.parametrize(
    "given,words",
    [
        ({"seeds": (0, 0)}, ["0,0"]),
        ({"seeds": ()}, ["at least one"]),
        ({"jobs": 0}, ["jobs=0"]),
        ({"variants": [VARIANTS[0], VARIANTS[0]]}, ["memory off", "own name"]),
        ({"variants": [Variant("odd", {"model.memory.writes": 3})]}, ["odd", "memory.writes=3"]),
        (
            {"variants": [Variant("wide", {"model.mlp_width": 64})]},
            ["wide", "undo", "--parameters=free"],
        ),
        ({"variants": [Variant("again", {"data.seed": 7})]}, ["again", "--seeds"]),
        (
            {
                "variants": [
                    Variant("idle", {"model.memory.gate": "none", "model.memory.gate_bias": 2.0})
                ]
            },
            ["idle", "model.memory.gate_bias=2.0 has no effect with model.memory.gate=none"],
        ),
    ],
)
def test_bad_input_trains_nothing(config, tmp_path, given, words):
    with pytest.raises(UserError) as error:
        ablate(config, tmp_path, **{"variants": [], "seeds": (0,)} | given)
    for word in words:
        assert word in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_refused(config, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(
        UserError, match="cannot be made or written to: File exists; choose another"
    ):
        ablate(config, tmp_path / "out", [], (0,))


def offsets(*bits, tokens=100):
    bins = len(bits)
    return {
        "edges": [0, *(2**i for i in range(bins))],
        "bits": list(bits),
        "tokens": [tokens] * bins,
    }


def test_curves_by_position_are_compared_within_a_seed():
    base = [{"offsets": offsets(9, 1, 2, 3)}, {"offsets": offsets(9, 5, 6, 7)}]
    # by half a bit and a quarter, and a longer document
    worse = {"offsets": offsets(9, 5.5, 6.25, 7.0, 8.0)}
    places, difference = report._by_offset([(worse, base[1])])
    np.testing.assert_allclose(difference, [0.5, 0.25, 0.0])
    # of [1, 2), [2, 4), [4, 8)
    np.testing.assert_allclose(places, [1.0, 6**0.5, 28**0.5])
    places, difference = report._by_offset([(worse, base[1]), (base[0], base[0])])
    np.testing.assert_allclose(difference, [0.25, 0.125, 0.0])
    rare = {"offsets": offsets(9, 1, 2, 3, tokens=report.MIN_TOKENS - 1)}
    assert not len(report._by_offset([(worse, base[1]), (rare, base[0])])[0])


@pytest.mark.parametrize(
    "seeds, words",
    [(1, ""), (2, "with 2 seeds it is significant from 12.7"), (3, "from 4.3 of these")],
)
def test_few_seeds_are_not_sure_of_their_spread(seeds, words):
    pair = {"score": 1.0}, {"score": 2.0}
    row = report.Row(VARIANTS[0], [pair[0]] * seeds, [pair] * seeds, [], 0)
    # its pairs with itself do not count
    base = report.Row(Variant("base", {}), [], [pair] * 9, [], 0)
    text = report._counts_from([base, row])
    assert words in text and bool(text) == bool(words)


def test_models_that_read_unequal_amounts_are_told_apart():
    assert report._tokens_read([{"tokens": 1000}] * 2) == "Each run read 1,000 tokens."
    assert "Runs read 500 to 1,000 tokens" in report._tokens_read(
        [{"tokens": 1000}, {"tokens": 500}]
    )
