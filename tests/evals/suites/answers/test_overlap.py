"""Scores of texts against numbers worked out by hand, and against slower code."""

import random

import pytest

from rmat_jax.evals.suites.answers.overlap import (
    best,
    common_subsequence,
    exact_match,
    normalise,
    rouge_l,
    rouge_n,
    token_f1,
)


def test_normalise_as_squad_does():
    assert normalise(" The  Cat's hat, an (old) one. ") == "cats hat old one"
    # articles are whole words
    assert normalise("Theodor and Andrea") == "theodor and andrea"


def test_exact_match_by_hand():
    assert exact_match("The hallway.", "hallway") == 1
    assert exact_match("hallways", "hallway") == 0
    assert exact_match("the hallway and more", "hallway") == 0


def test_token_f1_by_hand():
    # Common: in, garden. Precision 2/4, recall 2/3.
    assert token_f1("he sat in the garden", "in a green garden") == pytest.approx(
        2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)
    )
    # a word counts as often as both have it
    assert token_f1("green green", "green") == pytest.approx(2 / 3)
    assert token_f1("milk", "football") == 0
    assert (token_f1("", ""), token_f1("", "milk"), token_f1("the", "")) == (1, 0, 1)


def test_rouge_by_hand():
    written, reference = "The cat sat on a mat", "the cat was on the mat"
    # Words in common: the, cat, on, mat (the reference has a second "the").
    assert rouge_n(written, reference, 1) == pytest.approx(4 / 6)
    # Pairs: the cat. Five each.
    assert rouge_n(written, reference, 2) == pytest.approx(1 / 5)
    assert rouge_l(written, reference) == pytest.approx(4 / 6)
    # Order matters to the subsequence alone.
    assert rouge_n("mat on cat", reference, 1) == pytest.approx(2 * 3 / 9)
    assert rouge_l("mat on cat", reference) == pytest.approx(2 * 1 / 9)
    # Precision 2/2, recall 2/6.
    assert rouge_l("on mat", reference) == pytest.approx(2 * 1 * (1 / 3) / (4 / 3))
    assert rouge_n("cat", reference, 2) == rouge_n("", "", 1) == rouge_l("", "cat") == 0
    # signs part words
    assert rouge_n("Don't", "don t", 1) == 1


def test_common_subsequence_is_that_of_the_table():
    rng = random.Random(0)
    for _ in range(50):
        a, b = (rng.choices("abcd", k=rng.randrange(12)) for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = (
                    table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
                )
        assert common_subsequence(a, b) == table[-1][-1]


def test_the_best_reference_counts():
    assert best(exact_match, "garden", ["the kitchen", "the garden"]) == 1
    assert best(exact_match, "garden", ["the kitchen", "the office"]) == 0
