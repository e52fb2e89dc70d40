"""Reads folders that `save_to_disk` of Hugging Face `datasets` has written.

A `Dataset` is a folder of Arrow files, which its state.json lists; caches may leave others beside
them. A `DatasetDict` is a folder of such folders, one a split, which its dataset_dict.json lists.
Both are read without that package.
"""

import json
from pathlib import Path

from rmat_jax.errors import UserError
from rmat_jax.files import FAULTS

STATE, SPLITS = "state.json", "dataset_dict.json"
# files beside the Arrow files that hold no text
SIDECARS = {"dataset_info.json", STATE, SPLITS}
# names of splits; the first one that is there counts
TRAIN, HELDOUT = ("train",), ("validation", "valid", "dev", "test")


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a `Dataset`. Its Arrow files may be missing."""
    return (folder / STATE).is_file() and (folder / "dataset_info.json").is_file()


def arrow_files(folder: Path) -> list[Path]:
    """The files of a `Dataset`, in their order.

    Raises:
        UserError: it lists no file, or one that is not there.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, *FAULTS) as error:
        raise UserError(
            f"{folder / STATE} cannot be read as a list of Arrow files ({type(error).__name__}); "
            "save the dataset again"
        ) from error
    if not files:
        raise UserError(f"{folder} holds no Arrow file; save the dataset again")
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{folder / STATE} lists {file.name}, which is not there; bring it back"
            )
    return files


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of a `DatasetDict`, by the names of their splits; {} for any other folder.

    Raises:
        UserError: the list of splits cannot be read.
    """
    if not (folder / SPLITS).is_file():
        return {}
    try:
        return {
            name: folder / name for name in json.loads((folder / SPLITS).read_bytes())["splits"]
        }
    except (OSError, *FAULTS) as error:
        raise UserError(
            f"{folder / SPLITS} cannot be read as a list of splits ({type(error).__name__}); save "
            "the dataset again"
        ) from error


def choose_split(flag: str, folder: Path, names: tuple[str, ...]) -> Path:
    """The folder of the first of these splits, or of the only split; any other folder as it is.

    Raises:
        UserError: a `DatasetDict` has several splits, but none of these.
    """
    splits = split_folders(folder)
    found = [name for name in names if name in splits] or [*splits]
    if not splits:
        return folder
    if len(found) > 1 and found[0] not in names:
        raise UserError(
            f"{flag}={folder} has the splits {', '.join(splits)}; give the folder of one, such as "
            f"{splits[found[0]]}"
        )
    return splits[found[0]]
