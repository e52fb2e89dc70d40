"""The baselines are what they say: gzip's bytes, and a probability model of order 2."""

import gzip

import numpy as np
import pytest

from rmat_jax.evals.suites.position import baselines
from rmat_jax.evals.suites.position.baselines import (
    END,
    Order2,
    gzip_bits_per_byte,
    order2_bits_per_byte,
)

RNG = np.random.default_rng(0)
TEXT = [b"the cat sat on the mat. " * 9, b"", b"a rat\x00\xff ran " * 7, b"z"]


def test_gzip_counts_each_document_and_the_whole():
    documents = [RNG.bytes(500)] * 4
    alone, together = gzip_bits_per_byte(iter(documents))
    assert alone == 8 * len(gzip.compress(documents[0], 9)) / 500
    assert together == 8 * len(gzip.compress(documents[0] * 4, 9)) / 2000
    # only as one file the repetition is seen
    assert together < 0.4 * alone


def test_probabilities_sum_to_one_in_every_context():
    model = Order2(TEXT)
    older, newer = RNG.integers(257, size=(2, 2000))
    older[:4], newer[:4] = [END, END, ord("a"), ord("z")], [END, ord("t"), ord("t"), ord("q")]
    probabilities = model.probabilities(older, newer)
    assert probabilities.shape == (2000, 257)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-12)
    assert probabilities.min() > 0


def test_probabilities_by_hand():
    # Three symbols occur, each once: a at the start, b after a, the end after ab.
    model = Order2([b"ab"])
    a, b = ord("a"), ord("b")
    seen, unseen = (1 + 3 / 257) / 6, (0 + 3 / 257) / 6
    after = lambda older, newer, x: model.probabilities(np.array(older), np.array(newer))[x]  # noqa: E731
    assert after(END, a, b) == pytest.approx((1 + (1 + seen) / 2) / 2)
    assert after(END, a, END) == pytest.approx((0 + (0 + seen) / 2) / 2)
    # ba never occurred, a did
    assert after(b, a, b) == pytest.approx((1 + seen) / 2)
    # neither did
    assert after(0, 0, b) == pytest.approx(seen)
    assert after(0, 0, 7) == pytest.approx(unseen)
    bits, size = model.bits([b"ab"])
    likely = (1 + (1 + seen) / 2) / 2
    assert (bits, size) == (pytest.approx(-3 * np.log2(likely)), 2)


def test_documents_do_not_see_each_other():
    model = Order2(TEXT)
    each = [model.bits([document])[0] for document in TEXT]
    assert model.bits(TEXT)[0] == pytest.approx(sum(each))
    # the control
    assert model.bits([b"".join(TEXT)])[0] != pytest.approx(sum(each))


def test_text_is_counted_in_blocks_without_a_seam(monkeypatch):
    whole, bits = Order2(TEXT).counts, order2_bits_per_byte(TEXT, TEXT)
    monkeypatch.setattr(baselines, "BLOCK", 10)
    np.testing.assert_array_equal(Order2(iter(TEXT)).counts, whole)
    assert order2_bits_per_byte(iter(TEXT), iter(TEXT)) == pytest.approx(bits)


def test_training_text_beyond_the_budget_is_not_read(monkeypatch):
    monkeypatch.setattr(baselines, "TRAINING_BYTES", 10)

    def documents():
        yield b"0123456"
        yield b"789abc"
        raise AssertionError("the budget is spent")

    assert order2_bits_per_byte(documents(), TEXT) == order2_bits_per_byte(
        [b"0123456", b"789"], TEXT
    )


def test_known_text_is_cheap_and_noise_costs_eight_bits():
    assert order2_bits_per_byte(TEXT, TEXT) < 2
    assert 8 < order2_bits_per_byte([RNG.bytes(100_000)], [RNG.bytes(10_000)]) < 9
