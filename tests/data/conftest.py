"""What the tests of the data room share."""

import numpy as np
import pytest

from rmat_jax.data.corpus import Corpus

END = 256


@pytest.fixture(scope="session")
def corpus_of():
    """The corpus of some documents in memory, as `build_corpus` would make it from bytes."""

    def make(documents: list[bytes]) -> Corpus:
        tokens = np.concatenate([[END, *document] for document in documents] + [[END]]).astype(
            np.uint16
        )
        starts = np.cumsum([0] + [len(document) + 1 for document in documents])
        return Corpus(tokens, starts, sum(map(len, documents)), digest="")

    return make


@pytest.fixture(scope="session")
def random_documents():
    """Documents of random bytes and of these lengths."""

    def make(lengths: list[int], seed: int = 0) -> list[bytes]:
        rng = np.random.default_rng(seed)
        return [rng.integers(256, size=length, dtype=np.uint8).tobytes() for length in lengths]

    return make
