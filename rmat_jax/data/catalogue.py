"""Reads sets of the TensorFlow catalogue (TFDS), which is imported only when it is needed."""

import contextlib
import difflib
from collections.abc import Iterator
from types import ModuleType

from rmat_jax.errors import UserError, install

# prepares a set in the format that is read without TensorFlow
PREPARE = (
    'pip install tensorflow tensorflow-datasets && python -c "import tensorflow_datasets as tfds; '
    "tfds.builder('{name}', data_dir='DIR', file_format='array_record').download_and_prepare()\""
)


@contextlib.contextmanager
def reading_tfds(what: str, name: str, place: str) -> Iterator[ModuleType]:
    """Gives TFDS to the block, and turns whatever TFDS raises there into one clear line.

    Args:
        what: the set as the user typed it, for errors.
        name: the set's own name.
        place: the setting that points at prepared sets, for errors.

    Raises:
        UserError: TFDS is not installed, knows no such set, or cannot read it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"{what} needs TFDS; run: {install('tensorflow_datasets')}") from None
    try:
        yield tfds
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        # community sets would ask the network, through TensorFlow
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.split("/")[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see tensorflow.org/datasets/catalog"
        raise UserError(f"{what} is neither in TFDS nor in {place}; {hint}") from error
    except Exception as error:
        # TFDS raises whatever its downloads, readers and builders raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".: ")
        advice = f"check name, split and network, or point {place} at a prepared copy"
        if isinstance(error, ImportError) and error.name == "tensorflow":
            prepare = PREPARE.format(name=name.split("/")[0])
            raise UserError(
                f"{what} is prepared by TensorFlow, once, which is not installed; in an "
                f"environment that has it, run: {prepare}; then set {place}=DIR, or use the set's "
                "plain files"
            ) from error
        if isinstance(error, ImportError) and error.name:
            advice = f"run: pip install {error.name}"
        raise UserError(f"{what} cannot be read: {reason}; {advice}") from error
