"""Tolerances follow from rounding, and the comparison finds what is beyond them."""

import json

import numpy as np
import pytest

from rmat_jax.config import Config
from rmat_jax.interop import compare
from rmat_jax.interop.case import make_case
from rmat_jax.interop.layout import layout, random_weights
from tests.models import TINY, tiny

CASE = make_case(Config(model=TINY), random_weights(TINY, 0), steps=3)
KEYS = [
    ("layer output", "chunk 0, layer 0"),
    ("layer output", "chunk 0, layer 1"),
    ("gradient", "fusion"),
]
EXPECTED = {key: np.linspace(-1, 2, 6).reshape(2, 3) for key in KEYS}


def differ(actual, dtype="float64", spread=None, expected=EXPECTED):
    return compare.compare(CASE, actual, expected, spread, dtype)


def off(by, *keys, index=(1, 0)):
    actual = {key: x.copy() for key, x in EXPECTED.items()}
    for key in keys or KEYS:
        actual[key][index] += by
    return actual


def test_float64_passes_within_its_tolerance_and_fails_beyond():
    assert all(d.passed for d in differ(off(1.9e-9)))
    found = differ(off(2.1e-9, KEYS[1]))
    assert [d.passed for d in found] == [True, False, True]
    assert found[1].index == (1, 0) and found[1].where == "chunk 0, layer 1 [1, 0]"
    assert found[1].absolute == pytest.approx(2.1e-9) and found[1].relative == pytest.approx(
        1.05e-9
    )


def test_float32_is_held_to_twice_the_spread():
    spread = dict.fromkeys(KEYS, 1e-3)
    assert all(d.passed for d in differ(off(1.9e-3), "float32", spread))
    assert not any(d.passed for d in differ(off(2.1e-3), "float32", spread))


def test_what_only_cancels_is_held_to_the_rounding_of_its_quantity():
    expected = EXPECTED | {("gradient", "zero"): np.zeros(2)}
    gamma = compare.rounding(TINY, CASE.tokens.size, "float64")
    # the largest gradient is 2
    for by, passed in ((gamma, True), (3 * gamma, False)):
        found = differ(EXPECTED | {("gradient", "zero"): np.full(2, by)}, expected=expected)
        assert found[-1].passed == passed


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_fails(wrong):
    found = differ(off(wrong, KEYS[0]))
    assert not found[0].passed and found[1].passed and found[0].absolute == np.inf
    rows = json.loads(json.dumps(compare.to_json(found), allow_nan=False))
    assert rows[0]["absolute"] is None and not rows[0]["passed"] and rows[1]["absolute"] == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nothing_passes_where_no_number_is_expected(wrong):
    expected = off(wrong, KEYS[2])
    assert not differ(expected, expected=expected)[2].passed


def test_another_shape_fails():
    assert not differ(EXPECTED | {KEYS[0]: np.zeros(3)})[0].passed


def test_the_first_difference_is_the_first_of_the_forward_pass():
    actual = off(1.0, KEYS[2]) | {KEYS[1]: EXPECTED[KEYS[1]] + 1}
    swapped = [KEYS[2], KEYS[0], KEYS[1]]
    found = differ(actual, expected={key: EXPECTED[key] for key in swapped})
    assert (
        compare.first_difference(found).quantity,
        compare.first_difference(found).place,
    ) == KEYS[1]
    assert compare.first_difference(differ(off(1.0, KEYS[2]))).quantity == "gradient"
    assert compare.first_difference(differ(EXPECTED)) is None


def test_the_table_shows_the_worst_place_of_each_quantity():
    lines = compare.table(differ(off(5e-9, KEYS[1]))).splitlines()
    assert len(lines) == 4 and "1 of 2 DIFFER" in lines[2] and "chunk 0, layer 1 [1, 0]" in lines[2]
    assert lines[3].rstrip(" |").endswith("equal")


def test_the_spread_of_a_linear_function_is_what_its_weights_move():
    """Of sum_i w_i, whose terms move by gamma each, up to the sum of their sizes and never by
    nothing.
    """

    def run(case):
        yield {("loss", ""): np.array(sum(x.sum() for x in case.weights.values()))}

    (exact,) = run(CASE)
    gamma = compare.rounding(TINY, CASE.tokens.size, "float32")
    most = gamma * sum(np.abs(x).sum() for x in CASE.weights.values())
    spread = compare.measure_spread(CASE, run, exact, "float32")["loss", ""]
    assert 0 < spread <= most
    # the control
    assert compare.measure_spread(CASE, run, exact, "float64")["loss", ""] < 1e-6 * spread


def test_rounding_grows_with_sums_and_angles():
    def of(**changes):
        return compare.rounding(tiny(**changes), 0, "float32") * 2**24

    # the MLP's 12 terms, angles of 8 radians
    assert of() == 6 * 12**0.5 + 32
    assert of(mlp_width=48) == pytest.approx(6 * 48**0.5 + 32)
    assert of(chunk_len=16) == pytest.approx(6 * 16**0.5 + 64)
    # chunk and slots in one softmax; six slots, two a chunk: three chunks back
    assert of(**{"memory.read": "joint"}) == pytest.approx(6 * 14**0.5 + 3 * 32)
    # a window that is longer than the chunk
    wide = {"local.sliding": True, "local.window": 20}
    assert of(**wide) == pytest.approx(6 * 20**0.5 + 80)


def test_a_case_reaches_every_rule():
    """Slots are written again; documents end at a border, inside a run, after one token; targets
    are left out.
    """
    model = TINY
    assert CASE.num_chunks > model.memory.slots / model.memory.writes + 1
    ends = {int(end) for end in np.flatnonzero(np.diff(CASE.documents[1])) + 1}
    lengths = np.diff(sorted(ends))
    assert any(end % model.chunk_len == 0 for end in ends) and any(
        end % model.run_len for end in ends
    )
    assert 1 in lengths and (CASE.documents[0] == CASE.documents[0, 0]).all()
    assert (CASE.targets == -1).any() and len(
        {int(n) % model.chunk_len for n in CASE.prompt_lengths}
    ) == 3
    assert CASE.decoded > model.chunk_len
    assert set(CASE.weights) == set(layout(model))


def test_a_case_reads_the_text_it_is_given():
    text = np.arange(1000) % 11
    case = make_case(Config(model=TINY), random_weights(TINY, 0), steps=2, text=text)
    assert (np.diff(case.tokens) % 11 == 1).all()
    assert not (np.diff(CASE.tokens) % 11 == 1).all()
