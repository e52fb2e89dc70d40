"""The place of a run's files: a folder, or a bucket such as gs://NAME/run.

Orbax and TensorStore read and write buckets, so checkpoints lie there. Locks, files that grow, and
random access to the corpus need a file system. So a run in a bucket has a folder on each machine
too. Process 0 copies its small files to the bucket after each save. When the run resumes, perhaps
on another machine, they are copied back. Each machine makes the corpus anew.
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
# the files that are copied to the bucket and back, beside the tokenizer's files
SMALL = ("config.json", "metrics.jsonl", "samples.txt", ID_FILE)


class Place:
    """The place of a run's files. Its string is what the user typed."""

    def __init__(self, folder: Path, address: str | None = None):
        """Makes a place, without access to it.

        Args:
            folder: the folder on this machine.
            address: the address of the bucket; None: everything lies in the folder.
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
        """Calls `make`, which leaves files in the folder: process 0 first, or all with a bucket.

        Raises:
            UserError: the processes have made different data, by the `identity` of the results.
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
            # libraries for buckets raise errors of many types for rights and networks
            raise UserError(
                f"--workdir={self} cannot be read: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}; check the address and your rights to it"
            ) from error

    def send(self) -> None:
        """Copies the folder's small files to the bucket. A failure costs one warning."""
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
    """Returns the place of a workdir, given as the user typed it.

    A run in a bucket has a folder in ~/.cache/rmat_jax/runs, or below XDG_CACHE_HOME.
    """
    if "://" not in str(workdir):
        return Place(Path(workdir).absolute())
    address = str(workdir).rstrip("/")
    # without a home there is no cache folder, and `Path.home` raises an error that says so
    cache = cache_folder("runs") or Path.home()
    name = f"{address.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    # each process of a machine has a separate folder
    return Place(cache / f"{name}-{jax.process_index()}", address)
