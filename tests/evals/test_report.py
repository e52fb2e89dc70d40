"""The report holds what was measured; the command asks for nothing that it cannot do, and loses
nothing that it has done.
"""

import dataclasses
import json
import re
import struct
import sys
import types

import jax
import numpy as np
import pytest

from rmat_jax import commands, flags
from rmat_jax.config import Config, DataConfig, to_saved
from rmat_jax.data import make_data
from rmat_jax.errors import UserError
from rmat_jax.evals import evaluate as door
from rmat_jax.evals.evaluate import evaluate
from rmat_jax.evals.means import Mean
from rmat_jax.evals.report import plain, write_report
from rmat_jax.evals.suite import Options, Section, Subject
from rmat_jax.evals.suites.position.suite import position
from rmat_jax.train.checkpoint import Checkpoints, restore_params
from rmat_jax.train.heldout import evaluate_heldout
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import init_state

TEXT_FIGURES = ("document.png", "chunk.png", "cut.png", "fusion.png", "gates.png", "training.png")


@pytest.fixture(scope="module")
def text_config(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for number in range(24):
        words = rng.choice(["memory ", "queue ", "gate | slot ", "chunk\n"], 20)
        (folder / f"{number}.txt").write_text("".join(words))
    return Config(
        model=dataclasses.replace(config.model, vocab_size=257),
        data=DataConfig(path=str(folder), heldout_fraction=0.5),
        batch_size=2,
        chunks_per_step=4,
        eval_tokens=2048,
    )


def new_state(config):
    return jax.jit(lambda: init_state(config, make_optimizer(config)))()


def record(workdir, config):
    """What a run leaves behind beside its checkpoints."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(to_saved(config)))
    train = [
        {
            "step": step,
            "loss": 5.0 - step / 10,
            "accuracy": step / 40,
            "tokens": 64 * step,
            "seconds": 2.0 * step,
        }
        for step in range(1, 21)
    ]
    heldout = [
        {"step": step, "bits_per_token": 7.0 - step / 10, "accuracy": step / 40}
        for step in (10, 20)
    ]
    lines = [{"split": "train", "tokens_per_second": 32.0} | line for line in train]
    lines += [{"split": "heldout"} | line for line in heldout]
    (workdir / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"split": "tr'
    )
    (workdir / "samples.txt").write_text("--- step 10\nearly\n--- step 20\nlate\x07 ``` text\n")


@pytest.fixture(scope="module")
def workdir(text_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    record(workdir, text_config)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(20, new_state(text_config), text_config)
    return workdir


def png_size(file):
    """Width and height in pixels."""
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_evaluate_writes_report_and_figures(text_config, workdir, tmp_path):
    report = evaluate(workdir, ("position",), tmp_path / "out")
    assert report == tmp_path / "out" / "report.md"
    text = report.read_text()
    assert re.findall(r"!\[.*\]\((.*)\)", text) == list(TEXT_FIGURES)
    for name in TEXT_FIGURES:
        width, height = png_size(report.parent / name)
        assert width == 840 and 100 < height < 1200

    params, *_ = restore_params(workdir / "checkpoints")
    data = make_data(text_config, workdir)
    with_memory, without = (
        evaluate_heldout(text_config, params, data.heldout, data.heldout.num_bytes, cut=cut)
        for cut in (False, True)
    )
    assert with_memory.units()[0] == "documents"
    assert f"**{with_memory.bits_per_byte:.3f} bits per byte** with memory, " in text
    assert f" with memory, {without.bits_per_byte:.3f} without" in text
    saved = np.abs(without.bits_per_byte - with_memory.bits_per_byte)
    assert f"{saved:.4f} ±" in text
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    values = numbers["suites"]["position"]
    assert values["scores"]["with_memory"]["bits_per_byte"] == pytest.approx(
        with_memory.bits_per_byte
    )
    assert values["gain"]["value"] == pytest.approx(
        without.bits_per_byte - with_memory.bits_per_byte
    )
    assert values["recovery"]["documents"] > 5 and numbers["step"] == 20
    assert "# tiny, step 20" in text
    assert "````text\nlate\N{REPLACEMENT CHARACTER} ``` text\n````" in text and "early" not in text
    assert "| tokens read | 1,280 |" in text
    assert f"python -m rmat_jax evaluate --workdir={workdir} --suite=position" in text


def subject_of(workdir, config, step=0):
    return Subject(workdir, config, new_state(config).params, step)


def report_of(subject, out):
    """The text of a report of the suite `position`."""
    out.mkdir(exist_ok=True)
    return write_report(
        subject, {"position": position(subject, Options(), out)}, out, "measure me"
    ).read_text()


@pytest.mark.parametrize("branches", [("full", "local", "memory"), ("local",)])
def test_synthetic_data_and_models_without_memory(config, tmp_path, branches):
    memory = config.model.memory if "memory" in branches else None
    model = dataclasses.replace(config.model, vocab_size=24, branches=branches, memory=memory)
    data = DataConfig(synthetic="recall")
    recall = Config(model=model, data=data, batch_size=2, chunks_per_step=6, eval_tokens=192)
    record(tmp_path / "run", recall)
    text = report_of(subject_of(tmp_path / "run", recall), tmp_path)
    assert "Held-out accuracy: **0." in text and "bits per byte" not in text and "gzip" not in text
    assert "| guessing | 3.000 | 0.125 |" in text
    assert ("This model has no memory." in text) == (branches == ("local",))
    assert "## Reproduce\n\n```sh\nmeasure me\n```" in text
    figures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert figures == ["fusion.png", "gates.png"] * (branches != ("local",)) + ["training.png"]


def test_a_model_of_pass_keys_is_scored_by_its_answers(text_config, tmp_path):
    data = dataclasses.replace(text_config.data, passkey=True, recall_gap=2)
    config = dataclasses.replace(text_config, data=data, chunks_per_step=4)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, chunk_len=32))
    record(tmp_path / "run", config)
    text = report_of(subject_of(tmp_path / "run", config), tmp_path)
    assert "Held-out accuracy: **0." in text and "bits per byte" not in text and "gzip" not in text
    assert "| guessing | 3.322 | 0.100 |" in text
    assert "Accuracy by optimiser step" in text and "Bits per token by" not in text


def test_no_metrics_no_training_curve(text_config, tmp_path):
    no_memory = dataclasses.replace(
        text_config,
        model=dataclasses.replace(text_config.model, branches=("full", "local"), memory=None),
    )
    subject = subject_of(tmp_path, no_memory)
    subject = dataclasses.replace(subject, params=jax.tree.map(np.zeros_like, subject.params))
    text = report_of(subject, tmp_path)
    data = make_data(no_memory, tmp_path)
    scored = sum((batch["targets"] >= 0).sum() for batch in data.heldout)
    assert (
        f"**{np.log2(257) * scored / data.heldout.num_bytes:.3f} bits per byte**; `gzip -9`" in text
    )
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["document.png", "chunk.png", "fusion.png"]


def suite_module(monkeypatch, name, function, check=None):
    """Puts a module of one's own in the place of a suite's."""
    module = types.ModuleType(name)
    setattr(module, name, function)
    if check:
        module.check = check
    monkeypatch.setitem(sys.modules, f"of_tests_{name}", module)
    monkeypatch.setitem(door.SUITES, name, f"of_tests_{name}")


def ready(name):
    def suite(subject, options, out):
        return Section(
            f"Title of {name}", f"Headline of {name}", "Its text.", {"one": 1.5, "none": np.nan}
        )

    return suite


def failing(subject, options, out):
    raise UserError("the disk is full")


def test_several_suites_make_one_report(monkeypatch, workdir, tmp_path):
    for name in ("length", "code"):
        suite_module(monkeypatch, name, ready(name))
    options = Options(text=str(tmp_path), seed=3)
    text = evaluate(workdir, ("code", "length"), tmp_path, options).read_text()
    places = [
        text.index(part)
        for part in ("- Headline of code", "- Headline of length", "## Title of code")
    ]
    places += [
        text.index(part) for part in ("## Title of length", "## Training", "## Run", "## Reproduce")
    ]
    assert places == sorted(places)
    assert f"--suite=code,length --out={tmp_path} --text={tmp_path} --seed=3\n" in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["suites"] == {name: {"one": 1.5, "none": None} for name in ("code", "length")}


def test_what_was_measured_before_an_error_is_kept(monkeypatch, workdir, tmp_path):
    suite_module(monkeypatch, "length", ready("length"))
    suite_module(monkeypatch, "recall", failing)
    suite_module(monkeypatch, "code", ready("code"))
    with pytest.raises(
        UserError, match=r"suite recall: the disk is full; the rest is in .*report.md"
    ):
        evaluate(workdir, ("length", "recall", "code"), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Title of length" in text and "Title of code" in text
    assert "- **recall was not measured**: the disk is full" in text
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == {
        "recall": "the disk is full"
    }


def test_a_crash_leaves_the_report_of_what_came_before(monkeypatch, workdir, tmp_path):
    def crash(subject, options, out):
        raise RuntimeError("out of memory")

    suite_module(monkeypatch, "length", ready("length"))
    suite_module(monkeypatch, "recall", crash)
    with pytest.raises(RuntimeError):
        evaluate(workdir, ("length", "recall"), tmp_path)
    assert "Title of length" in (tmp_path / "report.md").read_text()


def test_all_checks_come_before_any_work(monkeypatch, workdir, tmp_path):
    done = []
    suite_module(monkeypatch, "length", lambda *_: done.append("length"))
    suite_module(monkeypatch, "code", ready("code"), check=failing_check)
    with pytest.raises(UserError, match="too short"):
        evaluate(workdir, ("length", "code"), tmp_path)
    assert not done and not (tmp_path / "report.md").exists()


def failing_check(subject, options):
    raise UserError("too short")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--suite=position,recal"],
            "unknown suite 'recal'; there is position, length, recall, babi, ruler, qa,",
        ),
        (["--suite="], "unknown suite ''"),
        (["--suite=recall,position,recall"], "suite 'recall' is named twice"),
        (["--suite=position,qa"], "suite 'qa' needs a file; give --qa=PATH"),
        (["--suite=babi"], "give --babi=PATH"),
        (["--suite=position", "--text=nowhere"], "--text=nowhere does not exist"),
        (["--suite=summary", "--summary=nowhere.jsonl"], "--summary=nowhere.jsonl does not exist"),
        (["--suite=position", "--examples=0"], "examples=0 must be at least 1"),
        (["--suite=position", "--max_tokens=many"], "--max_tokens"),
    ],
)
def test_bad_requests_are_one_line_and_exit_with_2(given, message, workdir, tmp_path, capsys):
    code = flags.run(
        lambda: commands.main(
            ["evaluate", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *given]
        )
    )
    assert code == 2
    assert message in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_of_synthetic_data_is_asked_for_no_text(config, tmp_path):
    recall = Config(
        model=dataclasses.replace(config.model, vocab_size=24),
        data=DataConfig(synthetic="recall"),
        batch_size=2,
    )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, new_state(recall), recall)
    with pytest.raises(UserError, match="no text and no tokenizer"):
        evaluate(tmp_path, ("recall", "length"), tmp_path / "out")


def test_without_checkpoint_there_is_nothing_to_evaluate(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate(tmp_path)


def test_help_names_every_option_and_its_default(capsys):
    with pytest.raises(SystemExit):
        commands.main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, value in vars(Options()).items():
        assert f"--{name}" in text
        assert value is None or f"default {value}" in text


def test_numbers_are_valid_json():
    value = {
        "mean": Mean(np.nan, 1.0, 2),
        "array": np.array([1.5, np.inf]),
        3: (np.int64(4), True, None),
    }
    expected = {
        "mean": {"value": None, "error": 1.0, "units": 2},
        "array": [1.5, None],
        "3": [4, True, None],
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected
