"""Packed documents are whole, begin where they should, and are known again by their index."""

import numpy as np
import pytest

from rmat_jax.evals.packing import Packed
from rmat_jax.train.heldout import evaluate_heldout
from rmat_jax.train.step import ASIDE, FORGET, KEEP


def test_packed_documents_are_each_read_whole_once_and_owned():
    rng = np.random.default_rng(0)
    lengths = 4 * rng.integers(1, 30, 50)

    def make(index):
        tokens = np.full(lengths[index], index, np.int32)
        return {"tokens": tokens, "targets": tokens, "forget": tokens[::4]}

    packed = Packed(lengths, make, 4, forgets=True)
    batches = list(packed)
    rows, width = batches[0]["tokens"].shape
    assert rows > 8 and width % 4 == 0 and sum(b["tokens"].size for b in batches) == packed.tokens
    lanes = {name: np.concatenate([b[name] for b in batches], axis=1) for name in batches[0]}
    count = np.bincount(lanes["tokens"][lanes["targets"] >= 0], minlength=50)
    assert count.tolist() == lengths.tolist()
    assert packed.tokens < 1.5 * lengths.sum()
    begins = np.argwhere(
        (np.diff(lanes["documents"], axis=1, prepend=-1) != 0) & (lanes["targets"] >= 0)
    )
    assert (begins[:, 1] % 4 == 0).all() and len(begins) == 50
    assert (lanes["offsets"][tuple(begins.T)] == 0).all()
    chunk_of = lanes["tokens"][:, ::4]
    assert (lanes["forget"] == np.where(lanes["targets"][:, ::4] >= 0, chunk_of, 0)).all()


def test_owners_are_the_documents_that_were_given(config, params):
    lengths = [8, 24, 16, 8, 40, 8, 16]

    def make(index):
        tokens = np.zeros(lengths[index], np.int32)
        return {"tokens": tokens, "targets": np.where(np.arange(lengths[index]) < index + 1, 1, -1)}

    packed = Packed(lengths, make, 8, forgets=False)
    owners = packed.owners(evaluate_heldout(config, params, packed, None))
    # as many are scored as make says
    assert np.bincount(owners).tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("end", [ASIDE, FORGET])
def test_batches_that_only_read_on_leave_the_same_behind(config, params, monkeypatch, end):
    """Documents of three batches, of which the last alone forgets and is scored."""
    monkeypatch.setattr("rmat_jax.evals.packing.LENGTH", 32)
    rng, chunk_len = np.random.default_rng(0), config.model.chunk_len
    length = 3 * max(32, 4 * chunk_len)

    def make(index):
        tokens = rng.integers(config.model.vocab_size, size=length, dtype=np.int32)
        forget = np.full(length // chunk_len, KEEP, np.int32)
        forget[-2] = end
        scored = np.arange(length) >= length - 2 * chunk_len
        return {"tokens": tokens, "targets": np.where(scored, tokens, -1), "forget": forget}

    batches = list(Packed([length] * 2, make, chunk_len, forgets=True))
    assert ["forget" in batch for batch in batches] == [False, False, True]

    def last():
        found = evaluate_heldout(config, params, batches, None)
        return found.bits[found.offsets >= length - 2 * chunk_len]

    bits = last()
    # the control: every batch is read chunk after chunk, every token is scored
    for batch in batches:
        rows, width = batch["tokens"].shape
        batch.setdefault("forget", np.full((rows, width // chunk_len), KEEP, np.int32))
        batch["targets"] = batch["tokens"]
    # float32, of a few bits each, in other orders
    np.testing.assert_allclose(bits, last(), rtol=0, atol=1e-4)
    batches[-1]["forget"][:] = KEEP
    assert np.abs(bits - last()).max() > 1e-3
