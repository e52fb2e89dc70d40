"""Conditions look the same everywhere, and verdicts follow the numbers."""

import numpy as np

from rmat_jax.evals.conditions import (
    ALONE,
    EMPTIED,
    KEPT,
    OF_QUESTIONS,
    OF_STORIES,
    OF_TEXTS,
    Condition,
    conditions,
    contest,
    verdict,
)
from rmat_jax.evals.means import Mean


def test_a_model_without_memory_has_none_to_empty():
    assert conditions(has_memory=True) == (KEPT, EMPTIED, ALONE)
    assert conditions(has_memory=False) == (KEPT, ALONE)


def test_conditions_are_told_apart_in_figures_and_reports():
    for of in ("marker", "line", "colour"):
        assert len({getattr(condition, of) for condition in Condition}) == 3
    for wording in (OF_QUESTIONS, OF_STORIES, OF_TEXTS):
        assert list(wording) == list(Condition) and len(set(wording.values())) == 3


def test_a_difference_counts_from_two_standard_errors_on():
    assert Mean(0.2, 0.099, 40).positive and not Mean(0.2, 0.101, 40).positive
    assert Mean(-0.2, 0.099, 40).negative and not Mean(-0.2, 0.101, 40).negative
    one = Mean(0.2, np.nan, 1)
    assert not one.positive and not one.negative


def test_a_mean_is_written_with_its_error():
    assert f"{Mean(0.25, 0.125, 40):+.2f}" == "+0.25 ± 0.12"
    assert f"{Mean(-0.25, 0.125, 40):.3f}" == "-0.250 ± 0.125"
    assert f"{Mean(0.25, 0.125, 40):.1%}" == "25.0% ± 12.5%"


def test_noise_is_not_taken_for_help():
    assert verdict(Mean(0.2, 0.101, 40), "It", "bits", "documents").startswith(
        "**It does not help measurably:**"
    )
    assert verdict(Mean(0.2, 0.099, 40), "It", "bits", "documents").startswith("**It helps:**")
    assert contest(Mean(-0.2, 0.09, 40), "It", "that", "bits", "documents").startswith(
        "**It is worse than that:**"
    )
    assert "too few" in verdict(Mean(0.2, 0.01, 9), "It", "bits", "documents")
    assert "too few" not in verdict(Mean(0.2, 0.01, 10), "It", "bits", "documents")
