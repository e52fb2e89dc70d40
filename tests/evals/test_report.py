"""The report says what was measured, with the sign that the numbers have."""

import dataclasses
import json
import re
import struct

import jax
import numpy as np
import pytest

from rmat_jax.checkpoint import Checkpoints, restore_params
from rmat_jax.config import Config, DataConfig, UserError, to_dict
from rmat_jax.data import make_data
from rmat_jax.evals.evaluate import evaluate
from rmat_jax.evals.heldout import Heldout, evaluate_heldout
from rmat_jax.evals.measure import Measured
from rmat_jax.evals.report import headline, verdict, write_report
from rmat_jax.optim import make_optimizer
from rmat_jax.state import init_state

TEXT_FIGURES = ("training.png", "document.png", "chunk.png", "fusion.png", "gates.png")


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
    (workdir / "config.json").write_text(json.dumps(to_dict(config)))
    train = [
        {"step": step, "loss": 5.0 - step / 10, "accuracy": step / 40, "tokens": 64 * step, "seconds": 2.0 * step}
        for step in range(1, 21)
    ]
    heldout = [{"step": step, "bits_per_token": 7.0 - step / 10, "accuracy": step / 40} for step in (10, 20)]
    lines = [{"split": "train", "tokens_per_second": 32.0} | line for line in train]
    lines += [{"split": "heldout"} | line for line in heldout]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"split": "tr')
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


def heldout(bits, **changes):
    """Scored tokens of twenty documents."""
    count = len(bits)
    place = np.arange(count)
    of = Heldout(bits, bits < 1, place % 8, place % 50, place % 20, place % 4, chunk_len=8, num_bytes=2 * count)
    return dataclasses.replace(of, **changes)


def measured(kept, cut):
    text = kept.num_bytes is not None
    return Measured(kept, cut, np.full((2, 3), 1 / 3), None, (3.0, 2.5) if text else None, 2.25 if text else None)


@pytest.fixture(scope="module")
def better_and_worse():
    bits = np.random.default_rng(0).uniform(0, 2, 400)
    return heldout(bits), heldout(bits + np.random.default_rng(1).uniform(0.41, 0.5, 400))


def test_evaluate_writes_report_and_figures(text_config, workdir, tmp_path):
    report = evaluate(workdir, ("position",), tmp_path / "out")
    assert report == tmp_path / "out" / "report.md"
    text = report.read_text()
    assert re.findall(r"!\[.*\]\((.*)\)", text) == list(TEXT_FIGURES)
    for name in TEXT_FIGURES:
        width, height = png_size(report.parent / name)
        assert width == 840 and 100 < height < 1200

    params, _, _ = restore_params(workdir / "checkpoints")
    data = make_data(text_config, workdir)
    with_memory, without = (
        evaluate_heldout(text_config, params, data.heldout, data.heldout.num_bytes, cut=cut) for cut in (False, True)
    )
    assert with_memory.units()[0] == "documents"
    assert f"**{with_memory.bits_per_byte:.3f} bits per byte** with memory, {without.bits_per_byte:.3f} without" in text
    saved = np.abs(without.bits_per_byte - with_memory.bits_per_byte)
    assert f"{saved:.4f} ±" in text
    assert "# tiny, step 20" in text
    assert "````text\nlate\N{REPLACEMENT CHARACTER} ``` text\n````" in text and "early" not in text
    assert "| tokens read | 1,280 |" in text
    assert f"python -m rmat_jax evaluate --workdir={workdir} --suite=position" in text


def test_unknown_suites_are_named_with_the_known_ones(workdir):
    with pytest.raises(UserError, match="unknown suite 'recal'; there is position"):
        evaluate(workdir, ("position", "recal"))
    with pytest.raises(UserError, match="unknown suite ''"):
        evaluate(workdir, ())


def test_without_checkpoint_there_is_nothing_to_evaluate(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate(tmp_path)


def test_verdict_follows_the_numbers(config, better_and_worse):
    better, worse = better_and_worse
    good, bad = verdict(measured(better, worse), config), verdict(measured(worse, better), config)
    assert good.startswith("**Memory helps:** it saves 0.2")
    assert bad.startswith("**Memory did not help:** it costs 0.2")
    assert "over 20 documents" in good
    assert "the gain is +0.2" in good and "the gain is -0.2" in bad
    same = verdict(measured(better, better), config)
    assert same.startswith("**Memory did not help measurably:** its gain of +0.0000 ± 0.0000")
    one = np.zeros(400)
    single = [dataclasses.replace(of, documents=one, segments=one) for of in better_and_worse]
    assert verdict(measured(*single), config).startswith("**Whether memory helps cannot be told**")
    assert verdict(measured(better, None), config) == "This model has no memory."


def test_noise_is_not_taken_for_help(config, better_and_worse):
    better, _ = better_and_worse
    noise = np.random.default_rng(2).normal(size=400)
    noise -= noise.mean() - 0.02
    noisy = dataclasses.replace(better, bits=better.bits + noise)
    assert "did not help measurably" in verdict(measured(better, noisy), config)
    steady = dataclasses.replace(better, bits=better.bits + 0.02)
    assert "Memory helps" in verdict(measured(better, steady), config)  # the control: the same mean


def test_headline_has_the_numbers_in_their_places(better_and_worse):
    better, worse = better_and_worse
    text = headline(measured(better, worse))
    assert f"**{better.bits_per_byte:.3f} bits per byte** with memory, {worse.bits_per_byte:.3f} without" in text
    assert "`gzip -9` 2.500, an order-2 byte model 2.250" in text
    assert f"**{worse.bits_per_byte:.3f}" in headline(measured(worse, better))


def test_accuracy_where_there_are_no_bytes(config, better_and_worse):
    better, worse = (dataclasses.replace(of, num_bytes=None) for of in better_and_worse)
    text = headline(measured(better, worse))
    assert f"Held-out accuracy: **{better.accuracy:.3f}** with memory, {worse.accuracy:.3f} without" in text
    assert verdict(measured(better, worse), config).startswith("**Memory helps:** it adds 0.")
    assert verdict(measured(worse, better), config).startswith("**Memory did not help:** it costs 0.")


@pytest.mark.parametrize("streams", [("full", "local", "memory"), ("local",)])
def test_synthetic_data_and_models_without_memory(config, tmp_path, streams):
    model = dataclasses.replace(config.model, vocab_size=24, streams=streams)
    data = DataConfig(synthetic="recall")
    recall = Config(model=model, data=data, batch_size=2, chunks_per_step=6, eval_tokens=192)
    record(tmp_path / "run", recall)
    params = new_state(recall).params
    data = make_data(recall, tmp_path / "run")
    report = write_report(
        tmp_path / "run", tmp_path, config=recall, params=params, step=1, data=data, command="train me"
    )
    text = report.read_text()
    assert "Held-out accuracy: **0." in text and "bits per byte" not in text and "gzip" not in text
    assert "| guessing | 3.000 | 0.125 |" in text
    assert ("This model has no memory." in text) == (streams == ("local",))
    assert "train me\npython -m rmat_jax evaluate" in text
    figures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert figures == ["training.png"] + ["fusion.png", "gates.png"] * (streams != ("local",))


def test_no_metrics_no_training_curve(text_config, tmp_path):
    no_memory = dataclasses.replace(
        text_config, model=dataclasses.replace(text_config.model, streams=("full", "local"))
    )
    params = jax.tree.map(np.zeros_like, new_state(no_memory).params)
    data = make_data(no_memory, tmp_path)
    text = write_report(tmp_path, tmp_path, config=no_memory, params=params, step=0, data=data).read_text()
    scored = sum((batch["targets"] >= 0).sum() for batch in data.heldout)
    assert f"**{np.log2(257) * scored / data.heldout.num_bytes:.3f} bits per byte**; `gzip -9`" in text
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["document.png", "chunk.png", "fusion.png"]
