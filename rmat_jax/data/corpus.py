"""A corpus on disk: all documents as one flat array of tokens, read through a memory map.

Layout: each document is `[end] + tokens`, one after the other, and a last `end` closes the array.
So the target of any token is the token after it; for a document's last token that is the `end` of
the next document. For dialogues a further array says which tokens are learned: those of answers,
and after each answer an `end` as the target, whatever token follows.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.data.encode import ENDING, PROMPT, write_arrays
from rmat_jax.data.sources import Documents
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.files import read_checked, write_checked
from rmat_jax.progress import say

ARRAYS = ("tokens", "starts", "learned", "sizes")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus, whose document i is `tokens[starts[i] : starts[i + 1]]`."""

    # [num_tokens + 1], uint16 or uint32, not in memory
    tokens: np.ndarray
    # [num_documents + 1] int64
    starts: np.ndarray
    # the size of the text
    num_bytes: int
    # a digest of the text, its cuts into documents, and the places of answers
    digest: str
    # [num_tokens + 1] uint8, PROMPT, LEARNED or ENDING; None: all are learned
    learned: np.ndarray | None = None
    # [num_tokens + 1], the bytes of text that each token stands for; None: decoding tells them
    sizes: np.ndarray | None = None

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) - 1

    @property
    def size_on_disk(self) -> int:
        """The bytes of all arrays."""
        arrays = (self.tokens, self.starts, self.learned, self.sizes)
        return sum(array.nbytes for array in arrays if array is not None)

    def targets(self, places: np.ndarray | slice) -> np.ndarray:
        """The target of each place, int32: the token after it, or IGNORE.

        Args:
            places: below `num_tokens`.
        """
        if isinstance(places, slice):
            places = np.arange(places.start, places.stop)
        targets = self.tokens[places + 1].astype(np.int32)
        if self.learned is not None:
            kinds = self.learned[places + 1]
            # the array begins with `end`
            targets[kinds == ENDING] = self.tokens[0]
            targets[kinds == PROMPT] = IGNORE
        return targets

    def read(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """The tokens at these places, and their targets."""
        return {"tokens": self.tokens[places], "targets": self.targets(places)}

    def documents(self, tokenizer: Tokenizer) -> Iterator[bytes]:
        """The decoded text, document by document."""
        for start, stop in itertools.pairwise(self.starts):
            yield tokenizer.decode(self.tokens[start:stop])

    @property
    def describe(self) -> str:
        answers = ""
        if self.learned is not None:
            answers = f" ({np.count_nonzero(self.learned):,} of answers)"
        return (
            f"{self.num_documents:,} documents, {self.num_tokens:,} tokens{answers}, "
            f"{self.num_bytes:,} bytes"
        )


def build_corpus(
    documents: Documents,
    tokenizer: Tokenizer,
    folder: Path,
    name: str,
    source: str,
    title: str = "",
) -> Corpus:
    """Loads the corpus kept in `folder/name` if it was made from this source and tokenizer, or
    builds a new one.

    Documents stream to disk; empty ones are skipped. The folder appears when it is complete. So a
    build that is killed leaves nothing behind that looks like a corpus, and several processes may
    build the same one at once.

    Args:
        documents: the text.
        tokenizer: the text's tokenizer.
        folder: the folder that holds corpora.
        name: the name of this corpus.
        source: a key that changes when the text does.
        title: the name of the text for messages; "": "NAME (SOURCE)".

    Raises:
        UserError: there is no document, or one cannot be read.
    """
    key = _key(source, tokenizer)
    title = title or f"{name} ({source})"
    # only held-out text needs sizes, for scores; an exact tokenizer tells them when it decodes
    sized = name.startswith("heldout") and not tokenizer.exact

    def write(new: Path) -> None:
        _write(documents(), tokenizer, new, title, key, sized)

    return _keep(folder, name, key, write)


def link_corpus(
    make: Callable[[], tuple[Corpus, Path]],
    tokenizer: Tokenizer,
    folder: Path,
    name: str,
    source: str,
) -> Corpus:
    """Does as `build_corpus`, but makes a new corpus of links to the files of one that lies
    elsewhere: hard links, or symbolic ones across disks.

    Args:
        make: makes that corpus, and returns it with its folder.
        tokenizer: as for `build_corpus`.
        folder: as for `build_corpus`.
        name: as for `build_corpus`.
        source: as for `build_corpus`.
    """
    key = _key(source, tokenizer)

    def link(new: Path) -> Corpus:
        corpus, there = make()
        for file in there.glob("*.npy"):
            try:
                os.link(file, new / file.name)
            except OSError:
                (new / file.name).symlink_to(file.absolute())
        manifest = json.loads(read_checked(there / "manifest.json", "")) | key
        write_checked(new / "manifest.json", json.dumps(manifest, indent=1))
        return corpus

    return _keep(folder, name, key, link)


def _key(source: str, tokenizer: Tokenizer) -> dict[str, str]:
    return {"source": source, "tokenizer": tokenizer.describe}


def _keep(
    folder: Path, name: str, key: dict[str, str], make: Callable[[Path], Corpus | None]
) -> Corpus:
    """Loads the corpus in `folder/name`, or lets `make` fill a new folder that takes its place."""
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
        # the map stays valid when the files are moved, or deleted by another process
        corpus = make(new) or _load(new, key)
        if corpus is None:
            raise UserError(
                f"{folder} cannot be read again where {name} was written; choose another --workdir"
            )
        if _load(folder / name, key) is None:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).rename(Path(scratch, "old"))
            # another process was faster with the same corpus
            with contextlib.suppress(OSError):
                new.rename(folder / name)
    return corpus


def kept_corpus(folder: Path, name: str, tokenizer: Tokenizer) -> Corpus | None:
    """Loads the corpus kept in `folder/name`, whatever its source; None if there is none."""
    return _load(folder / name, {"tokenizer": tokenizer.describe})


def _load(folder: Path, key: dict[str, str]) -> Corpus | None:
    """Loads a corpus; None where there is none, or it is damaged or of another key.

    All of it is read and compared with its digests.
    """
    try:
        manifest = json.loads(read_checked(folder / "manifest.json", ""))
        if manifest.pop("sha256") != _digests(folder):
            return None
        arrays = {
            # a plain array over the same map: indexing a np.memmap is slow
            name: np.load(file, mmap_mode="r").view(np.ndarray)
            for name, file in _arrays(folder).items()
        }
        tokens, starts = arrays["tokens"], arrays["starts"]
        sizes = {"tokens": len(tokens) - 1, "documents": len(starts) - 1}
        if manifest != manifest | key | sizes:
            return None
        num_bytes, digest = manifest["bytes"], manifest["digest"]
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return Corpus(**arrays, num_bytes=num_bytes, digest=digest)


def _write(
    documents: Iterator[bytes],
    tokenizer: Tokenizer,
    folder: Path,
    title: str,
    key: dict[str, str],
    sized: bool,
) -> None:
    manifest = key | write_arrays(documents, tokenizer, folder, title, sized)
    manifest["sha256"] = _digests(folder)
    write_checked(folder / "manifest.json", json.dumps(manifest, indent=1))


def _arrays(folder: Path) -> dict[str, Path]:
    """The files of the arrays. Not every corpus has all of them."""
    files = {name: folder / f"{name}.npy" for name in ARRAYS}
    return {name: file for name, file in files.items() if file.exists()}


def _digests(folder: Path) -> dict[str, str]:
    """The digests of the arrays' files, by name."""
    found = {}
    for name, path in _arrays(folder).items():
        with open(path, "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
