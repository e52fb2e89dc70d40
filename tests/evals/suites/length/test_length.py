"""The same tokens are scored at each reach, with a state that began as far before as is said."""

import dataclasses

import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suite import Options, Subject
from rmat_jax.evals.suites.length.suite import check, length, of_memory, verdict
from rmat_jax.evals.suites.length.windows import longest_reach, measure, units, windows_of
from rmat_jax.train.heldout import evaluate_heldout
from tests.models import DEFAULT, make_params, tiny

# of the documents; reaches up to 4
CHUNKS = [11, 6, 9]


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(11, size=8 * count + 1).astype(np.int32) for count in CHUNKS]


@pytest.fixture(scope="module")
def found(config, params, texts):
    return measure(Subject(None, config, params, 0), texts, windows_of(CHUNKS, 4))


def alone(config, params, tokens, targets):
    """What a document costs that is read by itself."""
    batch = {
        "tokens": tokens,
        "targets": targets,
        "documents": 0 * tokens,
        "offsets": np.arange(len(tokens)),
    }
    return evaluate_heldout(
        config, params, [{name: x[None] for name, x in batch.items()}], None
    ).bits


def test_windows_score_each_chunk_once_at_each_reach_and_begin_where_they_should():
    windows = windows_of([100, 33, 40], 32)
    for document, last in enumerate((32 + 16, 33, 40)):
        for reach in (0, 1, 2, 4, 8, 16, 32):
            mine = [w for w in windows if (w.document, w.reach) == (document, reach)]
            assert sorted(n for w in mine for n in range(w.first, w.end)) == list(range(32, last))
            for w in mine:
                for chunk in range(w.first, w.end):
                    assert reach <= chunk - w.start < max(2 * reach, 1)
                assert w.start >= 0
        # the longest reach is all there is
        assert {w.start for w in windows if w.reach == 32} == {0}


def test_the_longest_reach_is_plain_evaluation(config, params, texts, found):
    assert found.chunks == [0, 1, 2, 4]
    for number, text in enumerate(texts):
        bits = alone(config, params, text[:-1], text[1:])
        places = found.places_N[found.documents_N == number]
        assert places.tolist() == list(range(32, 8 * min(CHUNKS[number], 8)))
        np.testing.assert_allclose(
            found.bits_RN[-1, found.documents_N == number], bits[places], rtol=1e-4, atol=1e-5
        )


def test_reach_0_is_the_chunk_alone_and_reach_1_one_chunk_more(config, params, texts, found):
    for row, before in ((0, 0), (1, 1)):
        for number, place in ((0, 32), (0, 56), (2, 40)):
            text = texts[number][place - 8 * before : place + 9]
            bits = alone(config, params, text[:-1], text[1:])[-8:]
            here = (
                (found.documents_N == number)
                & (found.places_N >= place)
                & (found.places_N < place + 8)
            )
            np.testing.assert_allclose(found.bits_RN[row, here], bits, rtol=1e-4, atol=1e-5)
    # The control: the reaches differ, also the two longest.
    assert (np.abs(np.diff(found.bits_RN, axis=0)).mean(1) > 1e-2).all()


def test_the_memory_alone_is_emptied(config, texts):
    """A scored chunk then costs what it does after all that was read, but for the memory."""
    model = tiny(dtype="float32", **DEFAULT)
    config, params = dataclasses.replace(config, model=model), make_params(model)
    found = measure(Subject(None, config, params, 0), texts, windows_of(CHUNKS, 4))
    for number, text in enumerate(texts):
        batch = {"tokens": text[:-1], "targets": text[1:], "documents": 0 * text[1:]}
        batch["offsets"] = np.arange(len(text) - 1)
        rows = {name: x[None] for name, x in batch.items()}
        bits = evaluate_heldout(config, params, [rows], None, cut=True).bits
        here = found.documents_N == number
        np.testing.assert_allclose(
            found.emptied_N[here], bits[found.places_N[here]], rtol=1e-4, atol=1e-4
        )
    # the control: neither the chunk alone nor the whole reach
    assert (np.abs(found.bits_RN[[0, -1]] - found.emptied_N).mean(1) > 1e-2).all()


def test_what_the_memory_saves_is_said_plainly():
    all_of_it = Mean(0.1, 0.01, 20)
    said = of_memory(Mean(0.06, 0.01, 20), all_of_it, "documents")
    assert "**The memory helps:**" in said and "60% of what it saves" in said
    assert "does not help measurably" in of_memory(Mean(0.01, 0.01, 20), all_of_it, "documents")
    assert "**The memory does not help:**" in of_memory(Mean(-0.06, 0.01, 20), all_of_it, "texts")


def test_the_longest_reach_leaves_enough_documents():
    assert longest_reach([1000], 64) == 64
    assert longest_reach([1000], 100) == 64
    assert longest_reach([65], 100) == 64 and longest_reach([64], 100) == 32
    # half of three are two
    assert longest_reach([100, 9, 3], 100) == 8
    # ten are enough
    assert longest_reach([100] * 9 + [17] + [2] * 90, 100) == 16
    with pytest.raises(UserError, match="1 of 2 documents must be longer than two chunks"):
        longest_reach([1, 0], 100)


def test_verdict_follows_the_numbers():
    rng = np.random.default_rng(0)
    text, reaches, group = rng.normal(size=4000), [0, 8, 16, 32], np.arange(4000) // 40

    def of(*means):
        return verdict(
            reaches, np.array([text + mean + rng.normal(size=4000) / 100 for mean in means]), group
        )

    assert of(3.005, 2, 1, 0).startswith("**More context helps up to 32 tokens**: it saves 3.00")
    assert "as far as was measured" in of(3, 2, 1, 0)
    assert "helps up to 8 tokens" in of(1, 0, 0, 0) and "as far as" not in of(1, 0, 0, 0)
    hurt = of(1, 0, 0.5, 0.705)
    assert "helps up to 8 tokens" in hurt and "at 32 tokens a token costs 0.70" in hurt
    assert of(0, 0, 0, 0).startswith("**More context does not help measurably**")
    assert "at 32 tokens a token costs 1.00" in of(0, 1, 1, 1.005)
    noisy = np.array([text + mean + rng.normal(size=4000) * 30 for mean in (0.1, 0, 0, 0)])
    # the same mean as a gain that counts without noise
    assert "not help measurably" in verdict(reaches, noisy, group)
    assert "helps" in of(0.1, 0, 0, 0)
    assert "cannot be told" in verdict(reaches, noisy, 0 * group)


def test_few_documents_are_divided_for_a_standard_error(found):
    name, units_N = units(found)
    assert name == "stretches of documents" and len(np.unique(units_N)) > 10
    many = found._replace(documents_N=np.arange(found.bits_RN.shape[1]) // 4)
    assert units(many)[0] == "documents"


def test_a_text_of_the_users_is_measured(text_subject, tmp_path):
    subject = text_subject
    chunk_len = subject.config.model.chunk_len
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(
            "".join(f"{n * number} " for n in range(20 * chunk_len))
        )
    (tmp_path / ".hidden").write_text("x" * 10_000)
    options = Options(text=str(tmp_path), max_tokens=4 * chunk_len)
    out = tmp_path / "out"
    out.mkdir()
    section = length(subject, options, out)
    assert (out / "length.png").exists()
    values = section.values
    assert values["reach_tokens"] == [n * chunk_len for n in (0, 1, 2, 4)]
    assert values["documents"] == 3 and values["scored"] == values["num_bytes"] == 3 * 4 * chunk_len
    assert f"{values['bits_per_byte'][0]:.3f} bits per byte of the chunk alone" in section.headline
    with pytest.raises(UserError, match="max_tokens=1 must be at least a chunk"):
        check(subject, dataclasses.replace(options, max_tokens=1))
