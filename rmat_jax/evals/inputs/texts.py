"""Long texts for `length` and `recall`: those of `--text`, or the run's own held-out documents, as
tokens.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rmat_jax.data.sources import blocks
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.suite import Options, Subject

# tokens that are held; documents that come after them are not read
BUDGET = 1 << 26


def read_texts(subject: Subject, options: Options, limit: int) -> list[np.ndarray]:
    """Documents as int32 tokens, each opened by `end`; of each the first `limit` tokens.

    Files of a folder come in an order drawn with `options.seed`, held-out documents in their own.

    Raises:
        UserError: nothing there, or nothing readable.
    """
    found, held = [], 0
    for document in _files(options) if options.text is not None else subject.data.source.heldout():
        tokens = first_tokens(document, subject.tokenizer, limit)
        if len(tokens) > 1:
            found.append(tokens)
            held += len(tokens)
        if held >= BUDGET:
            break
    if not found:
        raise UserError(f"--text={options.text} holds no text; give a file or folder of texts")
    return found


def first_tokens(document: bytes, tokenizer: Tokenizer, limit: int) -> np.ndarray:
    """`end` and the document's first tokens, `limit` together at most."""
    parts, count = [np.array([tokenizer.end], np.int32)], 1
    for block in blocks(document):
        if count >= limit:
            break
        parts.append(tokenizer.encode(block))
        count += len(parts[-1])
    return np.concatenate(parts)[:limit].astype(np.int32)


def source_name(options: Options) -> str:
    """Of the texts, for the report."""
    return "the run's held-out documents" if options.text is None else f"`{options.text}`"


def _files(options: Options) -> Iterator[bytes]:
    root = Path(options.text).expanduser()
    files = [root] if root.is_file() else sorted(_visible(root))
    for index in np.random.default_rng(options.seed).permutation(len(files)):
        try:
            yield files[index].read_bytes()
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read: {error.strerror}; change its mode or --text"
            ) from error


def _visible(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(folder, name)
            for name in names
            if not name.startswith(".") and Path(folder, name).is_file()
        )
