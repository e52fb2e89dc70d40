"""Tokenizers of other programs: a tokenizer.json of Hugging Face, or a sentencepiece model.

The ids of a document are those that the library gives for its text, without the special tokens it
would add around it. A text that spells a special token gets that token's id. The libraries take
only text, so each byte that is not UTF-8 becomes U+FFFD first.

A document may come in parts. Several tokenizers put a space before a text, and remove it when they
decode. Here only the first part of a document gets such a space.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rmat_jax.data.tokenizer import check_ids, from_letters, library, reading
from rmat_jax.errors import UserError, install

# the names that `end` may have where no file beside the tokenizer names it
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")
# put around a piece to find its text in the middle of a document
_ANCHOR = "a"
# what `surrogateescape` makes of a byte that is not UTF-8
_ESCAPES = re.compile("[\udc80-\udcff]")


class OutsideTokenizer:
    """The common part of both kinds of tokenizers."""

    exact = False
    vocab_size: int
    end: int
    describe: str

    def __init__(self):
        self._known: dict[tuple[int, bool], bytes] = {}
        # tokens without text, `end` among them
        self._silent: set[int] = set()

    def encode(self, data: bytes, first: bool = False) -> np.ndarray:
        return self.encode_all([data], [first])[0]

    def encode_all(self, texts: Sequence[bytes], firsts: Sequence[bool] = ()) -> list[np.ndarray]:
        found = {}
        for first in (True, False):
            begins = firsts or [False] * len(texts)
            places = [place for place in range(len(texts)) if begins[place] == first]
            ids = self._ids([_text(texts[place]) for place in places], first)
            found |= dict(zip(places, ids, strict=True))
        return [np.array(found[place], np.int32) for place in range(len(texts))]

    def encode_sized(self, data: bytes, first: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `encode`, and how many bytes of `data` each stands for: [n] int64.

        Bytes that a tokenizer leaves out, such as spaces, belong to the token after them.
        """
        text = data.decode("utf-8", "surrogateescape")
        ids, ends = self._ids_and_ends(_ESCAPES.sub("\ufffd", text), first)
        if not ids:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        sizes = 1 + sum((codes >= limit).astype(np.int64) for limit in (0x80, 0x800, 0x10000))
        sizes[(codes >= 0xDC80) & (codes < 0xDD00)] = 1
        ends = np.maximum.accumulate(np.array(ends))
        ends[-1] = len(text)
        at = np.concatenate([[0], np.cumsum(sizes)])[ends]
        return np.array(ids, np.int32), np.diff(at, prepend=0)

    def decode(self, ids: Sequence[int], first: bool = False) -> bytes:
        parts = []
        for index in check_ids(ids, self.vocab_size).tolist():
            if index == self.end:
                first = True
            if index in self._silent:
                continue
            key, first = (index, first), False
            if key not in self._known:
                self._known[key] = self._bytes(*key)
            parts.append(self._known[key])
        return b"".join(parts)

    def _ids(self, texts: list[str], first: bool) -> list[Sequence[int]]:
        raise NotImplementedError

    def _ids_and_ends(self, text: str, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        """The ids, and where each ends in `text`."""
        raise NotImplementedError

    def _bytes(self, index: int, first: bool) -> bytes:
        raise NotImplementedError


class JSONTokenizer(OutsideTokenizer):
    """A tokenizer.json, of any model that the Hugging Face library has."""

    def __init__(self, text: str, end: str | None, what: str):
        """Makes the tokenizer.

        Args:
            text: the text of the file.
            end: the token that ends a document; None: the first of ENDS that is a special token.
            what: the file's name, for the errors.

        Raises:
            UserError: the file is no tokenizer, or has no such token.
        """
        super().__init__()
        spec = _object(text, what)
        # these would pad and cut to one length, and add special tokens
        spec |= {"truncation": None, "padding": None, "post_processor": None}
        # with BPE-dropout the same text would have other ids each time
        if isinstance(spec.get("model"), dict) and "dropout" in spec["model"]:
            spec["model"]["dropout"] = None
        with reading(what):
            self._library = library().Tokenizer.from_str(json.dumps(spec))
            later = _within(spec)
            self._later = (
                self._library if later == spec else library().Tokenizer.from_str(json.dumps(later))
            )
            vocabulary = self._library.get_vocab(with_added_tokens=True)
            added = self._library.get_added_tokens_decoder()
        self.vocab_size = max([*vocabulary.values(), *added], default=-1) + 1
        self._added = {index: token.content for index, token in added.items()}
        kinds = _kinds(spec.get("decoder"))
        self._byte_level, self._byte_fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
        self._text, self._end = text, end or _find_end(added.values(), self.vocab_size, what)
        if self._end not in vocabulary:
            raise UserError(
                f"{what} has {self.vocab_size} entries and the end token {self._end!r} is none of "
                "them; name one of them as eos_token in tokenizer_config.json"
            )
        self.end = vocabulary[self._end]
        special = {index for index, token in added.items() if token.special}
        # ids may have gaps
        self._silent = special | {self.end} | {*range(self.vocab_size)} - {*vocabulary.values()}
        digest = hashlib.sha256(f"{self._end} {text}".encode()).hexdigest()
        self.describe = f"tokenizer.json of {self.vocab_size} ({digest[:12]})"

    def files(self) -> dict[str, bytes]:
        config = json.dumps({"eos_token": self._end})
        return {"tokenizer_config.json": config.encode(), "tokenizer.json": self._text.encode()}

    def _ids(self, texts: list[str], first: bool) -> list[Sequence[int]]:
        model = self._library if first else self._later
        return [found.ids for found in model.encode_batch_fast(texts, add_special_tokens=False)]

    def _ids_and_ends(self, text: str, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        model = self._library if first else self._later
        found = model.encode_batch([text], add_special_tokens=False)[0]
        return found.ids, [end for _, end in found.offsets]

    def _bytes(self, index: int, first: bool) -> bytes:
        piece = self._library.id_to_token(index)
        if self._byte_level:
            try:
                return self._added[index].encode() if index in self._added else from_letters(piece)
            except UnicodeEncodeError:
                return piece.encode()
        if self._byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        before = [] if first else [_ANCHOR]
        after = len(self._joined([_ANCHOR, _ANCHOR])) - len(_ANCHOR)
        text = self._joined([*before, piece, _ANCHOR])
        return text[len("".join(before)) : len(text) - after].encode()

    def _joined(self, pieces: list[str]) -> str:
        decoder = self._library.decoder
        return " ".join(pieces) if decoder is None else decoder.decode(pieces)


class SentencePieceTokenizer(OutsideTokenizer):
    """A sentencepiece model, of any type."""

    def __init__(self, model: bytes, what: str):
        """Makes the tokenizer.

        Args:
            model: the contents of the file.
            what: the file's name, for the errors.

        Raises:
            UserError: the file is no model, or has no end token.
        """
        super().__init__()
        self._model = model
        if not model:
            raise UserError(f"{what} is empty; copy it again")
        with reading(what):
            self._library = _sentencepiece().SentencePieceProcessor(model_proto=model)
            # Protocol buffers one after the other are merged. The second one says
            # normalizer_spec { add_dummy_prefix: false }.
            later = model + bytes([3 << 3 | 2, 2, 3 << 3, 0])
            self._later = _sentencepiece().SentencePieceProcessor(model_proto=later)
            self.vocab_size, self.end = self._library.vocab_size(), self._library.eos_id()
            # whether the model merges several spaces into one, and drops those at both ends
            self._trims = self._library.encode("a  a ") == self._library.encode("a a")
        if self.end < 0:
            raise UserError(
                f"{what} has {self.vocab_size} entries and no end token; train it with eos_id set, "
                "as it is by default"
            )
        self._silent = {
            index
            for index in range(self.vocab_size)
            if self._library.is_control(index) or self._library.is_unused(index)
        } | {self.end}
        digest = hashlib.sha256(model).hexdigest()
        self.describe = f"sentencepiece model of {self.vocab_size} ({digest[:12]})"

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._model}

    def _ids(self, texts: list[str], first: bool) -> list[Sequence[int]]:
        return [self._at(text, first).encode(text) for text in texts]

    def _ids_and_ends(self, text: str, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        found = self._at(text, first).encode(text, return_type="offset_mapping")
        return found["ids"], [end for _, end in found["offsets"]]

    def _at(self, text: str, first: bool) -> Any:
        # a model that trims drops the text's own space, and puts its own in that place
        return self._library if first or (self._trims and text[:1].isspace()) else self._later

    def _bytes(self, index: int, first: bool) -> bytes:
        model = self._library
        piece = model.id_to_piece(index)
        if model.is_byte(index):
            return bytes([int(piece[3:5], 16)])
        if first or model.is_unknown(index):
            return model.decode([index]).encode()
        return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _find_end(added: Iterable[Any], size: int, what: str) -> str:
    special = {token.content for token in added if token.special}
    for name in ENDS:
        if name in special:
            return name
    raise UserError(
        f"{what} has {size} entries and none is known to end a document (such as {ENDS[0]} or "
        f"{ENDS[2]}, as a special token); name it as eos_token in a tokenizer_config.json beside "
        "the file"
    )


def named_end(files: Mapping[str, bytes], what: str) -> str | None:
    """The end token in the files beside a tokenizer.json: `eos_token` of tokenizer_config.json, or
    else of special_tokens_map.json; None: they name none.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if name in files:
            token = _object(files[name].decode("utf-8", "replace"), f"{name} of {what}").get(
                "eos_token"
            )
            token = token.get("content") if isinstance(token, Mapping) else token
            if token is not None and not isinstance(token, str):
                raise UserError(
                    f"eos_token in {name} of {what} is {token!r:.60}, not a text; name one"
                )
            if token:
                return token
    return None


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not JSON ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise UserError(
            f"{what} is a JSON {type(found).__name__}, not the object that a tokenizer is; "
            "give another file"
        )
    return found


def _within(spec: Any) -> Any:
    """The same tokenizer for later parts of a document, where it puts nothing in front."""
    if isinstance(spec, list):
        return [_within(x) for x in spec if not _prepends(x)]
    if _prepends(spec):
        return None
    if not isinstance(spec, dict):
        return spec
    # the vocabulary is large, and holds no steps
    spec = {
        key: value if key in ("model", "decoder", "added_tokens") else _within(value)
        for key, value in spec.items()
    }
    if spec.get("type") == "ByteLevel":
        spec |= {"add_prefix_space": False}
    if spec.get("type") == "Metaspace":
        spec |= {"prepend_scheme": "never"}
        spec.pop("add_prefix_space", None)
    return spec


def _prepends(step: Any) -> bool:
    return isinstance(step, dict) and step.get("type") == "Prepend"


def _kinds(step: Any) -> set[str]:
    """The types of a decoder and of its parts."""
    if not isinstance(step, dict):
        return set()
    return {step.get("type")}.union(*(_kinds(part) for part in step.get("decoders") or ()))


def _text(data: bytes) -> str:
    # one U+FFFD for each byte, while "replace" makes one of several bytes
    return _ESCAPES.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            f"a sentencepiece model needs a package; run: {install('sentencepiece')}"
        ) from None
    return sentencepiece
