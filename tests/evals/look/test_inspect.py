"""What `inspect` counts agrees with the definitions: reads with NumPy, what stays with closed
forms.
"""

import dataclasses
import json
import os
import re
import threading

import jax
import numpy as np
import pytest

from rmat_jax.config import Config, Local, Memory
from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.look.count import BINS, Counts, Timeline
from rmat_jax.evals.look.look import inspect
from rmat_jax.evals.look.read import begin, look, mark_ages, windows
from rmat_jax.evals.look.text import DISTANCES, EVENLY, LEVELS, TextGauge, level, page
from rmat_jax.model import RMAT
from rmat_jax.train.checkpoint import Checkpoints
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import init_state
from tests.evals.tiny import MODEL, subject

RNG = np.random.default_rng(0)
# forty chunks and a piece of one
TEXT = RNG.integers(97, 123, 16 * 40 + 5).astype(np.int32)
UNGATED = dataclasses.replace(MODEL.memory, gate="none", gate_bias=None)
# chunks after which a slot is written over
TURN = 3


def watched(one, text=TEXT):
    """All that was seen, chunk by chunk, and the counts."""
    config, counts, looking, parts = (
        one.config.model,
        Counts(one.config.model),
        begin(one.config.model),
        [],
    )
    for tokens_NC, targets_NC in windows(config, [text[:100], text[100:]], 256):
        marked_NR = mark_ages(config, counts.chunks, len(tokens_NC)) == 0
        looking, seen = look(config, one.params, looking, tokens_NC, targets_NC, marked_NR)
        parts.append(jax.device_get(seen))
        counts.add(parts[-1], targets_NC)
    return jax.tree.map(lambda *x: np.concatenate(x), *parts), counts


def with_bias(one, bias):
    """Gates that are open by sigmoid(bias), whatever is written."""
    gate = one.params["layers"]["memory"]["gate"]
    gate = (
        gate
        | {name: np.zeros_like(gate[name]) for name in ("Wz", "Uz")}
        | {"bz": np.full_like(gate["bz"], bias)}
    )
    memory = one.params["layers"]["memory"] | {"gate": gate}
    return dataclasses.replace(
        one, params=one.params | {"layers": one.params["layers"] | {"memory": memory}}
    )


@pytest.fixture(scope="module")
def seen_and_counts():
    return watched(subject())


def test_windows_are_the_document():
    config = subject().config.model
    parts = list(windows(config, [TEXT[:7], TEXT[7:]], 256))
    tokens, targets = (np.concatenate([part[side].ravel() for part in parts]) for side in (0, 1))
    assert tokens[: len(TEXT) + 1].tolist() == [256, *TEXT] and targets[
        : len(TEXT) + 1
    ].tolist() == [*TEXT, 256]
    assert (targets[len(TEXT) + 1 :] == -1).all() and len({part[0].shape for part in parts}) == 1


def test_bits_are_those_of_one_reading(seen_and_counts):
    one, (seen, counts) = subject(), seen_and_counts
    model, tokens = (
        RMAT(one.config.model),
        np.concatenate([[256], TEXT, [256]])[None].astype(np.int32),
    )
    scores, _ = jax.jit(lambda x, y: model.apply({"params": one.params}, x, y, method=RMAT.score))(
        tokens[:, :-1], tokens[:, 1:]
    )
    assert counts.tokens == len(TEXT) + 1 and counts.chunks == 41
    assert counts.bits[0] == pytest.approx(float(scores.loss_BT.sum()) / np.log(2), rel=1e-5)
    assert abs(counts.bits[1] - counts.bits[0]) > 1
    # nothing to empty yet
    np.testing.assert_allclose(seen.cut_C[0], seen.loss_C[0], rtol=1e-5)
    assert counts.place_bits_2C.sum() == pytest.approx(counts.bits.sum())


def test_reads_agree_with_numpy(seen_and_counts):
    """The first layer of the seventh chunk, from the parameters alone."""
    one, (seen, _) = subject(), seen_and_counts
    model = RMAT(one.config.model)
    tokens = np.concatenate([[256], TEXT])[: 16 * 7][None].astype(np.int32)
    _, state = model.apply({"params": one.params}, tokens[:, :96])
    layer = jax.tree.map(lambda x: np.asarray(x[0], np.float64), one.params["layers"])

    def norm(x, of):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * of["scale"] + of["bias"]

    # sqrt(D) = 4
    x_CD = 4 * np.asarray(one.params["embed"]["embedding"], np.float64)[tokens[0, 96:]]
    q_CHE = (norm(x_CD, layer["attention_norm"]) @ layer["query"]["kernel"]).reshape(16, 2, 8)
    slots_MD, ages_M = (
        np.asarray(state.slots_LBMD[0, 0], np.float64),
        np.asarray(state.ages_BM[0]),
    )
    keys_MHE = (
        norm(slots_MD, layer["memory"]["read_norm"]) @ layer["memory"]["key"]["kernel"]
    ).reshape(6, 2, 8)
    scores_HCM = np.einsum("che,mhe->hcm", q_CHE, keys_MHE) / np.sqrt(8)
    weights_HCM = np.exp(scores_HCM) / np.exp(scores_HCM).sum(-1, keepdims=True)
    np.testing.assert_allclose(seen.mass_LM[6, 0], weights_HCM.sum((0, 1)) / 2, rtol=1e-4)
    np.testing.assert_array_equal(seen.ages_M[6], ages_M)
    assert ages_M.tolist() == [3, 3, 2, 2, 1, 1]
    entropy_HC = -(weights_HCM * np.log(weights_HCM)).sum(-1)
    np.testing.assert_allclose(seen.slots_LH[6, 0], np.exp(entropy_HC).sum(1), rtol=1e-4)
    # the control: slots are not read alike
    assert np.ptp(seen.mass_LM[6, 0]) > 0.05


def test_the_attention_on_all_slots_is_one(seen_and_counts):
    seen, counts = seen_and_counts
    scored_N = np.full(41, 16)
    scored_N[-1] = 6
    np.testing.assert_allclose(
        seen.mass_LM[1:41].sum(2), np.repeat(scored_N[1:, None], 2, 1), rtol=1e-5
    )
    # nothing is written yet
    assert (seen.mass_LM[0] == 0).all()
    assert counts.reads == scored_N[1:].sum()
    by_age_LA, even_LA = counts.read_by_age_LA()
    expected = [
        [seen.mass_LM[:41, layer][seen.ages_M[:41] == age].sum() for age in (1, 2, 3)]
        for layer in (0, 1)
    ]
    np.testing.assert_allclose(by_age_LA, np.array(expected) / counts.reads, rtol=1e-5)
    for shares in (by_age_LA, even_LA, *counts.read_by_content_LX()):
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)


def test_share_is_what_is_gone_without_the_memory_branch(seen_and_counts):
    """With values of nothing the memory hands on nothing; with the chunk's values at nothing it
    hands on all.
    """
    one, (seen, _) = subject(), seen_and_counts
    assert ((seen.share_LC[1:41] > 0.01) & (seen.share_LC[1:41] < 0.99)).all()
    for place, expected in ((("memory", "value"), 0), (("value",), 1)):
        layers = jax.tree.map(lambda x: x, one.params["layers"])
        of = layers
        for name in place:
            of = of[name]
        of["kernel"] = np.zeros_like(of["kernel"])
        changed, _ = watched(
            dataclasses.replace(one, params=one.params | {"layers": layers}), TEXT[:60]
        )
        np.testing.assert_allclose(changed.share_LC[1:3], expected, atol=1e-5)


@pytest.mark.parametrize("bias", [-20.0, 0.5, 20.0])
def test_what_is_left_is_the_closed_form(bias):
    one = with_bias(subject(), bias)
    seen, counts = watched(one)
    keeps = 1 - 1 / (1 + np.exp(-bias))
    chunks = np.arange(40)
    left_LA = counts.retention_LA()
    np.testing.assert_allclose(left_LA, np.tile(keeps ** (chunks // TURN), (2, 1)), atol=1e-4)
    # The age of what a slot holds: z is 1 chunk old a chunk later, the rest as old as before and
    # one more.
    age, ages = 0.0, []
    for _ in range(13):
        age = 1 + keeps * age
        ages.append(age)
        age += TURN - 1
    np.testing.assert_allclose(
        seen.content_LM[1::TURN, :, -1][:13], np.tile(ages, (2, 1)).T, rtol=1e-4
    )
    assert counts.writes == 2 * (40 - TURN)
    np.testing.assert_allclose(counts.open_LD / counts.writes, 1 - keeps, atol=1e-4)


def test_openness_by_place_is_that_of_each_entry():
    one = with_bias(subject(), 0.0)
    gate = one.params["layers"]["memory"]["gate"]
    gate["Wz"] = RNG.normal(size=gate["Wz"].shape).astype(np.float32)
    model, tokens = (
        RMAT(one.config.model),
        np.concatenate([[256], TEXT])[: 16 * 40][None].astype(np.int32),
    )
    _, seen = model.apply(
        {"params": one.params},
        tokens,
        capture_intermediates=lambda _, name: name == "openness",
        mutable=["intermediates"],
    )
    z_NLBKD = np.asarray(seen["intermediates"]["layers"]["memory"]["gate"]["openness"][0])
    z_NLKD = z_NLBKD[:, :, 0]
    _, counts = watched(one)
    assert counts.writes_K.tolist() == [40 - TURN] * 2
    np.testing.assert_allclose(
        counts.open_LK / counts.writes_K, z_NLKD[TURN:].mean((0, 3)), rtol=1e-4
    )
    # the control: entries differ
    assert np.abs(np.diff(counts.open_LK / counts.writes_K)).min() > 1e-3


def test_a_queue_keeps_nothing_that_has_left():
    chunks = np.arange(40)
    _, counts = watched(subject(memory=UNGATED))
    np.testing.assert_allclose(counts.retention_LA(), np.tile(chunks < TURN, (2, 1)), atol=1e-6)
    assert counts.writes == 0


def test_a_timeline_has_bounded_size_and_loses_nothing():
    line, total = Timeline(), 0
    for step in range(1000):
        line.add(np.array([1.0, step]))
        total += step
    sums = line.sums()
    assert len(sums) <= BINS and sums.sum(0).tolist() == [1000, total]
    assert line.steps_per_bin == 16 and (sums[:-1, 0] == 16).all()
    assert (np.diff(sums[:-1, 1]) > 0).all()


def gauge_of(text, saved):
    """A gauge that read bytes, each of which memory made `saved` bits cheaper."""
    gauge, tokens = TextGauge(ByteTokenizer()), np.frombuffer(text, np.uint8).astype(int)
    saved = np.broadcast_to(np.asarray(saved, float), tokens.shape)
    for start in range(0, len(tokens), 128):
        part = slice(start, start + 128)
        gauge.add(tokens[part], np.ones(len(tokens[part])), 1 + saved[part], 32)
    return gauge


def test_words_are_told_by_when_they_were_read_before():
    gauge = gauge_of(b"remember the name " + b". " * 23 + b"remember " + b"!" * 55, 0.5)
    # remember and name; `the` is too short
    assert gauge.count_X[DISTANCES] == 2
    # 64 tokens later
    assert gauge.count_X[6] == 1 and gauge.count_X.sum() == 3
    assert gauge.saved_X[6] == 4.0 and gauge.squares_X[6] == 16.0
    assert [word.text for word in gauge.words] == ["remember", "remember", "name"]
    assert gauge.words[0].saved == 4 and gauge.words[0].kept == 8


def test_passages_are_the_extremes_and_some_of_all():
    saved = np.zeros(32 * 100)
    saved[32 * 40 : 32 * 41], saved[32 * 70 + 3] = 0.25, -2
    gauge = gauge_of(b"x" * len(saved), saved)
    assert gauge.best[0].start == 32 * 40 and gauge.best[0].saved == 8
    assert gauge.worst[0].start == 32 * 70 and len(gauge.best) == len(gauge.worst) == 1
    starts = [passage.start for passage in gauge.evenly]
    assert (
        len(starts) == EVENLY
        and starts[0] == 0
        and starts[-1] > 32 * 80
        and np.ptp(np.diff(starts)) <= 32 * 16
    )


def test_characters_of_several_bytes_are_one(tmp_path):
    gauge = gauge_of("<é☃>".encode() + b"\xff", 1.0)
    (passage,) = gauge.evenly
    found = list(gauge.readouts(passage))
    assert [(x.text, x.kept, x.cut) for x in found] == [
        ("<", 1, 2),
        ("é", 2, 4),
        ("☃", 3, 6),
        (">", 1, 2),
        ("\N{REPLACEMENT CHARACTER}", 1, 2),
    ]
    text = "".join(page("A <title>", "lead", gauge))
    assert (
        "<h1>A &lt;title&gt;</h1>" in text
        and f'<span class="h{LEVELS}" title="3.0 &larr; 6.0">☃</span>' in text
    )
    assert level(0.1) == 0 and level(-100) == -LEVELS


def kept_run(folder, **changes):
    """The workdir of a run with random weights."""
    config = Config(
        model=dataclasses.replace(MODEL, **changes),
        batch_size=2,
        chunks_per_step=2,
    )
    state = jax.jit(lambda: init_state(config, make_optimizer(config)))()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(3, state, config)


@pytest.mark.parametrize(
    "changes, missing",
    [
        ({}, set()),
        ({"memory": Memory(slots=6, writes=2), "local": Local(window=4)}, {"channels.png"}),
        ({"memory": UNGATED}, {"gates.png", "channels.png"}),
        (
            {"branches": ("full", "local"), "memory": None},
            {
                "gates.png",
                "channels.png",
                "heads.png",
                "ages.png",
                "retention.png",
                "places.png",
                "words.png",
            },
        ),
    ],
)
def test_inspect_writes_what_there_is(tmp_path, monkeypatch, changes, missing):
    text = tmp_path / "text.txt"
    text.write_text("The queue of the memory forgets, the gate remembers. $x_1$ été\n" * 30)
    # one checkpoint is enough
    if missing:
        monkeypatch.setattr("rmat_jax.evals.look.look.load_subject", lambda *_: subject(**changes))
    else:
        kept_run(tmp_path / "run", **changes)
    report = inspect(tmp_path / "run", text, tmp_path / "out")
    figures = set(re.findall(r"!\[.*\]\((.*)\)", report.read_text())) - {"passage.png"}
    every = {
        "along",
        "fusion",
        "heads",
        "ages",
        "gates",
        "channels",
        "retention",
        "places",
        "words",
    }
    assert figures == {f"{name}.png" for name in every} - missing
    for name in figures:
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")
    # JSON has no NaN.
    values = json.loads((report.parent / "inspect.json").read_text(), parse_constant=pytest.fail)
    assert values["bytes"] == len(text.read_bytes()) and values["tokens"] == values["bytes"] + 1
    assert f"**{values['bits_per_byte']:.3f} bits per byte**" in report.read_text()
    assert (report.parent / "text.html").exists() == ("heads.png" not in missing)


def test_a_pipe_is_read_from_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr("rmat_jax.evals.look.look.load_subject", lambda *_: subject())
    text, pipe = b"The gate remembers. " * 600, tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(text,), daemon=True).start()
    report = inspect(tmp_path, pipe, tmp_path / "out")
    assert json.loads((report.parent / "inspect.json").read_text())["bytes"] == len(text)


def test_bad_input_is_said_before_any_work(tmp_path):
    text = tmp_path / "text.txt"
    for make, message in (
        (lambda: None, "cannot be read: No such file"),
        (lambda: text.write_text(""), "is empty"),
        (lambda: text.write_text("text"), "no checkpoint"),
    ):
        make()
        with pytest.raises(UserError, match=message) as error:
            inspect(tmp_path, text, tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
