"""`bench train` and `bench attention` on a tiny model: every row is timed and told."""

import json
import re

import pytest

from rmat_jax.bench import torch_peers, train
from rmat_jax.bench.attention import bench_attention
from rmat_jax.bench.plot import plot_train
from rmat_jax.bench.train import Row, bench_train
from rmat_jax.errors import UserError
from rmat_jax.flops import per_token
from tests.models import DEFAULT, tiny

MODEL = tiny(**DEFAULT, dtype="float32")
PAPER = tiny(dtype="float32")


@pytest.fixture(scope="module")
def report():
    names = ["ours", "ours, a chunk at a time", "full attention", "Transformer-XL"]
    return bench_train(MODEL, (32,), (2,), rounds=2, models=names)


def test_every_model_is_timed_at_every_size(report):
    sizes = {(row.lanes, row.tokens) for row in report.rows}
    assert sizes == {(2, 32)} and len(report.rows) == 4
    for row in report.rows:
        assert len(row.samples_s) == 2 and 0 < row.rate[0] <= row.rate[1] <= row.rate[2]
        assert row.peak_bytes > 4 * 3 * row.parameters
    at_once = {(row.model, row.tokens): row.chunks_at_once for row in report.rows}
    assert at_once["ours", 32] == 4 and at_once["ours, a chunk at a time", 32] == 1


def test_the_share_is_the_models_flops_by_the_products_speed(report):
    row = report.rows[0]
    assert row.flops == 3 * 2 * 32 * per_token(MODEL)
    row.samples_s, report.product_speed = [2.0, 2.0], 1e6
    assert report.share(row) == row.flops / 2 / 1e6


def test_it_is_told_in_a_table_in_json_and_in_a_figure(report, tmp_path):
    table = [line for line in report.text().splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 4 and all(line.count("|") == 9 for line in table)
    rows = json.loads(report.json())["rows"]
    assert len(rows) == 4 and rows[0]["tokens_per_second"]["median"] > 0
    plot_train(report, tmp_path / "train.png")
    assert (tmp_path / "train.png").stat().st_size > 10_000


def test_a_memory_of_outputs_has_one_schedule():
    assert "ours, a chunk at a time" not in train.ours(PAPER)
    assert "ours, a chunk at a time" in train.ours(MODEL)


def test_models_of_others_are_left_out_where_they_are_not_installed(monkeypatch):
    monkeypatch.setattr(torch_peers, "missing", lambda name: "pip install it")
    monkeypatch.setattr(train, "in_jax", lambda *of: (Row(of[0], 1, 16, 1, 1, 1, 1, 0.0), int))
    found = bench_train(MODEL, (16,), (1,), rounds=1)
    assert len(found.rows) == 4
    assert sum("is left out; to time it, run: pip install it" in note for note in found.notes) == 4
    with pytest.raises(UserError, match="models=GPT-2 is not installed; run: pip install it"):
        bench_train(MODEL, (16,), (1,), models=["GPT-2"])


@pytest.mark.parametrize("name", torch_peers.PACKAGES)
def test_a_model_of_others_learns(name):
    """One step changes the loss of the next."""
    if torch_peers.missing(name):
        pytest.skip(f"{name} is not installed")
    parameters, step = torch_peers.make(name, MODEL, 1, 1024)
    step()
    assert parameters > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (20,)}, "lengths=20 must be a multiple of model.chunk_len=8"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"models": ["GPT-7"]}, "models=GPT-7 is not there; there is ours, "),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        bench_train(MODEL, **{"lengths": (16,), "lanes": (1,)} | options)


def test_attention_is_timed_by_each_path_that_can():
    found = bench_attention(MODEL, (16, 32), rounds=2)
    assert [(row.path, row.tokens) for row in found.rows] == [
        (path, tokens) for tokens in (16, 32) for path in ("obvious", "xla")
    ]
    assert sum("takes model.dtype=bfloat16, not float32" in note for note in found.notes) == 4
    assert found.text().count("| xla |") == 2 and json.loads(found.json())["rows"]
    for options in ({"branches": ("local",)}, {"branches": ("full", "local")}):
        alone = bench_attention(tiny(dtype="float32", **options), (16,), rounds=1)
        assert len(alone.rows) == 2
