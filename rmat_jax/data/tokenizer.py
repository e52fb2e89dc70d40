"""Tokenizers that lose nothing of any bytes: bytes themselves, and vocabularies made of a corpus.

One id, `end`, stands for no text: it opens each document and, as a target, ends the one before.
`outside.py` has the tokenizers of other programs; `tokenizer_files.py` chooses a run's tokenizer.
"""

import codecs
import collections
import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rmat_jax.config import Config
from rmat_jax.data.sources import blocks
from rmat_jax.errors import UserError, install

# The size of the text that a byte-pair vocabulary is trained on: enough for its statistics, in 10 s
# or so.
TRAINING_BYTES = 32 << 20
# the name of `end` in the file
END = "<|endoftext|>"
# what to do about a damaged file
RESTORE = "restore it, or delete it to make a new one"

# The letter that stands for each byte in a byte-level tokenizer.json, as in GPT-2: its own where
# Latin-1 prints it, else the next from U+0100 on.
_OWN = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_LATER = itertools.count(0x100)
LETTERS = "".join(chr(byte if byte in _OWN else next(_LATER)) for byte in range(256))
_BYTES = codecs.charmap_build(LETTERS)


def letters(data: bytes) -> str:
    """Bytes as a byte-level tokenizer spells them."""
    return codecs.charmap_decode(data, "strict", LETTERS)[0]


def from_letters(piece: str) -> bytes:
    """The bytes of `letters`. Raises UnicodeEncodeError where a letter stands for none."""
    return codecs.charmap_encode(piece, "strict", _BYTES)[0]


# Merges stay inside a piece: a word with the space before it, a number, signs, or white space. A
# piece has at most 64 bytes, since time grows with its square. Bytes from 128 count as letters, so
# that a word of any alphabet is one piece. Everything matches something, so no byte is lost.
_SPACE = letters(b" \t\n\r\f\v")
_WORD = "A-Za-z_" + letters(bytes(range(0x80, 0x100)))
_LONG = "{1,64}"
_ONE = letters(b" ")
PIECES = (
    rf"{_ONE}?[{_WORD}]{_LONG}|{_ONE}?[0-9]{_LONG}"
    rf"|{_ONE}?[^{_SPACE}0-9{_WORD}]{_LONG}"
    rf"|[{_SPACE}]{_LONG}(?![^{_SPACE}])|[{_SPACE}]{_LONG}"
)


def _words(space: str, line: str) -> str:
    """A pattern of words. A line break is a word, and each word holds the space before it."""
    return f"{space}?{line}|{space}?[^{space}{line}]+|{space}"


WORDS = _words(*letters(b" \n"))


class Tokenizer(Protocol):
    """The interface of all tokenizers.

    `decode` drops `end`. The bytes of some ids followed by the bytes of the next ids are the bytes
    of all of them. Equal `describe` means equal ids for every text.
    """

    vocab_size: int
    end: int
    describe: str
    # decode(encode(data)) == data for any bytes
    exact: bool

    def encode(self, data: bytes, first: bool = False) -> np.ndarray:
        """Token ids, int32.

        Args:
            data: a text, or a part of one.
            first: whether it begins a document, where some tokenizers put a space.
        """

    def encode_all(self, texts: Sequence[bytes], firsts: Sequence[bool] = ()) -> list[np.ndarray]:
        """Encodes each text as `encode` does, on as many cores as the library uses.

        Args:
            texts: any number of texts.
            firsts: whether each begins a document; (): none does.
        """

    def decode(self, ids: Sequence[int], first: bool = False) -> bytes:
        """The bytes that `ids` stand for.

        Args:
            ids: token ids.
            first: whether they begin a document, as ids after an `end` do.

        Raises:
            UserError: an id is outside the vocabulary.
        """

    def files(self) -> dict[str, bytes]:
        """The files that make the tokenizer again, by name."""


class ByteTokenizer:
    """Ids 0..255 are the bytes, 256 ends a document."""

    vocab_size = 257
    end = 256
    describe = "bytes"
    exact = True

    def encode(self, data: bytes, first: bool = False) -> np.ndarray:
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_all(self, texts: Sequence[bytes], firsts: Sequence[bool] = ()) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], first: bool = False) -> bytes:
        ids = check_ids(ids, self.vocab_size)
        return ids[ids != self.end].astype(np.uint8).tobytes()

    def files(self) -> dict[str, bytes]:
        return {}


class BPETokenizer:
    """Byte pairs (arXiv 1508.07909) merged by the Hugging Face library, or whole words.

    It is a byte-level tokenizer.json that any program reads: text becomes bytes, each byte a letter
    of `LETTERS`, and the letters are cut into pieces and merged. Bytes that are not UTF-8, which no
    other program can hand over, take the same way here. `end` is the last id. In the file it is an
    added token, but here no text can spell it.
    """

    exact = True

    def __init__(self, text: str):
        """Args: text: the text of the file."""
        self._text, spec = text, json.loads(text)
        # the library gets letters, so it need neither make them nor look for added tokens in them
        cut = spec["pre_tokenizer"]["pretokenizers"][1:]
        spec |= {
            "added_tokens": [],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
            "decoder": None,
        }
        self._model = library().Tokenizer.from_str(json.dumps(spec))
        pieces = sorted((index, piece) for piece, index in self._model.get_vocab().items())
        self._bytes = [from_letters(piece) for _, piece in pieces] + [b""]
        self.end = len(pieces)
        self.vocab_size = len(pieces) + 1
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.describe = f"bpe of {self.vocab_size} ({digest[:12]})"

    @classmethod
    def checked(cls, text: str, what: str) -> "BPETokenizer":
        """Makes a tokenizer from a file, and checks that every byte and every entry come back.

        Args:
            text: the text of the file.
            what: the file's name, for the errors.

        Raises:
            UserError: the file is no tokenizer, or loses bytes.
        """
        with reading(what):
            tokenizer = cls(text)
            if {*tokenizer._model.get_vocab().values()} != {*range(tokenizer.end)}:
                raise ValueError(f"its ids are not 0..{tokenizer.end - 1}")
            texts = [bytes(range(256)), *(bytes([byte]) for byte in range(256)), *tokenizer._bytes]
            found = map(tokenizer.decode, tokenizer.encode_all(texts))
            lost = [text for text, back in zip(texts, found, strict=True) if text != back]
        if lost:
            raise UserError(
                f"{what} is a tokenizer that loses bytes: {min(lost, key=len)!r:.60} does not come "
                f"back; {RESTORE}"
            )
        return tokenizer

    @classmethod
    def train(cls, documents: Iterator[bytes], vocab_size: int) -> "BPETokenizer":
        """Makes a vocabulary of the most frequent pairs of the first TRAINING_BYTES.

        It has fewer than `vocab_size` entries if there are no more pairs.
        """
        model = library().Tokenizer(library().models.BPE())
        model.pre_tokenizer = _cut(PIECES)
        trainer = library().trainers.BpeTrainer(
            vocab_size=vocab_size - 1, initial_alphabet=[*LETTERS], show_progress=False
        )
        text = itertools.chain.from_iterable(map(blocks, documents))
        model.train_from_iterator(map(letters, _first(text, TRAINING_BYTES)), trainer)
        return cls(_standard(model, PIECES))

    @classmethod
    def of_words(cls, documents: Iterator[bytes], vocab_size: int) -> "BPETokenizer":
        """Makes a vocabulary of the most frequent words, which spaces separate. Any other word is
        spelled byte by byte.
        """
        split, counts = _cut(WORDS), collections.Counter()
        for block in itertools.chain.from_iterable(map(blocks, documents)):
            pieces = (piece for piece, _ in split.pre_tokenize_str(letters(block)))
            counts.update(piece for piece in pieces if len(piece) > 1 and piece != END)
        words = (word for word, _ in counts.most_common(vocab_size - 257))
        ids = {piece: index for index, piece in enumerate([*LETTERS, *words])}
        # a known word, or its bytes
        return cls(
            _standard(library().Tokenizer(library().models.BPE(ids, [], ignore_merges=True)), WORDS)
        )

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.json": self._text.encode()}

    def encode(self, data: bytes, first: bool = False) -> np.ndarray:
        return self.encode_all([data], [first])[0]

    def encode_all(self, texts: Sequence[bytes], firsts: Sequence[bool] = ()) -> list[np.ndarray]:
        found = self._model.encode_batch_fast([*map(letters, texts)])
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def decode(self, ids: Sequence[int], first: bool = False) -> bytes:
        return b"".join(self._bytes[index] for index in check_ids(ids, self.vocab_size).tolist())


def _cut(pattern: str) -> Any:
    return library().pre_tokenizers.Split(library().Regex(pattern), "isolated")


def _standard(model: Any, pattern: str) -> str:
    """The tokenizer.json, for text, of a model of letters."""
    found = library()
    to_letters = found.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = found.pre_tokenizers.Sequence([to_letters, _cut(pattern)])
    model.decoder = found.decoders.ByteLevel()
    model.add_special_tokens([END])
    return model.to_str()


def is_ours(spec: Mapping[str, Any]) -> bool:
    """Whether `BPETokenizer` wrote this tokenizer.json."""
    steps = (spec.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    kinds = [step.get("type") for step in steps]
    added = [token.get("content") for token in spec.get("added_tokens") or ()]
    no_more = steps[0].get("use_regex") is False and steps[0].get("add_prefix_space") is False
    no_more = no_more and not spec.get("normalizer")
    return kinds == ["ByteLevel", "Split"] and no_more and added == [END]


def count_words(texts: Iterable[bytes]) -> int:
    """Counts the words of texts, line breaks among them, whether a vocabulary has them or not."""
    pattern = re.compile(_words(" ", "\n").encode())
    return sum(len(pattern.findall(text)) for text in texts)


def check_vocabulary(config: Config, size: int, maker: str) -> None:
    """Raises UserError where `maker` makes more token ids, `size`, than the model has."""
    if size > config.model.vocab_size:
        raise UserError(
            f"token ids outside the vocabulary: {maker} makes ids up to {size - 1}, "
            "model.vocab_size="
            f"{config.model.vocab_size} knows fewer; set model.vocab_size={size}"
        )


def library() -> Any:
    """The Hugging Face library. Raises UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"data.tokenizer other than 'bytes' needs a package; run: {install('tokenizers')}"
        ) from None
    return tokenizers


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises UserError where a block fails to make a tokenizer of a file's contents."""
    try:
        yield
    except UserError:
        raise
    # the library raises bare Exceptions, and its panics are no Exceptions
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise
        raise UserError(
            f"{what} is not a tokenizer ({' '.join(str(error).split())[:200]}); {RESTORE}"
        ) from error


def check_ids(ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """Ids as int64. Raises UserError where one is outside the vocabulary."""
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
