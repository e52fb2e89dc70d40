"""Held-out loss is what the model says of each scored token, the memory carried along each lane."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from rmat_jax.train import heldout
from rmat_jax.train.heldout import Heldout, evaluate_heldout, offset_bins


@pytest.fixture(scope="module")
def kept(config, params, batches):
    return evaluate_heldout(config, params, batches, 100)


@pytest.fixture(scope="module")
def cut(config, params, batches):
    return evaluate_heldout(config, params, batches, 100, cut=True)


def columns(of):
    """Everything but the segments, which say how the lanes were cut, in one order."""
    order = np.lexsort((of.offsets, of.documents))
    return {name: getattr(of, name)[order] for name in ("bits", "correct", "positions", "offsets")}


def assert_same(one, other):
    one, other = columns(one), columns(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_sums_agree_with_a_computation_by_hand(config, params, lanes, kept):
    model = RMAT(config.model)
    logits, _ = jax.jit(model.apply)(
        {"params": params}, lanes["tokens"], documents=lanes["documents"]
    )
    logits = np.asarray(logits, np.float64)
    bits, hits, positions, offsets, documents = [], [], [], [], []
    for lane, time in np.ndindex(lanes["tokens"].shape):
        target = lanes["targets"][lane, time]
        if target == -1:
            continue
        p = np.exp(logits[lane, time]) / np.exp(logits[lane, time]).sum()
        bits.append(-np.log2(p[target]))
        hits.append(p.argmax() == target)
        positions.append(time % 8)
        offsets.append(int(lanes["offsets"][lane, time]))
        documents.append((lane, int(lanes["documents"][lane, time])))

    assert kept.scored == len(bits)
    assert kept.bits_per_token == pytest.approx(np.mean(bits), rel=1e-5)
    assert kept.bits_per_byte == pytest.approx(np.sum(bits) / 100, rel=1e-5)
    assert kept.accuracy == pytest.approx(np.mean(hits))
    assert len(set(kept.documents.tolist())) == len(set(documents)) == 6
    assert sorted(np.unique(kept.documents, return_counts=True)[1]) == sorted(
        documents.count(d) for d in set(documents)
    )

    bits, positions, offsets = map(np.array, (bits, positions, offsets))
    for position in range(8):
        at = kept.bits[kept.positions == position]
        assert at.mean() == pytest.approx(bits[positions == position].mean(), rel=1e-5)
    edges, means, counts = kept.by_offset()
    assert edges.tolist() == [0, 1, 2, 4, 8, 16, 32, 64]
    for low, high, mean, count in zip(edges[:-1], edges[1:], means, counts, strict=True):
        inside = (offsets >= low) & (offsets < high)
        assert count == inside.sum()
        assert mean == pytest.approx(bits[inside].mean(), rel=1e-5)


def test_a_uniform_model_costs_log2_of_the_vocabulary(config, params, batches):
    uniform = evaluate_heldout(config, jax.tree.map(jnp.zeros_like, params), batches, None)
    assert uniform.bits_per_token == pytest.approx(np.log2(11), rel=1e-6)
    assert uniform.bits_per_byte is None


def test_memory_is_carried_from_batch_to_batch(config, params, lanes, batches, kept):
    assert_same(kept, evaluate_heldout(config, params, [lanes], 100))
    alone = [evaluate_heldout(config, params, [batch], 100) for batch in batches]
    # the control
    assert abs(np.mean(np.concatenate([of.bits for of in alone])) - kept.bits_per_token) > 1e-3


def test_cut_reads_each_chunk_with_an_empty_memory(config, params, lanes, kept, cut):
    chunks = [
        {name: column[:, i : i + 8] for name, column in lanes.items()} for i in range(0, 64, 8)
    ]
    alone = np.concatenate(
        [evaluate_heldout(config, params, [chunk], 100).bits for chunk in chunks]
    )
    assert np.sort(alone) == pytest.approx(np.sort(cut.bits), rel=1e-4, abs=1e-5)
    first = (kept.segments < 3) & (kept.offsets < 8) & (kept.offsets == kept.positions)
    np.testing.assert_allclose(kept.bits[first], cut.bits[first], rtol=1e-5, atol=1e-6)
    # the control
    assert np.abs(kept.bits - cut.bits)[~first].mean() > 1e-2


def test_repeated_calls_compile_once(config, params, lanes, batches, kept):
    before = heldout._step._cache_size()
    evaluate_heldout(dataclasses.replace(config), params, batches, 100)
    assert heldout._step._cache_size() == before
    evaluate_heldout(config, params, [{name: x[:, :24] for name, x in lanes.items()}], 100)
    # the control: another shape
    assert heldout._step._cache_size() == before + 1


def test_nothing_to_score_is_an_error(config, params, batches):
    with pytest.raises(UserError, match="no token to score"):
        evaluate_heldout(
            config, params, [batches[0] | {"targets": np.full((3, 16), -1, np.int32)}], 100
        )
    with pytest.raises(UserError, match="no token to score"):
        evaluate_heldout(config, params, [], 100)


def test_offset_bins_are_powers_of_two():
    assert offset_bins(np.array([0, 1, 2, 3, 4, 7, 8, 1023, 1024])).tolist() == [
        0,
        1,
        2,
        2,
        3,
        3,
        4,
        10,
        11,
    ]


def test_an_empty_bin_has_no_mean():
    one = np.array([1])
    of = Heldout(np.array([2.0]), one > 0, one, one + 3, one, one, chunk_len=3, num_bytes=1)
    np.testing.assert_array_equal(of.by_offset()[1], [np.nan, np.nan, np.nan, 2])


def test_units_are_documents_where_there_are_enough(kept):
    assert kept.units()[0] == "segments"
    many = dataclasses.replace(kept, documents=np.arange(kept.scored) % 10)
    assert many.units()[0] == "documents"
