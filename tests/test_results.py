"""The tables of the results are those of the records, and each record has a row that makes it."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.rows import QUESTIONS, ROWS
from rmat_jax.errors import UserError
from tests.test_printed_commands import arguments, check

ROOT = Path(__file__).parents[1]
RECORDS = sorted(results.RECORDS.glob("*.json"))
MARKED = [
    page for page in sorted(results.PAGES.glob("*.md")) if results.MARK.search(page.read_text())
]


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_each_record_has_its_row(file):
    kept = json.loads(file.read_text(encoding="utf-8"))
    row = ROWS[kept["row"]]
    assert kept["row"] == file.stem
    assert kept["question"] == QUESTIONS[row.questions.split()[0]].text
    assert bool(kept["commands"]) == bool(row.commands)
    assert kept["figures"]


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_the_pages_have_the_tables_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert results.filled(text) == text


def test_each_question_has_its_table_below_its_heading():
    text = (results.PAGES / "results.md").read_text(encoding="utf-8")
    for key, question in QUESTIONS.items():
        after = text.partition(f"## {question.text}\n")[2].partition("\n## ")[0]
        assert f"<!-- table: {key} -->" in after, question.text


def test_control_another_figure_changes_the_page(tmp_path, monkeypatch):
    for file in RECORDS:
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"))
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    page = "<!-- table: memory -->\n<!-- end -->"
    before = results.filled(page)
    assert results.filled(before) == before
    kept = json.loads((tmp_path / "quickstart.json").read_text())
    kept["figures"]["score"]["0"] += 0.1
    (tmp_path / "quickstart.json").write_text(json.dumps(kept))
    assert results.filled(before) != before


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.commit])
def test_each_command_can_be_typed(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in results.commands(ROWS[name], ROWS[name].seeds):
        program, argv = arguments(shlex.split(command))
        with monkeypatch.context() as patch:
            check(program, argv, patch)


def test_differences_are_taken_seed_by_seed():
    base = {"0": 1.0, "1": 2.0, "2": 3.0}
    found = results.difference({"0": 1.1, "1": 2.1, "2": 3.1, "7": 9.0}, base)
    assert math.isclose(found.value, 0.1) and found.error < 1e-12 and found.units == 3
    assert results.counts(found) == "yes"
    # as far, and with another spread
    wide = results.difference({"0": 1.0, "1": 2.3, "2": 3.0}, base)
    assert math.isclose(wide.value, 0.1) and results.counts(wide) == "no"
    assert results.counts(results.difference({"1": 2.3}, base)) == "one seed"
    assert results.difference({"7": 9.0}, base) is None


def test_three_seeds_need_4_3_standard_errors():
    assert results.counts(results.Mean(4.4, 1.0, 3)) == "yes"
    assert results.counts(results.Mean(4.2, 1.0, 3)) == "no"
    assert results.counts(results.Mean(-2.9, 1.0, 5)) == "yes"


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--row=gone", "--out=x"], "--row=gone is not there"),
        (["--row=far"], "--out=DIR"),
        (["--row=versions", "--out=x"], "no command"),
        (["--row=v1-far", "--out=x", "--config.steps=3"], "a row of version 1"),
        (["--row=far", "--out=x", "--seed=3"], "unknown argument '--seed=3'"),
        ([], "nothing is asked for"),
    ],
)
def test_bad_input_is_told(argv, told, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["results.py", *argv])
    with pytest.raises(UserError, match=told.replace("--", "-?-?")):
        results.main()


@pytest.mark.slow
def test_a_row_is_made_anew(tmp_path):
    """Trains a base and a variant of it for a few steps, and does not train them again."""
    (tmp_path / "text.txt").write_text("A line of text, and another.\n" * 400)
    tiny = {
        "data.path": tmp_path / "text.txt",
        "model.width": 16,
        "model.num_layers": 1,
        "model.chunk_len": 16,
        "model.local.window": 8,
        "steps": 2,
        "optim.warmup_steps": 0,
        "eval_tokens": 256,
        "mesh.data": 1,
        "log.sample_tokens": 0,
    }
    out = tmp_path / "runs"
    command = [sys.executable, "benchmarks/results.py", "--seeds=0,1", f"--out={out}"]
    command += ["--row=quickstart,quickstart-no-gate"]
    command += [f"--config.{key}={value}" for key, value in tiny.items()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = json.loads((out / "quickstart-no-gate.json").read_text())
    base = json.loads((out / "quickstart.json").read_text())
    score, other = kept["figures"]["score"], base["figures"]["score"]
    assert list(score) == ["0", "1"] and score != other
    found = results.difference(score, other)
    assert found.units == 2 and math.isfinite(found.error)
    assert kept["seconds"] > 0 and kept["hardware"]["cores"] >= 1 and kept["commit"]
    # the record of the row as it is stays
    assert results.record("quickstart")["commands"] != base["commands"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and again.stderr.count("has ended before") == 2
    assert json.loads((out / "quickstart-no-gate.json").read_text()) == kept
