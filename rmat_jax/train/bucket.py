"""Where a run keeps its files: a folder, or a bucket such as gs://NAME/run.

Orbax and TensorStore read and write buckets, so checkpoints lie there. Locks, files that grow, and
a corpus that is read here and there take a file system. So a run in a bucket has a folder on each
machine too. Process 0 sends its small files to the bucket after each save, and fetches them where
the run goes on, perhaps on another machine. Each machine makes the corpus anew.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
from etils import epath

from rmat_jax.errors import UserError, install
from rmat_jax.files import cache_folder
from rmat_jax.progress import BestEffort
from rmat_jax.train import processes
from rmat_jax.train.trackers import ID_FILE

Result = TypeVar("Result")
# what goes to the bucket and comes from there, beside the tokenizer's files
SMALL = ("config.json", "metrics.jsonl", "samples.txt", ID_FILE)


class Place:
    """Where a run keeps its files. Printed, it is what the user typed."""

    def __init__(self, folder: Path, address: str | None = None):
        """Remembers a place; nothing is looked at.

        Args:
            folder: on this machine.
            address: of the bucket; None: everything lies in the folder.
        """
        self.folder, self.address = folder, address
        self._quietly = BestEffort("training")

    def __str__(self) -> str:
        return self.address or f"{self.folder}"

    @property
    def checkpoints(self) -> epath.Path | Path:
        """The folder of the checkpoints."""
        return self._bucket / "checkpoints" if self.address else self.folder / "checkpoints"

    def made(self, make: Callable[[], Result]) -> Result:
        """What `make` leaves in the folder: process 0 first, or each on its own machine.

        Raises:
            UserError: the processes have made different data (its `identity`).
        """
        if not self.address:
            return processes.main_first(make)
        result = processes.together(make)
        identities = processes.tell(getattr(result, "identity", ""))
        if len(set(identities)) > 1:
            raise UserError(
                f"the machines have read different data: {'; '.join(sorted(set(identities)))}; "
                "give all of them the same text"
            )
        return result

    def fetch(self) -> None:
        """Makes the folder, and copies the bucket's small files into it.

        Raises:
            UserError: the bucket cannot be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in [*SMALL, *self._names(self._bucket)]:
                file = self._bucket / name
                if file.exists():
                    (self.folder / name).parent.mkdir(exist_ok=True)
                    (self.folder / name).write_bytes(file.read_bytes())
        except ImportError as error:
            raise UserError(
                f"--workdir={self} takes a package ({error}); run: {install('gcsfs')}"
            ) from error
        except Exception as error:
            # whatever the library of the bucket makes of rights and networks
            raise UserError(
                f"--workdir={self} cannot be read: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}; check the address and your rights to it"
            ) from error

    def send(self) -> None:
        """Copies the folder's small files to the bucket. What fails costs one warning."""
        if not self.address:
            return
        for name in [*SMALL, *self._names(epath.Path(self.folder))]:
            if (self.folder / name).exists():
                with self._quietly(f"{self._bucket / name}"):
                    (self._bucket / name).parent.mkdir(parents=True, exist_ok=True)
                    (self._bucket / name).write_bytes((self.folder / name).read_bytes())

    @property
    def _bucket(self) -> epath.Path:
        return epath.Path(self.address)

    @staticmethod
    def _names(folder: epath.Path) -> Iterator[str]:
        tokenizer = folder / "tokenizer"
        if tokenizer.exists():
            yield from (f"tokenizer/{file.name}" for file in tokenizer.iterdir())


def find(workdir: str | Path) -> Place:
    """The place of a workdir as it was typed.

    A run in a bucket has a folder in ~/.cache/rmat_jax/runs, or below XDG_CACHE_HOME.
    """
    if "://" not in str(workdir):
        return Place(Path(workdir).absolute())
    address = str(workdir).rstrip("/")
    # without a home there is no such folder, and this says so
    cache = cache_folder("runs") or Path.home()
    name = f"{address.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    # processes of one machine do not share it
    return Place(cache / f"{name}-{jax.process_index()}", address)
