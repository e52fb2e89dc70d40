"""Encodes documents into the arrays of a corpus, on as many cores as the tokenizer uses."""

import array
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from rmat_jax.data.messages import Dialogue
from rmat_jax.data.sources import blocks
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.progress import Progress, say

# a token's role as a target: no target, itself, or `end`, since an answer ends before it
PROMPT, LEARNED, ENDING = range(3)
# bytes of text that are encoded at once, on all cores
GROUP = min(os.cpu_count() or 1, 32) << 20


class _Run(NamedTuple):
    """A piece of a document that is encoded by itself."""

    text: bytes
    # whether the document begins with it
    begins: bool
    # the role of its tokens as targets
    kind: int


def _runs(documents: Iterator[bytes], digest: Any) -> Iterator[_Run]:
    """Cuts all documents that are not empty into pieces, and feeds them to the digest."""
    for document in filter(None, documents):
        digest.update(len(document).to_bytes(8, "little") + document)
        begins, runs = True, [(document, True)]
        if isinstance(document, Dialogue):
            digest.update(repr(document.answers).encode())
            runs = document.runs()
        for text, learned in runs:
            for block in blocks(text):
                yield _Run(block, begins, LEARNED if learned else PROMPT)
                begins = False


def _groups(runs: Iterator[_Run]) -> Iterator[list[_Run]]:
    """Groups runs in order, GROUP bytes at a time."""
    group, size = [], 0
    for run in runs:
        group.append(run)
        size += len(run.text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def write_arrays(
    documents: Iterator[bytes], tokenizer: Tokenizer, folder: Path, title: str, sized: bool = False
) -> dict[str, Any]:
    """Writes the arrays of a corpus, see `corpus.py`, and shows progress.

    Args:
        documents: the text; empty ones are left out.
        tokenizer: the text's tokenizer.
        folder: the folder for tokens.npy, starts.npy, for dialogues learned.npy, and perhaps
            sizes.npy.
        title: the name of the text for messages.
        sized: keep how many bytes of the text each token stands for.

    Returns:
        The numbers of documents, tokens and bytes, and the text's digest.

    Raises:
        UserError: there is no document, or one cannot be read.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    end = np.array([tokenizer.end], dtype)
    starts, position, num_bytes, progress = array.array("q"), 0, 0, Progress()
    digest, before, sizes = hashlib.sha256(), PROMPT, array.array("I")
    first = next(filter(None, documents), None)
    if first is None:
        raise UserError(f"the text {title} is empty; give one with text in it")
    # without dialogues all tokens are learned, and no array is kept
    answers = isinstance(first, Dialogue)
    with (
        open(folder / "tokens.npy", "wb") as file,
        open(folder / "learned.npy", "wb") if answers else open(os.devnull, "wb") as learned,
    ):
        _write_header(file, dtype, 0)
        _write_header(learned, np.dtype(np.uint8), 0)

        def append(tokens: np.ndarray, lengths: np.ndarray | None, kind: int) -> None:
            nonlocal position, before
            kinds = np.full(len(tokens), kind, np.uint8)
            if before == LEARNED and kind == PROMPT:
                kinds[:1] = ENDING
            file.write(tokens)
            learned.write(kinds)
            if sized:
                sizes.extend(lengths.tolist())
            position, before = position + len(tokens), kind if len(tokens) else before

        for group in _groups(_runs(itertools.chain([first], documents), digest)):
            for run, (tokens, lengths) in zip(
                group, _encoded(group, tokenizer, sized), strict=True
            ):
                if run.begins:
                    starts.append(position)
                    append(end, np.zeros(1, np.int64), PROMPT)
                append(tokens.astype(dtype), lengths, run.kind)
                num_bytes += len(run.text)
            if progress.due():
                so_far = (
                    f"{len(starts):,} documents, {position / 1e6:.1f}M tokens, "
                    f"{num_bytes / 1e6:.1f} MB, {num_bytes / 1e6 / progress.seconds:.1f} MB/s"
                )
                say(f"reading {title}: {so_far}")
        append(end, np.zeros(1, np.int64), PROMPT)
        _write_header(file, dtype, position)
        _write_header(learned, np.dtype(np.uint8), position)
    starts.append(position - 1)
    np.save(folder / "starts.npy", np.frombuffer(starts, np.int64))
    if sized:
        np.save(folder / "sizes.npy", np.frombuffer(sizes, np.uint32))
    return {
        "documents": len(starts) - 1,
        "tokens": position - 1,
        "bytes": num_bytes,
        "digest": digest.hexdigest()[:16],
    }


def _encoded(
    group: list[_Run], tokenizer: Tokenizer, sized: bool
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """The tokens of each run, and if `sized`, how many bytes each stands for."""
    if sized:
        return [tokenizer.encode_sized(run.text, run.begins) for run in group]
    found = tokenizer.encode_all([run.text for run in group], [run.begins for run in group])
    return [(tokens, None) for tokens in found]


def _write_header(file: IO[bytes], dtype: np.dtype, length: int) -> None:
    """Writes the header of a one-dimensional .npy file.

    NumPy leaves room for the length to grow, so the header can be written again at the end.
    """
    file.seek(0)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (length,),
    }
    np.lib.format.write_array_header_1_0(file, header)
