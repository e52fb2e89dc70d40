"""Text to token ids and back, without loss for any bytes.

One id, `end`, stands for no text: it opens each document and, as a target, ends the one before.
"""

import collections
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rmat_jax.config import Config
from rmat_jax.data.sources import Documents, blocks
from rmat_jax.errors import UserError, install
from rmat_jax.files import read_checked, write_checked

# Of the text a byte-pair vocabulary is trained on: enough for its statistics, 10 s or so.
TRAINING_BYTES = 32 << 20

# What merges stay inside of: a word with the space before it, a number, signs, white space; at most
# 64 bytes of them, since time grows with the square of a piece. Bytes from 128 count as letters, so
# that a word of any alphabet is one piece. Everything matches something, so no byte is lost.
_SPACE = r" \t\n\r\f\v"
_LONG = "{1,64}"
PIECES = (
    rf" ?[A-Za-z_\x{{80}}-\x{{ff}}]{_LONG}| ?[0-9]{_LONG}"
    rf"| ?[^{_SPACE}0-9A-Za-z_\x{{80}}-\x{{ff}}]{_LONG}"
    rf"|[{_SPACE}]{_LONG}(?![^{_SPACE}])|[{_SPACE}]{_LONG}"
)
# a line break is a word, and each holds the space before it
WORDS = r" ?\n| ?[^ \n]+| "


class Tokenizer(Protocol):
    """`decode(encode(data)) == data`; `decode` drops `end`. Equal `describe` means equal ids for
    every text.
    """

    vocab_size: int
    end: int
    describe: str

    def encode(self, data: bytes) -> np.ndarray:
        """Token ids, int32, `end` not among them."""

    def encode_all(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of each, on as many cores as the library knows to use."""

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes that `ids` stand for. Raises UserError for an id outside the vocabulary."""


class ByteTokenizer:
    """Ids 0..255 are the bytes, 256 ends a document."""

    vocab_size = 257
    end = 256
    describe = "bytes"

    def encode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_all(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> bytes:
        ids = _checked(ids, self.vocab_size)
        return ids[ids != self.end].astype(np.uint8).tobytes()


class BPETokenizer:
    """Byte pairs (arXiv 1508.07909) merged by the Hugging Face library, over the bytes as Latin-1
    characters; or whole words.

    Each of the 256 characters is a token of its own, so any bytes can be encoded. `end` is the last
    id and unknown to the library: no text can spell it.
    """

    def __init__(self, model: str):
        """Args: model: the library's own JSON."""
        self._model = _library().Tokenizer.from_str(model)
        pieces = sorted((index, piece) for piece, index in self._model.get_vocab().items())
        self._bytes = [piece.encode("latin-1") for _, piece in pieces] + [b""]
        self.end = len(pieces)
        self.vocab_size = len(pieces) + 1
        self.describe = (
            f"bpe of {self.vocab_size} ({hashlib.sha256(model.encode()).hexdigest()[:12]})"
        )

    @classmethod
    def checked(cls, model: str, what: str) -> "BPETokenizer":
        """A tokenizer from a file, after a round trip of every byte and every entry.

        Args:
            model: the library's own JSON.
            what: names it, for the errors.

        Raises:
            UserError: it is no tokenizer, or loses bytes.
        """
        try:
            tokenizer = cls(model)
            if {*tokenizer._model.get_vocab().values()} != {*range(tokenizer.end)}:
                raise ValueError(f"its ids are not 0..{tokenizer.end - 1}")
            texts = [bytes(range(256)), *(bytes([byte]) for byte in range(256)), *tokenizer._bytes]
            found = map(tokenizer.decode, tokenizer.encode_all(texts))
            lost = [text for text, back in zip(texts, found, strict=True) if text != back]
        except UserError:
            raise
        # the library raises bare Exceptions, and panics are none
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UserError(
                f"{what} is not a tokenizer ({' '.join(str(error).split())[:200]}); restore it, or "
                "delete it to train a new one"
            ) from error
        if lost:
            raise UserError(
                f"{what} is a tokenizer that loses bytes: {min(lost, key=len)!r:.60} does not come "
                "back; restore it, or delete it to train a new one"
            )
        return tokenizer

    @classmethod
    def train(cls, documents: Iterator[bytes], vocab_size: int) -> "BPETokenizer":
        """The most frequent pairs of the first TRAINING_BYTES; fewer than `vocab_size` entries if
        there are no more.
        """
        library = _library()
        model = library.Tokenizer(library.models.BPE())
        model.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(PIECES), "isolated")
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=[chr(byte) for byte in range(256)],
            show_progress=False,
        )
        text = itertools.chain.from_iterable(map(blocks, documents))
        model.train_from_iterator(
            (block.decode("latin-1") for block in _first(text, TRAINING_BYTES)), trainer
        )
        return cls(model.to_str())

    @classmethod
    def of_words(cls, documents: Iterator[bytes], vocab_size: int) -> "BPETokenizer":
        """The most frequent words of all text, as it separates them by spaces; any other is
        spelled, character by character.
        """
        library = _library()
        split = library.pre_tokenizers.Split(library.Regex(WORDS), "isolated")
        counts = collections.Counter()
        for block in itertools.chain.from_iterable(map(blocks, documents)):
            counts.update(
                piece
                for piece, _ in split.pre_tokenize_str(block.decode("latin-1"))
                if len(piece) > 1
            )
        vocabulary = [
            *map(chr, range(256)),
            *(word for word, _ in counts.most_common(vocab_size - 257)),
        ]
        ids = {piece: index for index, piece in enumerate(vocabulary)}
        # a known word, or its characters
        model = library.Tokenizer(library.models.BPE(ids, [], ignore_merges=True))
        model.pre_tokenizer = split
        return cls(model.to_str())

    def save(self, file: Path) -> None:
        """Whole or not at all: a reader never sees half a file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_checked(file, self._model.to_str())

    def encode(self, data: bytes) -> np.ndarray:
        return self.encode_all([data])[0]

    def encode_all(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        found = self._model.encode_batch_fast([text.decode("latin-1") for text in texts])
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[index] for index in _checked(ids, self.vocab_size).tolist())


def count_words(texts: Iterable[bytes]) -> int:
    """The words of texts, line breaks among them, whether a vocabulary holds them or not."""
    pattern = re.compile(WORDS.encode())
    return sum(len(pattern.findall(text)) for text in texts)


def make_tokenizer(config: Config, folder: Path, documents: Documents) -> Tokenizer:
    """The tokenizer kept in `folder`, or a new one, trained on `documents` and kept there."""
    file = folder / "tokenizer.json"
    if config.data.tokenizer != "bytes" and not file.exists():
        # Before training: a vocabulary that is too large for this model must not be kept for the
        # next.
        check_vocabulary(
            config, ByteTokenizer.vocab_size, f"data.tokenizer={config.data.tokenizer!r}"
        )
        make = BPETokenizer.train if config.data.tokenizer == "bpe" else BPETokenizer.of_words
        make(documents(), config.model.vocab_size).save(file)
    return load_tokenizer(config, folder)


def load_tokenizer(config: Config, folder: Path, trained_on: str | None = None) -> Tokenizer:
    """The tokenizer of a run, from its `folder`; needs no corpus.

    Args:
        config: the run's.
        folder: that holds it.
        trained_on: the identity of the data that the weights have seen; None: not known.

    Raises:
        UserError: none there, an unreadable one, one with more entries than the model has, or
            another than the weights were trained with.
    """
    if config.data.synthetic:
        raise UserError(
            f"data.synthetic={config.data.synthetic!r} has no text and no tokenizer; use a model "
            "of text"
        )
    tokenizer = (
        ByteTokenizer()
        if config.data.tokenizer == "bytes"
        else _load_bpe(folder / "tokenizer.json")
    )
    check_vocabulary(config, tokenizer.vocab_size, f"data.tokenizer={config.data.tokenizer!r}")
    if trained_on is not None and not trained_on.endswith(tokenizer.describe):
        raise UserError(
            f"{folder} has another tokenizer than the weights were trained with: {trained_on}, is "
            f"{tokenizer.describe}; bring it back"
        )
    return tokenizer


def check_vocabulary(config: Config, size: int, maker: str) -> None:
    """Raises UserError where `maker` makes more token ids, `size`, than the model knows."""
    if size > config.model.vocab_size:
        raise UserError(
            f"token ids outside the vocabulary: {maker} makes ids up to {size - 1}, "
            "model.vocab_size="
            f"{config.model.vocab_size} knows fewer; set model.vocab_size={size}"
        )


def _load_bpe(file: Path) -> BPETokenizer:
    if not file.exists():
        raise UserError(
            f"{file} does not exist; train a model in this workdir first, or set "
            "data.tokenizer='bytes'"
        )
    return BPETokenizer.checked(read_checked(file, "restore it"), str(file))


def _library():
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"data.tokenizer other than 'bytes' needs a package; run: {install('tokenizers')}"
        ) from None
    return tokenizers


def _checked(ids: Sequence[int], vocab_size: int) -> np.ndarray:
    ids = np.asarray(ids, np.int64)
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise UserError(
            f"token id {outside[0]} is outside the vocabulary; ids lie in 0..{vocab_size - 1}"
        )
    return ids


def _first(texts: Iterator[bytes], budget: int) -> Iterator[bytes]:
    for text in texts:
        yield text
        budget -= len(text)
        if budget <= 0:
            return
