"""Chooses a run's tokenizer, and keeps a copy of it in the run's folder.

`data.tokenizer` is bytes, bpe, words, or a path. Whatever it is, the run's folder holds the files
that make it again, each with its digest beside it, and from then on only these files count.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from rmat_jax.config import Config, RMATConfig
from rmat_jax.data.outside import JSONTokenizer, SentencePieceTokenizer, named_end
from rmat_jax.data.sources import Documents
from rmat_jax.data.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    check_vocabulary,
    is_ours,
)
from rmat_jax.errors import UserError
from rmat_jax.files import check_regular, read_checked_bytes, write_checked
from rmat_jax.progress import say

# each of these is a whole tokenizer; a folder is searched for them in this order
WHOLE = ("tokenizer.json", "tokenizer.model")
# files that may stand beside a tokenizer.json
BESIDE = ("tokenizer_config.json", "special_tokens_map.json")


def make_tokenizer(config: Config, folder: Path, documents: Documents) -> Tokenizer:
    """Loads the tokenizer kept in `folder`, or makes one (read from a path, or trained on
    `documents`) and keeps it there.

    Raises:
        UserError: the path has no tokenizer, or another than the one that was kept.
    """
    kind = config.data.tokenizer_kind
    if kind == "file":
        return _copied(config, folder)
    if kind != "bytes" and not has_tokenizer(folder):
        # Checked before training: a vocabulary too large for this model must not be kept for the
        # next.
        check_vocabulary(
            config, ByteTokenizer.vocab_size, f"data.tokenizer={config.data.tokenizer!r}"
        )
        make = BPETokenizer.train if kind == "bpe" else BPETokenizer.of_words
        keep_tokenizer(make(documents(), config.model.vocab_size).files(), folder)
    return load_tokenizer(config, folder)


def _copied(config: Config, folder: Path) -> Tokenizer:
    if has_tokenizer(folder):
        tokenizer = load_tokenizer(config, folder)
        check_same_tokenizer(config, tokenizer, f"{folder}")
        return tokenizer
    tokenizer, name = open_tokenizer(config.data.tokenizer), f"{config.data.tokenizer!r}"
    check_vocabulary(config, tokenizer.vocab_size, f"data.tokenizer={name}")
    if config.model.vocab_size > tokenizer.vocab_size:
        say(
            f"warning: model.vocab_size={config.model.vocab_size} is more than the "
            f"{tokenizer.vocab_size} entries of data.tokenizer={name}: the rest is never "
            "used; leave model.vocab_size out"
        )
    keep_tokenizer(tokenizer.files(), folder)
    return load_tokenizer(config, folder)


def check_same_tokenizer(config: Config, tokenizer: Tokenizer, where: str) -> None:
    """Raises UserError where `data.tokenizer` is the path of another tokenizer than this one of
    `where`. A path with no file there is not checked.
    """
    if not Path(config.data.tokenizer).expanduser().exists():
        return
    other = open_tokenizer(config.data.tokenizer)
    if other.describe != tokenizer.describe:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} is {other.describe}, another tokenizer than "
            f"that of {where}, {tokenizer.describe}; bring it back, or choose another --workdir"
        )


def load_tokenizer(config: Config, folder: Path, trained_on: str | None = None) -> Tokenizer:
    """Loads the tokenizer of a run from its `folder`; needs no corpus.

    Args:
        config: the run's config.
        folder: the folder that holds the tokenizer.
        trained_on: the identity of the data that the weights have seen; None: not known.

    Raises:
        UserError: there is no tokenizer, it cannot be read, it has more entries than the model, or
            the weights were trained with another.
    """
    if config.data.synthetic:
        raise UserError(
            f"data.synthetic={config.data.synthetic!r} has no text and no tokenizer; use a model "
            "of text"
        )
    kind = config.data.tokenizer_kind
    if kind != "bytes" and not has_tokenizer(folder):
        raise UserError(
            f"{folder / WHOLE[0]} does not exist; train a model in this workdir first, or set "
            "data.tokenizer='bytes'"
        )
    tokenizer = tokenizer_of(config, {} if kind == "bytes" else _read(folder), folder)
    if trained_on is not None and not trained_on.endswith(tokenizer.describe):
        raise UserError(
            f"{folder} has another tokenizer than the weights were trained with: {trained_on}, is "
            f"{tokenizer.describe}; bring it back"
        )
    return tokenizer


def tokenizer_of(config: Config, files: Mapping[str, bytes], where: Path | str) -> Tokenizer:
    """Makes the tokenizer of a run from its files.

    Args:
        config: the run's config.
        files: the files by name; none for bytes.
        where: the files' place, for the errors.

    Raises:
        UserError: the files are no tokenizer, have more entries than the model, or are none of
            `BPETokenizer` where the run has one.
    """
    kind = config.data.tokenizer_kind
    tokenizer = ByteTokenizer() if kind == "bytes" else _made(files, f"{where}")
    if kind in ("bpe", "words") and not isinstance(tokenizer, BPETokenizer):
        raise UserError(
            f"{where} holds a {tokenizer.describe}, which data.tokenizer={kind!r} has not made; "
            "give its path as data.tokenizer in a new --workdir"
        )
    check_vocabulary(config, tokenizer.vocab_size, f"data.tokenizer={config.data.tokenizer!r}")
    return tokenizer


def open_tokenizer(path: str) -> Tokenizer:
    """Opens the tokenizer at a path: a tokenizer.json, a folder that holds one, or a sentencepiece
    model.

    Raises:
        UserError: there is no tokenizer, or it is damaged or has no end token.
    """
    name = f"data.tokenizer={path!r}"
    file = Path(path).expanduser()
    if file.is_dir():
        if not has_tokenizer(file):
            raise UserError(f"{name} holds no {' or '.join(WHOLE)}; give the file itself")
        return _made(_read(file), name)
    check_regular(file, "give a tokenizer.json, its folder, or a sentencepiece .model", name)
    again = "copy it again"
    files = {found: read_checked_bytes(file.with_name(found), again) for found in _beside(file)}
    whole = WHOLE[file.suffix == ".model"]
    return _made(files | {whole: read_checked_bytes(file, again)}, name)


def follow_tokenizer(config: Config, folder: Path | None = None) -> Config:
    """Sets `model.vocab_size` to the size of the tokenizer, where that is a path and the key is not
    set.

    Args:
        config: the experiment's config.
        folder: where the run keeps its tokenizer, if it has one.

    Raises:
        UserError: there is no tokenizer.
    """
    unset = config.model.vocab_size == RMATConfig.vocab_size
    if config.data.tokenizer_kind != "file" or config.data.synthetic or not unset:
        return config
    kept = folder is not None and has_tokenizer(folder)
    tokenizer = open_tokenizer(f"{folder}" if kept else config.data.tokenizer)
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    return dataclasses.replace(config, model=model)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / name).exists() for name in WHOLE)


def keep_tokenizer(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes the files of a tokenizer, each whole or not at all, and the essential one last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name in WHOLE):
        write_checked(folder / name, files[name])


def _read(folder: Path) -> dict[str, bytes]:
    """The files of a folder that has a tokenizer."""
    whole = next(name for name in WHOLE if (folder / name).exists())
    names = [*_beside(folder / whole), whole]
    return {name: read_checked_bytes(folder / name, "restore it") for name in names}


def _beside(file: Path) -> list[str]:
    return [name for name in BESIDE if file.with_name(name).is_file()]


def _made(files: Mapping[str, bytes], what: str) -> Tokenizer:
    if WHOLE[1] in files:
        return SentencePieceTokenizer(files[WHOLE[1]], what)
    what = what if what.endswith(("'", WHOLE[0])) else f"{what}/{WHOLE[0]}"
    try:
        text = files[WHOLE[0]].decode()
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not JSON ({error}); copy it again") from error
    spec = spec if isinstance(spec, dict) else {}
    if is_ours(spec):
        return BPETokenizer.checked(text, what)
    if spec.get("decoder", 0) is None and (spec.get("pre_tokenizer") or {}).get("type") == "Split":
        raise UserError(
            f"{what} was written by an older rmat_jax, whose format this version does not read; "
            "train anew in another --workdir"
        )
    return JSONTokenizer(text, named_end(files, what), what)
