"""Packed documents are whole, begin where they should, and are known again by their index."""

import numpy as np

from rmat_jax.evals.packing import Packed
from rmat_jax.train.heldout import evaluate_heldout


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
