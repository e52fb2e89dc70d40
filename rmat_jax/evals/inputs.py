"""The inputs of several suites: long texts, and records of TFDS sets.

Long texts come from an option, `--text` or `--code`, or are the held-out documents of the run.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.data.catalogue import reading_tfds
from rmat_jax.data.sources import blocks
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.suite import Options, Subject
from rmat_jax.files import check_regular

# the number of tokens after which no more documents are read
BUDGET = 1 << 26


def read_texts(
    subject: Subject, options: Options, limit: int, flag: str = "text"
) -> list[np.ndarray]:
    """Returns long documents as int32 tokens [T], each opened by the tokenizer's `end`.

    The files of a folder come in an order that `options.seed` draws, and held-out documents in
    their own order.

    Args:
        subject: gives its tokenizer and, where the option is not set, its held-out documents.
        options: only `flag` and `seed` matter.
        limit: the most tokens of a document that are read.
        flag: the option that names the texts.

    Raises:
        UserError: there is no text, or none that can be read.
    """
    found, held = [], 0
    given = getattr(options, flag) is not None
    for document in _files(options, flag) if given else subject.data.source.heldout():
        tokens = first_tokens(document, subject.tokenizer, limit)
        if len(tokens) > 1:
            found.append(tokens)
            held += len(tokens)
        if held >= BUDGET:
            break
    if not found:
        raise UserError(
            f"--{flag}={getattr(options, flag)} holds no text; give a file or folder of texts"
        )
    return found


def first_tokens(document: bytes, tokenizer: Tokenizer, limit: int) -> np.ndarray:
    """Returns `end` and the document's first tokens, int32, at most `limit` in all."""
    parts, count = [np.array([tokenizer.end], np.int32)], 1
    for block in blocks(document):
        if count >= limit:
            break
        parts.append(tokenizer.encode(block, first=count == 1))
        count += len(parts[-1])
    return np.concatenate(parts)[:limit].astype(np.int32)


def source_name(options: Options, flag: str = "text") -> str:
    """Returns the name of the source of the texts in the report."""
    value = getattr(options, flag)
    return "the run's held-out documents" if value is None else f"`{value}`"


def _files(options: Options, flag: str) -> Iterator[bytes]:
    value = getattr(options, flag)
    root = Path(value).expanduser()
    if not root.is_dir():
        check_regular(root, "give a file or folder of texts", f"--{flag}={value}")
    files = [root] if root.is_file() else sorted(_visible(root))
    for index in np.random.default_rng(options.seed).permutation(len(files)):
        try:
            yield files[index].read_bytes()
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read: {error.strerror}; change its mode or --{flag}"
            ) from error


def _visible(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(folder, name)
            for name in names
            if not name.startswith(".") and Path(folder, name).is_file()
        )


def tfds_records(
    flag: str, value: str, choose: Callable[[int], Iterable[int]]
) -> list[tuple[str, Any]]:
    """Returns records of a TFDS set, each with its place for error messages.

    Without `@SPLIT` the split is "validation", else "test", else "train".

    Args:
        flag: the flag as the user typed it, for errors.
        value: `tfds:NAME` or `tfds:NAME@SPLIT`.
        choose: takes the number of records and returns the indices of those to read.

    Raises:
        UserError: the set cannot be read.
    """
    name, _, split = value.removeprefix("tfds:").partition("@")
    with reading_tfds(flag, name, "TFDS_DATA_DIR") as tfds:
        if not split:
            known = tfds.builder(name).info.splits
            split = next((split for split in ("validation", "test") if split in known), "train")
        source = tfds.data_source(name, split=split)
        chosen = choose(len(source))
        return [(f"{flag}, record {index} of split {split!r}", source[index]) for index in chosen]
