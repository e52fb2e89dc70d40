"""Records of TFDS sets that the suites read questions and dialogues from."""

from collections.abc import Callable, Iterable
from typing import Any

from rmat_jax.errors import UserError


def tfds_records(
    flag: str, value: str, choose: Callable[[int], Iterable[int]]
) -> list[tuple[str, Any]]:
    """Some records of the split that `tfds:NAME@SPLIT` names, else of "validation", "test" or
    "train", each with where it stands.

    Args:
        flag: what the user typed, for errors.
        value: `tfds:NAME` or `tfds:NAME@SPLIT`.
        choose: indices out of so many.

    Raises:
        UserError: it cannot be read.
    """
    name, _, split = value.removeprefix("tfds:").partition("@")
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"{flag} needs TFDS; run: pip install tensorflow-datasets") from None
    try:
        if not split:
            known = tfds.builder(name).info.splits
            split = next((split for split in ("validation", "test") if split in known), "train")
        source = tfds.data_source(name, split=split)
        chosen = choose(len(source))
        return [(f"{flag}, record {index} of split {split!r}", source[index]) for index in chosen]
    except Exception as error:
        # TFDS raises whatever its downloads, readers and builders raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".: ")
        fix = "check name, split and network, or set TFDS_DATA_DIR to a prepared copy"
        if isinstance(error, ImportError) and error.name:
            fix = f"run: pip install {error.name}"
        raise UserError(f"{flag} cannot be read: {reason}; {fix}") from error
