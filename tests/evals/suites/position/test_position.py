"""What the suite `position` says has the sign that the numbers have; its cuts fall where the memory
was full.
"""

import dataclasses

import numpy as np
import pytest

from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suites.position.by_place import difference_of_means, recovered
from rmat_jax.evals.suites.position.measure import Measured, choose_cuts, cut_once
from rmat_jax.evals.suites.position.suite import headline, verdict
from rmat_jax.train.heldout import Heldout, evaluate_heldout
from rmat_jax.train.step import ASIDE, FORGET, KEEP


def heldout(bits, **changes):
    """Scored tokens of twenty documents."""
    count = len(bits)
    place = np.arange(count)
    of = Heldout(
        bits,
        bits < 1,
        place % 8,
        place % 50,
        place % 20,
        place % 4,
        chunk_len=8,
        num_bytes=2 * count,
    )
    return dataclasses.replace(of, **changes)


def measured(kept, cut):
    text = kept.num_bytes is not None
    return Measured(
        kept,
        cut,
        np.full((2, 3), 1 / 3),
        None,
        (3.0, 2.5) if text else None,
        2.25 if text else None,
    )


@pytest.fixture(scope="module")
def better_and_worse():
    bits = np.random.default_rng(0).uniform(0, 2, 400)
    return heldout(bits), heldout(bits + np.random.default_rng(1).uniform(0.41, 0.5, 400))


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
    # the control: the same mean
    assert "Memory helps" in verdict(measured(better, steady), config)


def test_headline_has_the_numbers_in_their_places(better_and_worse):
    better, worse = better_and_worse
    text = headline(measured(better, worse))
    expected = f"{better.bits_per_byte:.3f} bits per byte** with memory, {worse.bits_per_byte:.3f}"
    assert f"**{expected} without" in text
    assert "`gzip -9` 2.500, an order-2 byte model 2.250" in text
    assert f"**{worse.bits_per_byte:.3f}" in headline(measured(worse, better))


def test_accuracy_where_there_are_no_bytes(config, better_and_worse):
    better, worse = (dataclasses.replace(of, num_bytes=None) for of in better_and_worse)
    text = headline(measured(better, worse))
    assert (
        f"Held-out accuracy: **{better.accuracy:.3f}** with memory, {worse.accuracy:.3f} without"
        in text
    )
    assert verdict(measured(better, worse), config).startswith("**Memory helps:** it adds 0.")
    assert verdict(measured(worse, better), config).startswith(
        "**Memory did not help:** it costs 0."
    )


@pytest.fixture(scope="module")
def readings(config, params, batches):
    """Never, once and always emptied."""
    kept, cut = (evaluate_heldout(config, params, batches, 100, cut=cut) for cut in (False, True))
    return kept, cut_once(config, params, batches, 100), cut


def test_cuts_fall_in_the_second_half_after_the_queue_was_full(config, lanes):
    forget_BN, since_BT = choose_cuts(config.model, lanes["documents"], lanes["targets"] >= 0)
    # Three chunks fill the queue. Lane 0 has only short documents, the second of lane 1 is whole
    # from chunk 2 on, that of lane 2 from the start: its second half begins later than its queue is
    # full.
    assert np.argwhere(forget_BN == FORGET).tolist() == [[1, 5], [2, 4]]
    assert (forget_BN[forget_BN != FORGET] == KEEP).all()
    assert since_BT[1, 39:42].tolist() == [-1, 0, 1] and since_BT[2, 31:33].tolist() == [-1, 0]
    assert (since_BT[0] == -1).all()
    unscored, _ = choose_cuts(
        config.model, lanes["documents"], np.zeros_like(lanes["documents"], bool)
    )
    assert (unscored == KEEP).all()


def test_a_cut_once_changes_nothing_before_it_and_everything_after(readings):
    kept, once, cut = readings
    before, chunk = once.since < 0, (once.since >= 0) & (once.since < 8)
    np.testing.assert_allclose(once.heldout.bits[before], kept.bits[before], rtol=1e-5, atol=1e-5)
    assert (
        once.documents == 2 and (np.abs(once.heldout.bits - kept.bits)[~before] > 1e-5).mean() > 0.9
    )
    # In the first chunk behind it, it is the memory that is always emptied; later it has been
    # filled again.
    np.testing.assert_allclose(once.heldout.bits[chunk], cut.bits[chunk], rtol=1e-5, atol=1e-5)
    later = once.since >= 8
    assert np.abs(once.heldout.bits - cut.bits)[later].mean() > 1e-2


def test_an_aside_is_read_with_an_empty_memory_and_then_forgotten(config, params, lanes):
    """Chunk 4 of each lane is inserted once more before it is read, as an aside."""

    def with_aside(kind):
        longer = {name: np.concatenate([x[:, :40], x[:, 32:]], axis=1) for name, x in lanes.items()}
        forget_BN = np.full((3, 9), KEEP, np.int32)
        forget_BN[:, 4] = kind
        return evaluate_heldout(config, params, [longer | {"forget": forget_BN}], 100).bits

    kept, cut = (
        evaluate_heldout(config, params, [lanes], 100, cut=cut).bits for cut in (False, True)
    )
    scored = np.cumsum((lanes["targets"] >= 0)[:, np.r_[:40, 32:64]].ravel()).reshape(3, 72)
    place = np.concatenate(
        [np.arange(72)[(lanes["targets"][lane, np.r_[:40, 32:64]] >= 0)] for lane in range(3)]
    )
    assert scored[-1, -1] == len(place)
    aside = (place >= 32) & (place < 40)
    of_chunk_4 = np.concatenate(
        [np.arange(64)[lanes["targets"][lane] >= 0] // 8 == 4 for lane in range(3)]
    )
    bits = with_aside(ASIDE)
    np.testing.assert_allclose(bits[aside], cut[of_chunk_4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bits[~aside], kept, rtol=1e-5, atol=1e-5)
    # the control: a chunk that is not forgotten
    assert np.abs(with_aside(KEEP)[~aside] - kept).max() > 1e-2


def costs(*values, error=0.01):
    return [Mean(value, error, 9) for value in values]


BEGINS, ENDS = np.array([0, 8, 16, 32]), np.array([8, 16, 32, 64])


def test_recovery_is_told_from_the_numbers():
    text = recovered(costs(0.5, 0.3, 0.2, 0.0), BEGINS, ENDS)
    assert "most 0 to 8 tokens after it: +0.5000 ± 0.0100" in text
    assert "less than half of that from 16 tokens on, and not measurable from 32 on" in text
    lasting = recovered(costs(0.5, 0.45, 0.4, 0.3), BEGINS, ENDS)
    assert "never halved, and still measurable 32 to 64 tokens" in lasting
    assert "nothing measurable in the 64 tokens" in recovered(
        costs(0.5, 0.3, 0.2, 0.1, error=1.0), BEGINS, ENDS
    )
    assert "does harm" in recovered(costs(-0.5, -0.3, 0.0, 0.0), BEGINS, ENDS)


def test_difference_of_means_is_that_of_independent_halves():
    rng = np.random.default_rng(0)
    values, one = rng.normal(size=1000), np.arange(1000) < 300
    got = difference_of_means(values, one, ~one, np.arange(1000))
    assert got.value == pytest.approx(values[:300].mean() - values[300:].mean())
    errors = [
        clustered_mean(part, np.arange(len(part))).error for part in (values[:300], values[300:])
    ]
    assert got.error == pytest.approx(np.hypot(*errors), rel=0.01)
    # Units that lie in both: what is common to a unit cancels.
    common = np.repeat(rng.normal(size=100) * 10, 10)
    half = np.arange(1000) % 2 == 0
    paired = difference_of_means(values + common, half, ~half, np.arange(1000) // 10)
    assert (
        paired.error
        < 0.1
        < difference_of_means(values + common, half, ~half, np.arange(1000)).error
    )
