"""Corpora and vocabularies that the runs on a machine share.

A run has both in its workdir. They are made in a folder that all runs share, under a digest of the
text's bytes, and linked into the workdir, so that they take their room once. Damaged files in the
shared folder are made again. The folder may be deleted at any time, since workdirs on the same disk
keep their files.

The folder is ~/.cache/rmat_jax/corpora, or below XDG_CACHE_HOME. RMAT_JAX_CORPORA names another; if
it is empty, no run shares. Then, and where there is no home, everything is made in the workdir.
"""

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rmat_jax.config import Config
from rmat_jax.data.corpus import Corpus, build_corpus, link_corpus
from rmat_jax.data.sources import Documents, Source
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import make_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.files import cache_folder, locked, make_folder, read_checked, write_checked
from rmat_jax.progress import say

VARIABLE = "RMAT_JAX_CORPORA"
# tokenizers that are made of the text
MADE = ("bpe", "words")


def shared_folder() -> Path | None:
    """The folder that runs share; None: there is none, or it cannot be written to."""
    named = os.environ.get(VARIABLE)
    folder = cache_folder("corpora") if named is None else named and Path(named).expanduser()
    if not folder:
        return None
    try:
        make_folder(folder, VARIABLE)
    except UserError as error:
        say(f"note: {error}; runs share no tokens")
        return None
    return folder


class Shelf:
    """Makes corpora and tokenizers on the shared folder, for workdirs."""

    def __init__(self, share: bool = True):
        """Args: share: whether to use the shared folder."""
        self._folder = functools.cache(shared_folder) if share else lambda: None

    def corpus(
        self, source: Source, documents: Documents, tokenizer: Tokenizer, folder: Path, name: str
    ) -> Corpus:
        """Makes the corpus in `folder/name`, see `build_corpus`.

        Args:
            source: the source of the documents.
            documents: the source's text to train on, or its held-out text.
            tokenizer: the text's tokenizer.
            folder: the folder of corpora in the workdir.
            name: the corpus' name, which begins with "train" or "heldout".
        """
        title = f"{name} ({source.describe})"

        def make() -> tuple[Corpus, Path]:
            common, side = self._folder(), name.partition("-")[0]
            key = source.contents()
            with _alone(common, f"{side}-{_short(key, tokenizer.describe)}") as there:
                found = build_corpus(documents, tokenizer, common, there.name, key, title)
            return found, there

        if self._folder() is None:
            return build_corpus(documents, tokenizer, folder, name, source.key, title)
        return link_corpus(make, tokenizer, folder, name, source.key)

    def tokenizer(self, config: Config, folder: Path, source: Source) -> Tokenizer:
        """Makes the tokenizer in `folder`, see `make_tokenizer`; one made of a text is shared."""
        kind, file = config.data.tokenizer, "tokenizer.json"
        if kind in MADE and not (folder / file).exists() and (common := self._folder()):
            key = _short(source.contents(), f"{kind} {config.model.vocab_size}")
            with _alone(common, f"tokenizer-{key}") as there:
                try:
                    make_tokenizer(config, there, source.train)
                except UserError:
                    if not (there / file).exists():
                        raise
                    say(f"{there / file} is damaged: making it again")
                    (there / file).unlink()
                    make_tokenizer(config, there, source.train)
                folder.mkdir(parents=True, exist_ok=True)
                write_checked(folder / file, read_checked(there / file, "delete it"))
        return make_tokenizer(config, folder, source.train)


def _short(*keys: str) -> str:
    return hashlib.sha256(repr(keys).encode()).hexdigest()[:24]


@contextlib.contextmanager
def _alone(common: Path, name: str) -> Iterator[Path]:
    """Gives the path of a name to one process at a time.

    On a file system without locks several processes may have it; then all make the same files.
    """
    with open(common / f".{name}.lock", "ab") as lock:
        told = False
        while not locked(lock):
            if not told:
                say("another process is making the tokens of this text; waiting for it")
            told = True
            time.sleep(0.2)
        yield common / name
