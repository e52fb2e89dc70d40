"""A corpus on disk: all documents as one flat array of tokens, read through a memory map.

Layout: each document is `[end] + tokens`, one after the other, and a last `end` closes the array.
So the token that follows any token of a document is its target: at the document's last token that
is the next one's `end`.
"""

import array
import contextlib
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from rmat_jax.data.sources import Documents, blocks
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.files import read_checked, write_checked
from rmat_jax.progress import Progress, say

PROGRESS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Document i is `tokens[starts[i] : starts[i + 1]]`, its targets are the same slice moved by
    one.
    """

    # [num_tokens + 1], uint16 or uint32, not in memory
    tokens: np.ndarray
    # [num_documents + 1] int64
    starts: np.ndarray
    # of the text
    num_bytes: int
    # of the text and its cuts into documents
    digest: str
    # [num_tokens + 1] of the text that each token stands for, in bytes; None: decoding tells it
    sizes: np.ndarray | None = None

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) - 1

    def documents(self, tokenizer: Tokenizer) -> Iterator[bytes]:
        """The text again, document by document."""
        for start, stop in itertools.pairwise(self.starts):
            yield tokenizer.decode(self.tokens[start:stop])

    @property
    def describe(self) -> str:
        return (
            f"{self.num_documents:,} documents, {self.num_tokens:,} tokens, {self.num_bytes:,} "
            "bytes"
        )


def build_corpus(
    documents: Documents, tokenizer: Tokenizer, folder: Path, name: str, source: str
) -> Corpus:
    """The corpus kept in `folder/name` if `source` (a key) and tokenizer are those it was made
    from, else a new one.

    Documents stream to disk; empty ones are skipped. The folder appears when it is complete: a
    build that is killed leaves nothing behind that would be taken for a corpus, and several
    processes may build the same one at once.

    Raises:
        UserError: there is no document, or one cannot be read.
    """
    key = {"source": source, "tokenizer": tokenizer.describe}
    corpus = _load(folder / name, key)
    if corpus is not None:
        return corpus
    if (folder / name).exists():
        say(
            f"{folder / name} is damaged, or of another source or tokenizer: reading the text again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        _write(documents(), tokenizer, new, name, key)
        # the map stays valid when the files are moved, or deleted by another process
        corpus = _load(new, key)
        if corpus is None:
            raise UserError(
                f"{folder} cannot be read again where the {name} text was written; choose another "
                "--workdir"
            )
        if _load(folder / name, key) is None:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).rename(Path(scratch, "old"))
            # another process was faster with the same corpus
            with contextlib.suppress(OSError):
                new.rename(folder / name)
    return corpus


def kept_corpus(folder: Path, name: str, tokenizer: Tokenizer) -> Corpus | None:
    """The corpus kept in `folder/name`, whatever its source; None: a run left none there."""
    return _load(folder / name, {"tokenizer": tokenizer.describe})


def _load(folder: Path, key: dict[str, str]) -> Corpus | None:
    """None where there is no corpus, a damaged one, or that of another key.

    All of it is read, so that no token is other than it was.
    """
    try:
        manifest = json.loads(read_checked(folder / "manifest.json", ""))
        if manifest.pop("sha256") != _digests(folder):
            return None
        arrays = {name: np.load(file, mmap_mode="r") for name, file in _arrays(folder).items()}
        tokens, starts = arrays["tokens"], arrays["starts"]
        sizes = {"tokens": len(tokens) - 1, "documents": len(starts) - 1}
        if manifest != manifest | key | sizes:
            return None
        num_bytes, digest = manifest["bytes"], manifest["digest"]
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    # Plain arrays over the same map: indexing a np.memmap is slow.
    arrays = {name: x.view(np.ndarray) for name, x in arrays.items()}
    return Corpus(**arrays, num_bytes=num_bytes, digest=digest)


def _write(
    documents: Iterator[bytes], tokenizer: Tokenizer, folder: Path, name: str, key: dict[str, str]
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    end = np.array([tokenizer.end], dtype)
    starts, position, num_bytes, progress = array.array("q"), 0, 0, Progress()
    digest = hashlib.sha256()
    # scores are made of held-out text
    spans = None if tokenizer.exact or name != "heldout" else array.array("I")
    with open(folder / "tokens.npy", "wb") as file:
        _write_header(file, dtype, 0)
        for document in filter(None, documents):
            starts.append(position)
            digest.update(len(document).to_bytes(8, "little") + document)
            file.write(end)
            position += 1
            if spans is not None:
                spans.append(0)
            for block in blocks(document):
                first = position == starts[-1] + 1
                if spans is None:
                    tokens = tokenizer.encode(block, first)
                else:
                    tokens, lengths = tokenizer.encode_sized(block, first)
                    spans.extend(lengths.tolist())
                file.write(tokens.astype(dtype))
                position += len(tokens)
                num_bytes += len(block)
                if progress.due():
                    sizes = (
                        f"{len(starts):,} documents, {position / 1e6:.1f}M tokens, "
                        f"{num_bytes / 1e6:.1f} MB"
                    )
                    say(f"reading the {name} text: {sizes}")
        if not starts:
            raise UserError(
                f"the {name} part of the corpus ({key['source']}) is empty; give one with text in "
                "it"
            )
        file.write(end)
        _write_header(file, dtype, position + 1)
    starts.append(position)
    np.save(folder / "starts.npy", np.frombuffer(starts, np.int64))
    if spans is not None:
        spans.append(0)
        np.save(folder / "sizes.npy", np.frombuffer(spans, np.uint32))
    manifest = {**key, "documents": len(starts) - 1, "tokens": position, "bytes": num_bytes}
    manifest["digest"] = digest.hexdigest()[:16]
    manifest["sha256"] = _digests(folder)
    write_checked(folder / "manifest.json", json.dumps(manifest, indent=1))


def _arrays(folder: Path) -> dict[str, Path]:
    """The files of the arrays; `sizes` is there only where decoding does not tell them."""
    files = {name: folder / f"{name}.npy" for name in ("tokens", "starts", "sizes")}
    return {name: file for name, file in files.items() if name != "sizes" or file.exists()}


def _digests(folder: Path) -> dict[str, str]:
    """Of the arrays."""
    found = {}
    for name, path in _arrays(folder).items():
        with open(path, "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write_header(file: IO[bytes], dtype: np.dtype, length: int) -> None:
    """Of a one-dimensional .npy. NumPy leaves room for the length to grow, so it can be written
    again at the end.
    """
    file.seek(0)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (length,),
    }
    np.lib.format.write_array_header_1_0(file, header)
