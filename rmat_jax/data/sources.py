"""Sources of text. A source yields whole documents, as bytes, and holds some of them out.

Bytes are read as they are, so text that is not UTF-8 is text too. A document must fit in memory; a
corpus need not.
"""

import dataclasses
import functools
import hashlib
import heapq
import io
import itertools
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from rmat_jax.config import DataConfig
from rmat_jax.data import formats, saved
from rmat_jax.data.catalogue import reading_tfds
from rmat_jax.errors import UserError
from rmat_jax.files import check_regular
from rmat_jax.progress import Progress, say

Documents = Callable[[], Iterator[bytes]]
# the version of how files become documents; raise it when the same files give other documents
READING = 1

NOT_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents to train on, and held-out ones. Each call starts a new pass in the same order.

    `describe` names the source to people. `key` changes with the number and sizes of the documents.
    `contents` reads the files, and returns a key that changes with any byte of them.
    """

    describe: str
    key: str
    train: Documents
    heldout: Documents
    contents: Callable[[], str] = str
    # the sources of a mixture, with their weights
    parts: tuple[tuple[float, "Source"], ...] = ()


def make_source(config: DataConfig) -> Source:
    """The source that `config` names: TFDS, text, or by default the code of the Python standard
    library.

    Raises:
        UserError: there is no such source, it cannot be read, or leaves nothing to hold out.
    """
    if config.tfds:
        return tfds_source(
            config.tfds,
            config.tfds_train,
            config.tfds_heldout,
            config.feature,
            config.tfds_dir,
        )
    if not config.heldout_path and config.heldout_fraction == 0:
        raise UserError(
            "data.heldout_fraction=0 leaves no text to evaluate on; try 0.05, or give "
            "data.heldout_path"
        )

    def text(path: str) -> Source:
        return text_source(
            path,
            config.heldout_path,
            config.pattern,
            config.heldout_fraction,
            feature=config.feature,
            format=config.format,
        )

    if config.mixture:
        weights = [weight for _, weight in config.shares]
        sources = [text(path) for path, _ in config.shares]
        return mixed_source(sources, weights, sources[0].heldout if config.heldout_path else None)
    return text(config.path) if config.path else stdlib_source(config.heldout_fraction)


def mixed_source(
    sources: Sequence[Source], weights: Sequence[float], heldout: Documents | None = None
) -> Source:
    """Joins sources into one, which has them as its `parts`.

    Its documents come in turns, each from the source that has given the fewest bytes for its
    weight. So the beginning is a sample of all sources. Vocabularies and held-out batches are made
    of the beginning. Each document comes once.

    Args:
        sources: one source or more.
        weights: the weight of each source; they add up to 1.
        heldout: the held-out documents; None: those of the sources.
    """
    sides = [[source.train for source in sources], [source.heldout for source in sources]]
    train, held = (functools.partial(_in_turns, side, weights) for side in sides)
    named = [f"{weight:.3g} {s.describe}" for s, weight in zip(sources, weights, strict=True)]
    parts = tuple(zip(weights, sources, strict=True))
    return Source(
        f"mixture of {', '.join(named)}",
        "; ".join(f"{weight} {source.key}" for weight, source in parts),
        train,
        heldout or held,
        lambda: "; ".join(f"{weight} {source.contents()}" for weight, source in parts),
        parts,
    )


def _in_turns(sources: Sequence[Documents], weights: Sequence[float]) -> Iterator[bytes]:
    # a heap of (bytes for its weight, which source)
    left = [(0.0, index) for index in range(len(sources))]
    opened = [documents() for documents in sources]
    while left:
        given, index = left[0]
        document = next(opened[index], None)
        if document is None:
            heapq.heappop(left)
            continue
        heapq.heapreplace(left, (given + len(document) / weights[index], index))
        yield document


def stdlib_source(heldout_fraction: float) -> Source:
    """The Python standard library's *.py files, without its tests and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = _list_files(root, "*.py", skip=NOT_LIBRARY)
    if len(files) < 2:
        raise UserError(
            f"this Python keeps no sources of its standard library in {root}; give data.path"
        )
    return _file_source(
        f"Python {platform.python_version()} library",
        *split_files(files, root, heldout_fraction),
        lambda file: formats.documents(file, formats.Kind("text")),
        "text",
    )


def text_source(
    path: str,
    heldout_path: str = "",
    pattern: str = "*",
    heldout_fraction: float = 0.05,
    *,
    feature: str = "",
    format: str = "auto",
) -> Source:
    """The source of a file, or of all files below a folder but hidden and empty ones. Each file is
    one document, or has one in each row, see `formats.py`.

    `heldout_path` is held out if given (a file of `path` that also lies there is not trained on).
    Else `split_files` chooses files of a folder, a single file with rows gives every n-th row, and
    a single text gives the last `heldout_fraction` of its bytes.

    Args:
        path: as in `DataConfig`.
        heldout_path: as in `DataConfig`.
        pattern: as in `DataConfig`.
        heldout_fraction: as in `DataConfig`.
        feature: as in `DataConfig`.
        format: as in `DataConfig`.
    """
    root = saved.choose_split("data.path", Path(path).expanduser(), saved.TRAIN)
    splits = saved.split_folders(Path(path).expanduser())
    if not heldout_path:
        held = next((splits[name] for name in saved.HELDOUT if name in splits), root)
        heldout_path = "" if held == root else f"{held}"
    if splits:
        held = heldout_path or "a part of it"
        say(f"data.path={path} has splits: training on {root}, held out is {held}")
    files = _text_files("data.path", f"{root}", pattern)

    def kind_of(file: Path) -> formats.Kind:
        return formats.Kind("text") if format == "text" else formats.kind_of(file)

    def read(file: Path) -> Iterator[bytes]:
        return formats.documents(file, kind_of(file), feature, messages=format == "messages")

    settings = f"{format}, {feature}, {heldout_fraction}"
    if heldout_path:
        held = saved.choose_split(
            "data.heldout_path", Path(heldout_path).expanduser(), saved.HELDOUT
        )
        heldout = _text_files("data.heldout_path", f"{held}", pattern)
        resolved = {file.resolve() for file in heldout}
        files = [file for file in files if file.resolve() not in resolved]
        if not files:
            raise UserError(
                f"data.heldout_path={heldout_path!r} leaves nothing of data.path={path!r}; hold "
                "out less"
            )
        return _file_source(path, files, heldout, read, settings)
    # a saved dataset counts as one file with rows
    one = len(files) == 1 or saved.is_dataset(root)
    if not one:
        train, heldout = split_files(files, root, heldout_fraction)
        sizes = [sum(file.stat().st_size for file in side) for side in (train, heldout)]
        if sizes[1] > sizes[0]:
            say(
                f"warning: most of data.path={path!r} is held out: {sizes[1]:,} of {sum(sizes):,} "
                f"bytes, {', '.join(str(file) for file in heldout[:3])}; give the text to hold out "
                "as data.heldout_path, or a data.pattern that leaves other files out"
            )
        return _file_source(path, train, heldout, read, settings)

    size, rows = sum(file.stat().st_size for file in files), kind_of(files[0]).rows
    read_all = functools.partial(_chained, read, files)
    every = round(1 / heldout_fraction)
    if rows:
        few = list(itertools.islice(read_all(), every))
        if len(few) < max(every, 2):
            raise UserError(
                f"data.path={path!r} has {len(few)} texts, too few to hold out one of {every}; "
                "give data.heldout_path, or a larger data.heldout_fraction"
            )
    elif size == 1:
        raise UserError(
            f"data.path={path!r} has 1 byte, but a part must be held out; give a longer text"
        )

    def middle(size: int) -> int:
        return size - min(max(round(size * heldout_fraction), 1), size - 1)

    def part(side: int) -> Iterator[bytes]:
        if rows:
            # the last of each `every` rows is held out
            yield from (x for i, x in enumerate(read_all()) if (i % every == every - 1) == side)
            return
        (data,) = read_all()
        at = cut_near(data, middle(len(data))) if len(data) > 1 else 0
        yield (data[:at], data[at:])[side]

    return Source(
        path,
        f"{path}: {size} bytes, held out from {middle(size)}",
        functools.partial(part, 0),
        functools.partial(part, 1),
        functools.cache(functools.partial(_contents, f"one: {settings}", files)),
    )


def split_files(
    files: list[Path], root: Path, heldout_fraction: float
) -> tuple[list[Path], list[Path]]:
    """Splits files into training files, in their order, and held-out files. Of two files or more,
    neither side is empty.

    A file is held out if the hash of its path below `root` falls into the lowest `heldout_fraction`
    of all hashes, so it stays on its side when others come and go. Held-out files come in the order
    of their hashes, so that the first few are a fair sample.
    """
    share = {}
    for file in files:
        digest = hashlib.sha256(os.fsencode(file.relative_to(root).as_posix())).digest()
        share[file] = int.from_bytes(digest[:8], "big") / 2**64
    count = sum(value < heldout_fraction for value in share.values())
    heldout = sorted(files, key=share.__getitem__)[: min(max(count, 1), len(files) - 1)]
    held = set(heldout)
    return [file for file in files if file not in held], heldout


def tfds_source(
    name: str, train: str, heldout: str, feature: str = "", data_dir: str = ""
) -> Source:
    """The source of a TFDS set that `tfds.data_source` can read.

    The set is downloaded and prepared when it is first read. Splits may be slices.
    """

    def opened(split: str) -> Any:
        with reading_tfds(f"data.tfds={name!r}, split {split!r},", name, "data.tfds_dir") as tfds:
            return tfds.data_source(name, split=split, data_dir=data_dir or None)

    def contents() -> str:
        """A prepared set does not change; a set of the same version may lie elsewhere."""
        found = [opened(split) for split in (train, heldout)]
        info = found[0].dataset_info
        return (
            f"{key}: {info.full_name}, {info.data_dir}, {info.dataset_size}, {[*map(len, found)]}"
        )

    def documents(split: str) -> Iterator[bytes]:
        examples = opened(split)
        key = _text_feature(name, examples.dataset_info.features, feature)
        for example in examples:
            text = example[key]
            if not isinstance(text, (bytes, str)):
                kind = type(text).__name__
                raise UserError(
                    f"feature {key!r} of {name} holds {kind}, not text; set data.feature to another"
                )
            yield text.encode() if isinstance(text, str) else text

    key = f"tfds {name}: {train}, {heldout}, {feature or 'its text'}"
    return Source(
        f"TFDS {name}",
        key,
        functools.partial(documents, train),
        functools.partial(documents, heldout),
        contents,
    )


def _text_feature(name: str, features: Any, wanted: str) -> str:
    import tensorflow_datasets as tfds

    if wanted and wanted not in features:
        raise UserError(
            f"data.feature={wanted!r} is not a feature of {name}; it has {', '.join(features)}"
        )
    texts = (
        [wanted]
        if wanted
        else [key for key in features if isinstance(features[key], tfds.features.Text)]
    )
    if len(texts) != 1:
        raise UserError(
            f"{name} has {len(texts)} text features; set data.feature to one of "
            f"{', '.join(features)}"
        )
    return texts[0]


def cut_near(data: bytes, at: int, reach: int = 1024) -> int:
    """Finds a place to cut `data` at `at` or a little before it: after a line break, else between
    UTF-8 characters.

    For 0 < at < len(data); the result lies in 1..at. Bytes that are not UTF-8 may be cut at `at`
    itself.
    """
    after_line = data.rfind(b"\n", max(0, at - reach), at) + 1
    if after_line:
        return after_line
    starts = (place for place in range(at, max(0, at - 4), -1) if data[place] & 0xC0 != 0x80)
    return next(starts, at)


def blocks(data: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    """Cuts `data` with `cut_near` into pieces of at most `size` bytes, which need little memory."""
    return read_blocks(io.BytesIO(data), size)


def read_blocks(opened: BinaryIO, size: int = 1 << 20) -> Iterator[bytes]:
    """Reads the rest of a file or pipe of any length in the pieces of `blocks`, and holds one at a
    time.
    """
    held = b""
    while more := opened.read(size + 1 - len(held)):
        held += more
        if len(held) > size:
            at = cut_near(held, size)
            yield held[:at]
            held = held[at:]
    if held:
        yield held


def _text_files(flag: str, path: str, pattern: str) -> list[Path]:
    root = Path(path).expanduser()
    if not pattern:
        raise UserError("data.pattern is empty; '*' stands for every file")
    if saved.is_dataset(root):
        return saved.arrow_files(root)
    if not root.is_dir():
        check_regular(root, "give a text file or a folder of them", f"{flag}={path!r}")
    files = _list_files(root, pattern) if root.is_dir() else [root]
    if not any(file.stat().st_size for file in files):
        raise UserError(
            f"{flag}={path!r} holds no text: no file that matches data.pattern={pattern!r} has a "
            "byte"
        )
    return files


def _list_files(root: Path, pattern: str, skip: frozenset[str] = frozenset()) -> list[Path]:
    """The files below `root`, each once even if several links lead to it, without those of runs."""
    files, walked, pattern = [], set(), pattern.removeprefix("**/")
    for folder, folders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        here = Path(folder)
        if here.resolve() in walked or _is_workdir(here):
            folders.clear()
            continue
        walked.add(here.resolve())
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in skip)
        files += [here / name for name in names if not name.startswith(".")]
    files = [file for file in files if file.relative_to(root).match(pattern)]
    files = sorted(file for file in files if file.is_file() and file.stat().st_size)
    if any(file.suffix == ".arrow" for file in files):
        files = [file for file in files if file.name not in saved.SIDECARS]
    # the first path of each
    return list({file.resolve(): file for file in reversed(files)}.values())[::-1]


def _is_workdir(folder: Path) -> bool:
    """Whether a run writes there, whose files are no text to train on."""
    return (folder / "config.json").exists() and (folder / "checkpoints").is_dir()


def _file_source(
    describe: str,
    train: list[Path],
    heldout: list[Path],
    read: Callable[[Path], Iterator[bytes]],
    settings: str,
) -> Source:
    """A source of whole files.

    Args:
        describe: the source's name.
        train: the files to train on.
        heldout: the held-out files.
        read: gives the documents of a file.
        settings: the settings that `read` depends on, for the key.
    """
    sides = (
        f"{len(files)} files of {sum(file.stat().st_size for file in files)} bytes"
        for files in (train, heldout)
    )
    return Source(
        describe,
        f"{describe}: {', held out '.join(sides)}",
        functools.partial(_chained, read, train),
        functools.partial(_chained, read, heldout),
        functools.cache(
            functools.partial(_contents, f"{len(train)} files: {settings}", train + heldout)
        ),
    )


def _chained(read: Callable[[Path], Iterator[bytes]], files: list[Path]) -> Iterator[bytes]:
    return itertools.chain.from_iterable(map(read, files))


def _contents(settings: str, files: list[Path]) -> str:
    """A digest of all bytes, the settings, and the files' names, which tell some kinds."""
    digest, progress, size = hashlib.sha256(f"{READING} {settings}".encode()), Progress(), 0
    for file in files:
        try:
            with file.open("rb") as opened:
                digest.update(file.name.encode("utf-8", "surrogateescape"))
                digest.update(hashlib.file_digest(opened, "sha256").digest())
                size += opened.tell()
        except OSError as error:
            _unreadable(error)
        if progress.due():
            say(f"looking for tokens of this text: {size / 1e6:.0f} MB compared")
    return digest.hexdigest()


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(
        f"{error.filename} cannot be read: {error.strerror}; change its mode or data.pattern"
    ) from error
