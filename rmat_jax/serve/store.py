"""Keeps sessions: the newest in memory, and all of them in a folder, if one is given.

A kept session never changes, since requests go on from a fork of it. It is kept with a record, the
response that the client got.
"""

import asyncio
import contextlib
import json
import re
import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, NamedTuple

from rmat_jax.errors import UserError
from rmat_jax.files import locked, make_folder, write_whole
from rmat_jax.infer.engine import Engine
from rmat_jax.infer.session import Session
from rmat_jax.serve.limits import Limits
from rmat_jax.serve.refusals import Refusal

# also the names that files may have
_ID = re.compile(r"resp_[0-9a-f]{32}")


class Kept(NamedTuple):
    """A session that does not change, and its record."""

    session: Session
    record: dict[str, Any]


def new_id() -> str:
    """Makes a name that nobody can guess."""
    return f"resp_{secrets.token_hex(16)}"


class Store:
    """Keeps sessions by their names. The least recently used are dropped first.

    A session is in the folder before a client gets its name.
    """

    def __init__(self, engine: Engine, folder: Path | None, limits: Limits):
        """Finds the sessions that are in the folder already.

        Raises:
            UserError: the folder cannot be made or written to, or another server has it.
        """
        self._engine, self._folder, self._limits = engine, folder, limits
        self._lock: IO[bytes] | None = None
        # in the order of use, the most recent last
        self._memory: OrderedDict[str, Kept] = OrderedDict()
        self._files: OrderedDict[str, None] = OrderedDict()
        if folder is not None:
            make_folder(folder, "--sessions_dir")
            self._lock = _take(folder)
            records = [p for p in folder.glob("resp_*.json") if _ID.fullmatch(p.stem)]
            for path in sorted(records, key=lambda path: path.stat().st_mtime):
                self._files[path.stem] = None
        with tempfile.TemporaryDirectory() as scratch:
            self._engine.open().save(Path(scratch) / "state")
            # The numbers in the header may get more digits.
            self.file_bytes = (Path(scratch) / "state").stat().st_size + 1024

    def close(self) -> None:
        """Frees the folder for another server."""
        if self._lock is not None:
            self._lock.close()

    @property
    def in_memory(self) -> int:
        """Counts the sessions in memory."""
        return len(self._memory)

    @property
    def in_folder(self) -> int:
        """Counts the sessions in the folder."""
        return len(self._files)

    async def keep(self, name: str, kept: Kept) -> None:
        """Keeps a session that will not change any more.

        Raises:
            Refusal: 507, the session cannot be written to the folder.
        """
        # The write goes on to its end, even if the request is cancelled meanwhile.
        await asyncio.shield(asyncio.create_task(self._keep(name, kept)))

    async def _keep(self, name: str, kept: Kept) -> None:
        if self._folder is not None:
            try:
                await asyncio.to_thread(self._write, name, kept)
            except UserError as error:
                await asyncio.to_thread(self._remove, name)
                raise Refusal(507, f"the session cannot be kept: {error}") from error
            self._files[name] = None
        self._remember(name, kept)
        while len(self._files) > self._limits.stored:
            await self._forget(next(iter(self._files)))

    async def find(self, name: str) -> Kept:
        """Finds a session.

        Raises:
            Refusal: 404, there is no such session; 409, its file is damaged, or of another model.
        """
        if name in self._memory:
            self._remember(name, self._memory[name])
        elif name in self._files:
            try:
                kept = await asyncio.to_thread(self._read, name)
            except (UserError, OSError, ValueError) as error:
                if not self._path(name, "safetensors").exists():
                    self._files.pop(name, None)
                    raise _unknown(name) from error
                raise Refusal(409, f"{name} cannot be continued: {error}") from error
            # The session may have been deleted in the meantime.
            if name not in self._files:
                raise _unknown(name)
            self._remember(name, kept)
        else:
            raise _unknown(name)
        if name in self._files:
            self._files.move_to_end(name)
        return self._memory[name]

    async def delete(self, name: str) -> None:
        """Deletes a session. Raises Refusal, 404, if there is none."""
        if name not in self._memory and name not in self._files:
            raise _unknown(name)
        await self._forget(name)

    def load(self, file: Path) -> Session:
        """Makes a session of a file that anybody may have sent. Raises UserError."""
        return self._engine.load(file)

    def _remember(self, name: str, kept: Kept) -> None:
        self._memory[name] = kept
        self._memory.move_to_end(name)
        while len(self._memory) > self._limits.sessions:
            self._memory.popitem(last=False)

    async def _forget(self, name: str) -> None:
        self._memory.pop(name, None)
        self._files.pop(name, None)
        if self._folder is not None:
            await asyncio.to_thread(self._remove, name)

    def _path(self, name: str, ending: str) -> Path:
        return self._folder / f"{name}.{ending}"

    def _write(self, name: str, kept: Kept) -> None:
        kept.session.save(self._path(name, "safetensors"))
        # The record is written last, since it says that the session is there.
        write_whole(self._path(name, "json"), json.dumps(kept.record))

    def _read(self, name: str) -> Kept:
        record = json.loads(self._path(name, "json").read_text(encoding="utf-8"))
        return Kept(self._engine.load(self._path(name, "safetensors")), record)

    def _remove(self, name: str) -> None:
        # The record is deleted first, since a session without a record does not count.
        for ending in ("json", "safetensors"):
            with contextlib.suppress(OSError):
                self._path(name, ending).unlink()


def _take(folder: Path) -> IO[bytes]:
    lock = (folder / "server.lock").open("ab")
    if not locked(lock):
        lock.close()
        raise UserError(f"--sessions_dir={folder} is in use by another server; give each its own")
    return lock


def _unknown(name: str) -> Refusal:
    message = (
        f"there is no session {name[:60]!r}: it never existed, was deleted, or was unused too long"
    )
    return Refusal(404, message, code="not_found")
