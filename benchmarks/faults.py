"""Attacks: damaged files, bad commands, full disks and kills. What becomes of each?

    python -m benchmarks.faults --out=runs/faults

Each attack is drawn from --seed. A case ends in one of these ways:

- right: as if there had been no fault.
- told: one line that says what is wrong, or that an older state is used. The exit code is 2 where
  a command ends.
- lost: steps that were saved are gone.
- wrong: other values, without a word.
- traceback: more than a line, or an error that is not meant for people.
- hang: no end within --patience seconds.

Right and told are good. Half an hour on two CPU cores; out/faults.md has the table, and
out/bad.jsonl each case that ended otherwise.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import reliability
from rmat_jax import commands, flags
from rmat_jax.ablate.runs import RESULT, Run
from rmat_jax.config import Config
from rmat_jax.data.corpus import build_corpus
from rmat_jax.data.sources import make_source
from rmat_jax.data.tokenizer_files import load_tokenizer
from rmat_jax.digests import digests
from rmat_jax.errors import UserError
from rmat_jax.files import write_checked
from rmat_jax.infer.snapshot import load_stream
from rmat_jax.interop.convert import export_weights, import_weights
from rmat_jax.interop.crosscheck import dump, load_case
from rmat_jax.interop.dump import read_dump
from rmat_jax.interop.weights import read_weights
from rmat_jax.progress import Progress, say
from rmat_jax.runs import load_engine
from rmat_jax.sealed import read_sealed, write_sealed
from rmat_jax.train import loop
from rmat_jax.train.checkpoint import restore_params
from rmat_jax.train.metrics import read_metrics

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "configs/quickstart.py")
ENDS = ("right", "told", "lost", "wrong", "traceback", "hang")
BAD = ENDS[2:]
COUNTS = {"files": 3200, "commands": 480, "disks": 60, "kills": 40}
SETTINGS = reliability.SMALL | {
    "steps": 6,
    "batch_size": 2,
    "accumulation": 1,
    "eval_batch_size": 2,
    "mesh.data": 1,
    "model.vocab_size": 300,
    "data.tokenizer": "bpe",
    "log.save_every": 2,
    "log.eval_every": 0,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """How an attack ended."""

    # the attack and its object
    group: str
    end: str
    detail: str


# --- what is attacked ---


class Made:
    """A small run and all that is made from it, in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.run = folder, folder / "run"
        self.text = folder / "text"
        self.config = load_config(self.text)

    def make(self) -> "Made":
        """Trains and writes; what is there already stays."""
        if not (self.folder / "done").exists():
            reliability.write_text(self.text)
            with contextlib.redirect_stdout(io.StringIO()):
                loop.run(self.config, self.run)
            export_weights(self.run, self.folder / "weights")
            session = load_engine(self.run, rows=1).open("1 says")
            session.catch_up()
            session.save(self.folder / "session")
            dump(load_case(steps=2), self.folder / "dump")
            result = {"error": "", "score": 2.5, "config": json.loads(self.run_config())}
            (self.folder / "ablated").mkdir()
            write_checked(self.folder / "ablated" / RESULT, json.dumps(result))
            (self.folder / "done").touch()
        return self

    def run_config(self) -> str:
        return (self.run / "config.json").read_text()

    @functools.cached_property
    def engine(self):
        return load_engine(self.run, rows=1)


def load_config(text: Path, *more: str) -> Config:
    given = [f"--config.{key}={value}" for key, value in (SETTINGS | {"data.path": text}).items()]
    return flags.load_config(QUICKSTART, [*given, *more])


# --- damaged files ---


def same(x: Any) -> Any:
    """A value that can be compared, bit for bit."""
    if isinstance(x, dict):
        return {key: same(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [same(value) for value in x]
    return (x.dtype.name, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x


class Files:
    """Reads files that were damaged, as the commands read them."""

    def __init__(self, made: Made, scratch: Path):
        self.made, self.scratch = made, scratch
        # where each lies, and how it is read
        self.kinds: dict[str, tuple[Path, Callable[[Path], Any]]] = {
            "checkpoint": (made.run / "checkpoints", self._checkpoint),
            "tokenizer": (made.run / "tokenizer", self._tokenizer),
            "corpus": (made.run / "corpus", self._corpus),
            "weights": (made.folder / "weights", self._weights),
            "session": (made.folder / "session", self._session),
            "dump": (made.folder / "dump", self._dump),
            "result of ablate": (made.folder / "ablated", self._result),
            "metrics": (made.run / "metrics.jsonl", read_lines),
        }
        self.sound = {name: same(read(source)) for name, (source, read) in self.kinds.items()}

    def _checkpoint(self, folder: Path) -> Any:
        found = restore_params(folder)
        return [found.step, digests(found.params), found.config]

    def _tokenizer(self, folder: Path) -> Any:
        trained_on = restore_params(self.made.run / "checkpoints").meta["data"]
        tokenizer = load_tokenizer(self.made.config, folder, trained_on)
        return [tokenizer.describe, tokenizer.encode(b"1 says 4.")]

    def _corpus(self, folder: Path) -> Any:
        source = make_source(self.made.config.data)
        tokenizer = load_tokenizer(self.made.config, self.made.run / "tokenizer")
        corpus = build_corpus(source.train, tokenizer, folder, "train", source.key)
        return [np.array(corpus.tokens), np.array(corpus.starts), corpus.num_bytes, corpus.digest]

    def _weights(self, file: Path) -> Any:
        config, tensors, metadata = read_weights(file)
        return [tensors, metadata, str(config)]

    def _session(self, file: Path) -> Any:
        engine = self.made.engine
        stream, tokens = load_stream(
            file, engine.model.config, engine.fingerprint, engine.tokenizer.describe
        )
        return [tokens, *map(np.asarray, jax.tree.leaves(stream))]

    def _dump(self, file: Path) -> Any:
        case, expected, spread, origin = read_dump(file)
        arrays = {"/".join(key): x for key, x in expected.items()}
        return [case.arrays(), case.weights, arrays, str(spread), origin, str(case.config)]

    def _result(self, folder: Path) -> Any:
        return Run("run", 0, self.made.config, folder).result()

    def damaged(self, rng: random.Random) -> Case:
        """Damages one file of a copy, and reads the copy."""
        kind = rng.choice(list(self.kinds))
        source, read = self.kinds[kind]
        copy = self.scratch / "copy"
        remove(copy)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        files = sorted(f for f in copy.rglob("*") if f.is_file()) if copy.is_dir() else [copy]
        file = rng.choice(files)
        how = rng.choice(list(DAMAGES))
        before = file.read_bytes()
        DAMAGES[how](file, rng)
        what = f"{how} of {file.relative_to(copy) if file != copy else kind}"
        if kind == "metrics":
            return self._records(copy, before, what)
        end, detail, found = outcome(lambda: same(read(copy)))
        if end == "right" and found != self.sound[kind]:
            # an older step is one that was right when it was saved
            older = kind == "checkpoint" and detail.startswith("warning: step") and found[0] < 6
            gone = kind == "result of ablate" and found is None and not file.exists()
            end = "told" if older else "right" if gone else "wrong"
        return Case(f"damaged {kind}", end, f"{what}: {detail}")

    def _records(self, copy: Path, before: bytes, what: str) -> Case:
        """Lines that are whole come back, whatever stands beside them."""
        after = copy.read_bytes() if copy.is_file() else b""
        whole = set(before.split(b"\n")) & set(after.split(b"\n")) - {b""}
        end, detail, found = outcome(lambda: read_lines(copy))
        if end == "right":
            lost = [line for line in map(json.loads, whole) if line not in found]
            end = "lost" if lost else end
        return Case("damaged metrics", end, f"{what}: {detail}")

    def resealed(self, rng: random.Random) -> Case:
        """A file of somebody who can seal: structure and types are other than ours."""
        kind = rng.choice(["session", "weights", "dump"])
        source, read = self.kinds[kind]
        tensors, metadata = read_sealed(source, "", lambda *_: None)
        form, what = metadata.pop("format"), rng.choice(list(FORGERIES))
        with np.errstate(all="ignore"):
            FORGERIES[what](tensors, metadata, rng)
        copy = self.scratch / "copy"
        remove(copy)
        write_sealed(copy, form, tensors, metadata)
        if kind == "weights" and rng.random() < 0.2:
            remove(self.scratch / "imported")
            end, detail, _ = outcome(lambda: import_weights(self.scratch / "imported", copy))
        else:
            end, detail, _ = outcome(lambda: read(copy))
        return Case(f"forged {kind}", end, f"{what}: {detail}")

    def __call__(self, rng: random.Random) -> Case:
        return self.resealed(rng) if rng.random() < 0.2 else self.damaged(rng)


def read_lines(file: Path) -> list[dict]:
    if file.name == "copy":
        remove(file.parent / "records")
        (file.parent / "records").mkdir()
        if file.exists():
            shutil.copy(file, file.parent / "records" / "metrics.jsonl")
        file = file.parent / "records" / "metrics.jsonl"
    return read_metrics(file.parent)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def _cut(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data) + 1)])


def _overwrite(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    at, size = rng.randrange(len(data) + 1), rng.randrange(1, 100)
    data[at : at + size] = rng.choice([bytes(size), rng.randbytes(size), b"[" * 5000])
    file.write_bytes(data)


def _swap(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    one, two = (rng.randrange(max(len(data), 1)) for _ in range(2))
    if data:
        data[one], data[two] = data[two], data[one]
    file.write_bytes(data)


def _add(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 99)))


DAMAGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "a flipped bit": _flip,
    "a cut": _cut,
    "other bytes": _overwrite,
    "two bytes swapped": _swap,
    "an empty file": lambda file, rng: file.write_bytes(b""),
    "more bytes": _add,
    "a missing file": lambda file, rng: file.unlink(),
}
JUNK = ["", "[", "{}", "[]", "null", "-1", "1e999", "[" * 20_000, "\0", "é", '{"model": []}']


def _drop(tensors, metadata, rng):
    del tensors[rng.choice(list(tensors))]


def _rename(tensors, metadata, rng):
    tensors[rng.choice(["", "x", "input/", "weight/x"])] = tensors.pop(rng.choice(list(tensors)))


def _retype(tensors, metadata, rng):
    name = rng.choice(list(tensors))
    dtype = rng.choice(["float64", "float32", "float16", "int64", "uint8", "bool"])
    tensors[name] = tensors[name].astype(dtype)


def _reshape(tensors, metadata, rng):
    name = rng.choice(list(tensors))
    change = rng.choice([lambda x: x[None], lambda x: x[:0], np.ravel, lambda x: x.T[None]])
    tensors[name] = change(np.atleast_1d(tensors[name]))


def _text(tensors, metadata, rng):
    metadata[rng.choice(list(metadata))] = rng.choice(JUNK)


def _leave_out(tensors, metadata, rng):
    del metadata[rng.choice(list(metadata))]


def _setting(tensors, metadata, rng):
    """A value in the JSON of the config, at any depth."""
    config = node = json.loads(metadata["config"])
    while True:
        key = rng.choice(list(node))
        if not isinstance(node[key], dict):
            break
        node = node[key]
    node[key] = rng.choice([None, -1, 0, 1e9, 10**9, 10**18, "x", [], {}, [1, 2], True, "many"])
    metadata["config"] = json.dumps(config)


FORGERIES = {
    "a tensor left out": _drop,
    "a tensor renamed": _rename,
    "another type": _retype,
    "another shape": _reshape,
    "a text": _text,
    "a text left out": _leave_out,
    "a setting": _setting,
}


def outcome(read: Callable[[], Any]) -> tuple[str, str, Any]:
    """(end, what was told, what was read)."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            found = read()
        except UserError as error:
            line = str(error)
            return ("traceback" if "\n" in line else "told"), line, None
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {error}", None
    return "right", told.getvalue().strip(), found


# --- bad commands ---

# one good command each; every flag in turn gets a bad value
GOOD = {
    "train": ["--config=CONFIG", "--workdir=NEW", "--until=1", "--config.steps=2"],
    "generate": ["--workdir=RUN", "--prompt=a", "--session=NEW", "--max_new_tokens=4"],
    "score": ["--workdir=RUN", "TEXT"],
    "evaluate": ["--workdir=RUN", "--suite=position", "--text=TEXT", "--out=NEW"],
    "inspect": ["--workdir=RUN", "--text=TEXT", "--out=NEW"],
    "ablate": ["--config=CONFIG", "--out=NEW", "--seeds=0", "--list"],
    "crosscheck": ["--workdir=RUN", "--dump=NEW", "--steps=1", "--dtype=float64"],
    "export": ["--workdir=RUN", "--file=NEW"],
    "import": ["--workdir=NEW", "--file=WEIGHTS"],
    "plan": ["--config=CONFIG"],
}
# of a flag's value; SCRATCH is a folder of the case's own
VALUES = [
    "",
    " ",
    "-1",
    "0x10",
    "nan",
    "1e999",
    "9" * 30,
    "é" * 200,
    "\udcff",
    "a\0b",
    "/dev/zero",
    "/dev/full",
    "/dev/null/x",
    "/proc/self/mem",
    "SCRATCH",
    "SCRATCH/nothing/there",
    "SCRATCH/loop",
    "SCRATCH/fifo",
    "SCRATCH/text.txt",
    "SCRATCH/deep.json",
    "SCRATCH/denied/x",
    "SCRATCH/a[1]b/x",
    "~nobody/x",
    "--",
    "[1, 2]",
]
KEYS = [
    "model.width",
    "model.num_layers",
    "model.num_heads",
    "model.chunk_len",
    "model.branches",
    "model.local.window",
    "model.memory.slots",
    "model.memory.writes",
    "model.memory.gate",
    "model.memory.gate_bias",
    "model.rope_base",
    "model.dtype",
    "data.path",
    "data.pattern",
    "data.heldout_fraction",
    "data.seed",
    "optim.learning_rate",
    "optim.bad_step",
    "mesh.data",
    "mesh.tensor",
    "log.keep",
    "batch_size",
    "chunks_per_step",
    "steps",
    "seed",
    "nothing.of.this",
]


class Commands:
    """Commands with one wrong argument."""

    def __init__(self, made: Made, scratch: Path):
        self.made, self.scratch = made, scratch

    def __call__(self, rng: random.Random) -> Case:
        here = self.scratch / "case"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        (here / "loop").symlink_to(here / "loop")
        os.mkfifo(here / "fifo")
        (here / "text.txt").write_text("No JSON, no weights.\n")
        (here / "deep.json").write_text("[" * 100_000)
        name = rng.choice(list(GOOD))
        arguments = [*GOOD[name]]
        # what these read may be a stream without end, or one that somebody writes later
        streams = name in ("score", "inspect", "generate")
        values = [x for x in VALUES if not (streams and x.endswith(("zero", "full", "fifo")))]
        value = rng.choice(values).replace("SCRATCH", str(here))
        if name in ("train", "ablate", "plan") and rng.random() < 0.6:
            arguments.append(f"--config.{rng.choice(KEYS)}={value}")
        else:
            at = rng.randrange(len(arguments))
            flag = arguments[at].partition("=")[0]
            arguments[at] = f"{flag}={value}" if "=" in arguments[at] else value
        change = rng.random()
        if change < 0.1:
            del arguments[rng.randrange(len(arguments))]
        elif change < 0.15:
            arguments.append(rng.choice(["--stpes=3", "extra", "--workdir", "--config.x=1", "-9"]))
        places = {
            "CONFIG": QUICKSTART,
            "RUN": str(self.made.run),
            "TEXT": str(self.made.text / "0.txt"),
            "WEIGHTS": str(self.made.folder / "weights"),
            "NEW": str(here / "new"),
        }
        for word, place in places.items():
            arguments = [argument.replace(word, place) for argument in arguments]
        if name in ("train", "ablate", "plan"):
            small = SETTINGS | {"data.path": self.made.text, "steps": 2}
            arguments[1:1] = [f"--config.{key}={x}" for key, x in small.items()]
        (self.scratch / "now").write_text(ascii([name, *arguments]), encoding="utf-8")
        code, told = self.call([name, *arguments])
        changed = " ".join([name, *arguments[-4:]])[-300:].replace(str(here), "")
        lines = [line for line in told.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        if code in (0, 1) and not errors and "Traceback" not in told:
            # the value was good after all, or the verdict of a check
            return Case("bad command", "right", changed)
        good = code == 2 and len(errors) == 1 and lines[-1] == errors[0]
        return Case(
            "bad command", "told" if good else "traceback", f"{changed}: {code} {told[-500:]}"
        )

    def call(self, argv: list[str]) -> tuple[int, str]:
        """The exit code and standard error of a command, in this process."""
        out, told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(told),
            # a value may be taken for a relative path
            contextlib.chdir(self.scratch / "case"),
        ):
            try:
                code = flags.run(lambda: commands.main(argv))
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException as error:
                return -1, f"Traceback {type(error).__name__}: {error}"
        return code, told.getvalue()


# --- full disks and kills ---


def train(workdir: Path, made: Made, *more: str) -> subprocess.Popen:
    """`train.py` in a process of its own; what it says goes to `workdir`.log."""
    given = SETTINGS | {"data.path": made.text, "steps": 8, "log.save_every": 1}
    command = [sys.executable, "train.py", f"--config={QUICKSTART}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in given.items()] + [*more]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": reliability.XLA_FLAGS}
    environment["XDG_CACHE_HOME"] = str(made.folder / "cache")
    with open(f"{workdir}.log", "wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)


def log_of(workdir: Path) -> str:
    return Path(f"{workdir}.log").read_text(encoding="utf-8", errors="replace")


def undisturbed(made: Made) -> dict[str, int]:
    """The digests at the end of the run that nobody disturbs."""
    workdir = made.folder / "whole"
    if not (workdir / "config.json").exists():
        assert train(workdir, made).wait() == 0
    return reliability.final_digests(workdir)


class Disks:
    """Runs on a disk with little room: a small mounted one, or a limit to the size of files."""

    def __init__(self, made: Made, scratch: Path):
        self.made, self.scratch, self.wanted = made, scratch, undisturbed(made)

    def __call__(self, rng: random.Random) -> Case:
        workdir, disk = self.scratch / "full", self.scratch / "disk"
        shutil.rmtree(workdir, ignore_errors=True)
        disk.mkdir(exist_ok=True)
        kilobytes = int(2 ** rng.uniform(2, 11.5))
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], capture_output=True
        ).returncode
        try:
            if mounted:
                code, told = self._run(disk / "run")
                with contextlib.suppress(FileNotFoundError):
                    shutil.copytree(disk / "run", workdir)
            else:
                code, told = self._run(workdir, kilobytes << 10)
        finally:
            if mounted:
                subprocess.run(["umount", disk], check=True)
        group = f"a full disk ({'mounted' if mounted else 'files limited'})"
        detail = f"{kilobytes} KiB: {code} {told[-500:]}"
        if code is None:
            return Case(group, "hang", detail)
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        if "Traceback" in told or code not in (0, 2) or len(errors) != (code == 2):
            return Case(group, "traceback", detail)
        # with room again the same command ends like the run that nobody disturbed
        saved = reliability.steps_done(workdir) if code == 0 else 0
        again = train(workdir, self.made)
        if again.wait() or reliability.final_digests(workdir) != self.wanted:
            return Case(group, "lost", f"{detail}, then {log_of(workdir)[-500:]}")
        return Case(group, "right" if code == 0 and saved else "told", detail)

    def _run(self, workdir: Path, limit: int | None = None) -> tuple[int | None, str]:
        log = self.scratch / "run"
        workdir.parent.mkdir(exist_ok=True)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            process = train(log, self.made, f"--workdir={workdir}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        return code, log_of(log)


class Kills:
    """Runs that are killed at a random instant of their training, and started again."""

    def __init__(self, made: Made, scratch: Path):
        self.made, self.scratch, self.wanted = made, scratch, undisturbed(made)

    def __call__(self, rng: random.Random) -> Case:
        workdir, number = self.scratch / "killed", rng.choice([signal.SIGKILL, signal.SIGTERM])
        shutil.rmtree(workdir, ignore_errors=True)
        process, begun = train(workdir, self.made), time.monotonic()
        while "compiling" not in log_of(workdir) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 3))
        process.send_signal(number)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return Case(number.name, "hang", f"after {time.monotonic() - begun:.1f} s")
        done = reliability.steps_done(workdir) if (workdir / "metrics.jsonl").exists() else 0
        saved = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
        again = train(workdir, self.made)
        detail = f"at step {done}, saved {saved}"
        if again.wait():
            return Case(number.name, "traceback", f"{detail}: {log_of(workdir)[-500:]}")
        end = "right" if reliability.final_digests(workdir) == self.wanted else "lost"
        return Case(number.name, end, detail)


ATTACKS = {"files": Files, "commands": Commands, "disks": Disks, "kills": Kills}
# of a case, seconds
PATIENCE = 60.0
FAST = ("files", "commands")


# --- the campaign ---


def worker(attack: str, folder: Path, index: int, seed: int, pipe: Any) -> None:
    """Does the cases whose numbers come through the pipe, until None comes."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    scratch = folder / f"scratch-{index}"
    scratch.mkdir(exist_ok=True)
    # what libraries below Python print is not the case's
    os.dup2(os.open(scratch / "printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    attacker = ATTACKS[attack](Made(folder), scratch)
    while (number := pipe.recv()) is not None:
        pipe.send(attacker(random.Random(f"{seed} {attack} {number}")))


def attack(name: str, folder: Path, count: int, seed: int, jobs: int) -> Iterator[Case]:
    """The cases of an attack; one that does not end is a hang, and its worker is replaced."""
    context = multiprocessing.get_context("spawn")

    def begin(index):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(name, folder, index, seed, there))
        process.start()
        there.close()
        return process, here

    todo = iter(range(count))
    workers = {index: begin(index) for index in range(jobs)}
    at_work: dict[int, tuple[int, float]] = {}

    def give(index):
        number = next(todo, None)
        workers[index][1].send(number)
        if number is None:
            workers[index][0].join()
            del workers[index]
        else:
            at_work[index] = number, time.monotonic()

    for index in range(jobs):
        give(index)
    while at_work:
        for index, (number, since) in list(at_work.items()):
            process, pipe = workers[index]
            case = None
            try:
                if pipe.poll(0.02):
                    case = pipe.recv()
            except (EOFError, ConnectionError):
                case = Case(name, "traceback", f"case {number} ended its process")
            if case is None and time.monotonic() - since > PATIENCE * (1 if name in FAST else 5):
                now = folder / f"scratch-{index}" / "now"
                doing = now.read_text(encoding="utf-8") if now.exists() else ""
                case = Case(name, "hang", f"case {number} {doing[-700:]}")
            if case is None:
                continue
            del at_work[index]
            if case.end == "hang" or not process.is_alive():
                process.kill()
                workers[index] = begin(index)
            yield case
            give(index)


def table(cases: list[Case]) -> str:
    counts: dict[str, collections.Counter] = {}
    for case in cases:
        counts.setdefault(case.group, collections.Counter())[case.end] += 1
    rows = [("attack", "tried", *ENDS), ("---",) * (len(ENDS) + 2)]
    rows += [
        (group, str(found.total()), *(str(found[end]) for end in ENDS))
        for group, found in sorted(counts.items())
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default %(default)s)")
    for name, count in COUNTS.items():
        parser.add_argument(
            f"--{name}", type=int, default=count, help="cases (default %(default)s)"
        )
    args = parser.parse_args()
    out = Path(args.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    made = Made(out).make()
    if args.disks or args.kills:
        # once, before several workers ask for it
        undisturbed(made)
    cases, begun = [], Progress()
    with open(out / "bad.jsonl", "w", encoding="utf-8") as bad:
        for name in [name for name in ATTACKS if getattr(args, name)]:
            for case in attack(name, out, getattr(args, name), args.seed, args.jobs):
                cases.append(case)
                if case.end in BAD:
                    bad.write(json.dumps(dataclasses.asdict(case)) + "\n")
                    bad.flush()
                if begun.due():
                    say(f"{name}: {len(cases):,} cases in all, {begun.seconds:,.0f} s")
            say(f"{name}: done after {begun.seconds:,.0f} s")
    text = table(cases)
    (out / "faults.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(any(case.end in BAD for case in cases))


if __name__ == "__main__":
    sys.exit(flags.run(main))
