"""Long texts are read as far as a suite needs them."""

import pytest

from rmat_jax.errors import UserError
from rmat_jax.evals.inputs import read_texts
from rmat_jax.evals.suite import Options


def test_texts_are_read_as_far_as_needed(text_subject, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc" * 100)
    (tmp_path / "b.txt").write_bytes(b"")
    (text,) = read_texts(text_subject, Options(text=str(tmp_path)), 10)
    assert text.tolist() == [256, *b"abcabcabc"]
    with pytest.raises(UserError, match="holds no text"):
        read_texts(text_subject, Options(text=str(tmp_path / "b.txt")), 10)
