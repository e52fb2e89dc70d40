"""Checkpoints: a pytree of arrays, its metadata (step, config, small values), and a digest of every
leaf.

Orbax writes in the background and commits a step as a whole. It does not detect flipped bits and
does not fall back to an older step; this file adds both. On disk a step is two Orbax items. `state`
is a flat dict from leaf name to array. `meta` is JSON: {format, crc32, body: {step, config, meta,
leaves: {name: {dtype, shape, digest}}}}. A leaf's name is its path, such as `params/embed/table`.
"""

import contextlib
import json
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from rmat_jax.config import ABSENT, differences, to_saved, tokenizer_kind
from rmat_jax.digests import digests, named
from rmat_jax.errors import UserError
from rmat_jax.train import averages, processes
from rmat_jax.train.best import best_of
from rmat_jax.train.failures import cause, cure, denied, quieten
from rmat_jax.train.metrics import read_metrics
from rmat_jax.types import Array, PyTree

# the keys of a config that may change when a run resumes, since the training stays the same
MAY_CHANGE = ("log", "mesh", "eval_batch_size", "optim.bad_step", "optim.bad_step_sigmas", "steps")
# keys that may change too, since the digest of the text is compared wherever the text lies
PLACES = ("data.path", "data.mixture", "data.heldout_path", "data.tfds_dir")
# the parts of a path under which Orbax does not find its files again: brackets, a backslash, bytes
# that are not UTF-8
_UNREADABLE = re.compile(r"\[[^/]+\]|\\|[\ud800-\udfff]+")
# the bytes of a step that are read back at a time
PART_BYTES = 1 << 28
# the version of the files on disk; raise it when older code would misread newer files
FORMAT = 1


class Checkpoints:
    """The checkpoints of one folder, for the run that writes there. A context manager, which waits
    for the last save on leaving.

    The newest checkpoints stay on disk. Three others stay too: the one with the lowest `loss` in
    its `meta`, so that a run that diverges keeps its last good step; the newest one that is
    `planned` in its `meta`, to which a run may go back; and the one in `best`.

    Only one run at a time may use a folder, and all its processes must make the same calls. Steps
    that a killed run left half-written are removed. Committed steps stay until the first `save`.
    """

    def __init__(self, folder: Any, keep: int = 2):
        """Opens `folder`, or makes it. The newest `keep` steps stay on disk. Raises UserError."""
        if keep < 1:
            raise UserError(f"keep={keep} must be at least 1")
        quieten()
        self.folder = _path(folder)
        # the step last saved or restored here
        self.held: int | None = None
        # the step with the lowest held-out loss; set after its save, which precedes the evaluation
        self.best: int | None = None
        self._damaged: set[int] = set()
        self._meta: dict[int, Mapping[str, Any]] = {}
        self._proved = False
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Staying(keep, self._meta_of, lambda: self.best),
            cleanup_tmp_directories=True,
        )
        try:
            # Orbax itself would notice only when it writes that the folder is a file
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise UserError(
                f"{folder} cannot hold checkpoints: {cause(error)}; choose another --workdir"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def save(
        self, step: int, state: PyTree, config: Any, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Starts to write `state` and returns. The caller may donate the state at once.

        Waits for the save before, and until `state` is computed. A step that was just saved or
        restored here is not written again.

        Args:
            step: the number of steps done, which is also the position in the data; must grow.
            state: jax arrays of the kinds that `digests` takes, in any containers; None stays None.
            config: a dataclass of `rmat_jax.config`.
            meta: small JSON values, which `restore` returns.

        Raises:
            UserError: the save before failed; this one cannot start; or the folder has `step` or a
                later one.
        """
        self.wait()
        if step == self.held:
            return
        newest = max(set(_steps(self.folder)) - self._damaged, default=-1)
        if step <= newest:
            raise UserError(
                f"{self.folder} has step {newest}, so step {step} is not new; choose another "
                "--workdir"
            )
        leaves_by_name = named(state)
        leaves = {
            name: {
                "dtype": str(leaves_by_name[name].dtype),
                "shape": list(leaves_by_name[name].shape),
                "digest": digest,
            }
            for name, digest in digests(leaves_by_name).items()
        }
        sealed = _seal(
            {"step": step, "config": to_saved(config), "meta": dict(meta or {}), "leaves": leaves}
        )
        # Orbax refuses arrays of size 0. On CPU it still reads these buffers after it has returned.
        # This is safe, since JAX does not reuse a donated buffer while NumPy views it (tested). On
        # other devices Orbax has copied them by then.
        written = {name: leaf for name, leaf in leaves_by_name.items() if leaf.size}
        try:
            # damaged steps would count among the newest
            for damaged in sorted(self._damaged):
                self._manager.delete(damaged)
                self._damaged.remove(damaged)
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(written), meta=ocp.args.JsonSave(sealed)
            )
            # without force Orbax may skip a step silently
            self._meta[step] = sealed["body"]["meta"]
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._lost(step, error) from error
        self.held = step
        if not self._proved:
            self._prove(step, leaves_by_name, leaves)

    def _prove(self, step: int, leaves: Mapping[str, Array], saved: Mapping[str, Any]) -> None:
        """Reads the first step back, in parts, since some places can be written but not read."""
        self.wait()
        try:
            for part in _parts(leaves):
                one = {
                    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
                    for name, leaf in part.items()
                }
                _verify(_read_leaves(self.folder, step, {n: saved[n] for n in one}, one), saved)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.folder}: step {step} was saved and cannot be read again: {cause(error)}; "
                "choose another --workdir"
            ) from error
        self._proved = True

    def _meta_of(self, step: int) -> Mapping[str, Any]:
        if step not in self._meta:
            try:
                self._meta[step] = _read_body(self.folder, step)["meta"]
            except (UserError, OSError, ValueError, KeyError, TypeError):
                # `restore` reports the damage
                self._meta[step] = {}
        return self._meta[step]

    def wait(self) -> None:
        """Waits until the last save is committed, so that new processes see it.

        Raises:
            UserError: the save failed, for example on a full disk. Raised once; the older steps are
                intact.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            step, self.held = self.held, None
            raise self._lost(step, error) from error

    def close(self) -> None:
        """Waits for the last save, then closes the folder. Raises like `wait`."""
        try:
            self.wait()
        finally:
            # close raises the error of a failed save again
            with contextlib.suppress(Exception):
                self._manager.close()

    def restore(
        self, abstract_state: PyTree, below: int | None = None
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Restores the newest step that verifies, as (step, state, meta), bit for bit. Returns None
        if there is no step.

        If a step cannot be read, or its digests differ, a warning line on stderr says so, and the
        next older step is tried. The next `save` removes the damaged one.

        Args:
            abstract_state: ShapeDtypeStructs or arrays, in the containers of the result. Each leaf
                is placed by its `sharding`, on any mesh; without one, on this process's first
                device.
            below: only planned steps below this one are tried; None: all steps.

        Raises:
            UserError: no step verifies; one has a newer format; its leaves differ from these in
                name, dtype or shape.
        """
        wanted = named(abstract_state)

        def read(step):
            body = _read_body(self.folder, step)
            return step, _read_leaves(self.folder, step, body["leaves"], wanted), body

        self.wait()
        steps = _steps(self.folder)
        if below is not None:
            steps = [s for s in steps if s < below and self._meta_of(s).get("planned")]
        found = _newest(
            self.folder,
            steps,
            read,
            self._damaged,
            lambda found: _verify(found[1], found[2]["leaves"]),
        )
        self.held = found and found[0]
        if found is None:
            return None
        step, leaves, body = found
        return (
            step,
            jax.tree.unflatten(jax.tree.structure(abstract_state), leaves.values()),
            body["meta"],
        )

    def saved_config(self) -> dict[str, Any] | None:
        """Returns the config of the newest step whose JSON is intact; None if there is no step.
        Raises like `restore`.
        """
        self.wait()
        body = _newest(
            self.folder,
            _steps(self.folder),
            lambda step: _read_body(self.folder, step),
            self._damaged,
        )
        return body and body["config"]

    def _lost(self, step: int | None, error: BaseException) -> UserError:
        return UserError(f"{self.folder}: step {step} is not saved: {cause(error)}; {cure(error)}")


class _Staying(ocp.checkpoint_managers.PreservationPolicy):
    """The policy that tells Orbax which steps stay on disk."""

    def __init__(
        self,
        keep: int,
        meta_of: Callable[[int], Mapping[str, Any]],
        best: Callable[[], int | None],
    ):
        self._keep, self._meta_of, self._best = keep, meta_of, best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        losses = {step: self._meta_of(step).get("loss") for step in steps}
        losses = {step: loss for step, loss in losses.items() if loss is not None}
        lowest = {min(losses, key=losses.get)} if losses else set()
        planned = [step for step in steps if self._meta_of(step).get("planned")]
        stay = {*steps[-self._keep :], *lowest, *planned[-1:], self._best()}
        return [checkpoint.step in stay for checkpoint in checkpoints]


class Restored(NamedTuple):
    """The parts of a checkpoint that inference needs."""

    # the parameters, as nested dicts
    params: PyTree
    config: dict[str, Any]
    step: int
    # the `meta` given to `Checkpoints.save`
    meta: dict[str, Any]


def restore_params(folder: Any, step: int | str | None = None) -> Restored:
    """Reads and verifies parameters for inference, onto this process's first device.

    Where the run has an average of the weights, the average is read. Nothing else is.

    Args:
        folder: the checkpoints of a workdir.
        step: None for the newest step that verifies, with a warning line for each that does not;
            "best" for the step with the lowest held-out loss in the records of the workdir.

    Raises:
        UserError: there is no such folder or step, it is damaged, or "best" was not kept.
    """
    quieten()
    folder = _path(folder)
    there = sorted(_steps(folder))
    if there and step == "best":
        step = _best(folder, there)
    if not there or (step is not None and step not in there):
        lacks = f"no step {step}, only {', '.join(map(str, there))}" if there else "no checkpoint"
        raise UserError(
            f"{folder} has {lacks}; train first, or give the --workdir of a run that has one"
        )

    def read(step):
        body = _read_body(folder, step)
        saved = {name: body["leaves"][name] for name in averages.needed(body["leaves"])}
        wanted = {
            n: jax.ShapeDtypeStruct(leaf["shape"], jnp.dtype(leaf["dtype"]))
            for n, leaf in saved.items()
        }
        return _read_leaves(folder, step, saved, wanted), body, step

    steps = there if step is None else [step]
    leaves, body, step = _newest(
        folder, steps, read, set(), lambda found: _verify(found[0], found[1]["leaves"])
    )
    params: dict[str, Any] = {}
    for name, leaf in averages.of_saved(leaves).items():
        *path, last = name.split("/")
        node = params
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return Restored(params, body["config"], step, body["meta"])


def _best(folder: epath.Path, there: Sequence[int]) -> int:
    """Returns the step with the lowest held-out loss. Raises UserError where it was not kept."""
    best, steps = best_of(read_metrics(folder.parent)).step, ", ".join(map(str, there))
    if best in there:
        return best
    lacks = "no step was evaluated" if best is None else f"step {best} was the best, and is gone"
    raise UserError(
        f"--step=best: {folder.parent / 'metrics.jsonl'} says that {lacks}; "
        f"give one of --step={steps}, or train with log.eval_every and log.keep_best=True"
    )


def check_same_config(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raises a UserError that names each key in which two configs differ, except keys that a
    resumed run may change.
    """
    found = differences(saved, current, ignore=MAY_CHANGE + PLACES)
    # the tokenizer may move from one path to another
    found = [
        (key, was, now)
        for key, was, now in found
        if key != "data.tokenizer" or {tokenizer_kind(was), tokenizer_kind(now)} != {"file"}
    ]
    if found:
        shown = "; ".join(f"{key} was {was!r}, is {now!r}" for key, was, now in found)
        flags = " ".join(
            shlex.quote(f"--config.{key}={was}")
            for key, was, now in found
            if ABSENT not in (was, now)
        )
        back = f", or set back {flags}" if flags else ""
        raise UserError(
            f"this workdir was trained with another config: {shown}; choose another --workdir{back}"
        )


def _path(folder: Any) -> epath.Path:
    path = epath.Path(folder)
    if "://" in str(folder):
        return path
    # Orbax refuses relative paths
    path = path.expanduser().absolute()
    bad = _UNREADABLE.search(str(path))
    if bad:
        raise UserError(
            f"{path} cannot hold checkpoints that can be read again, with {bad[0]!r} in its path; "
            "rename that folder"
        )
    return path


def _steps(folder: epath.Path) -> list[int]:
    """Returns the committed steps, in any order; none if the folder does not exist."""
    return [found.step for found in ocp.path.step.standard_name_format().find_all(folder)]


def _newest(
    folder: epath.Path,
    steps: Iterable[int],
    read: Callable[[int], Any],
    damaged: set[int],
    verify: Callable[[Any], None] = lambda found: None,
) -> Any:
    """Reads the newest of `steps` for which neither `read` nor `verify` fails. Steps for which one
    of them fails are added to `damaged`.

    All processes try the same steps, and a step that fails in one of them is damaged for all.
    `read` may fail in one process alone. `verify` is computed by all together and fails in all.
    """

    def attempt(step):
        try:
            return read(step), ""
        except UserError:
            raise
        except Exception as error:
            # damaged files lead to errors of many types in Orbax, TensorStore and the file system
            if denied(error):
                raise UserError(
                    f"step {step} of {folder} cannot be read: {cause(error)}; make it readable, "
                    "or move it away to go on from an older one"
                ) from error
            return None, cause(error)

    steps = json.loads(processes.tell(json.dumps(sorted(steps, reverse=True)))[0])
    for step in steps:
        if step in damaged:
            continue
        found, wrong = processes.together(lambda step=step: attempt(step))
        wrong = next(filter(None, processes.tell(wrong)), "")
        if not wrong:
            try:
                verify(found)
                return found
            except ValueError as error:
                wrong = str(error)
        damaged.add(step)
        if processes.is_main():
            print(
                f"warning: step {step} of {folder} is damaged, left out: {wrong}", file=sys.stderr
            )
    if steps:
        raise UserError(
            f"{folder}: damaged, all of step {', '.join(map(str, steps))}; bring back a copy or "
            "start anew"
        )
    return None


def _read_body(folder: epath.Path, step: int) -> dict[str, Any]:
    sealed = json.loads((folder / str(step) / "meta" / "metadata").read_text("utf-8"))
    if sealed["format"] > FORMAT:
        found = f"step {step} of {folder} has format {sealed['format']}"
        raise UserError(f"{found}, this version of rmat_jax reads up to {FORMAT}; update it")
    if sealed["crc32"] != _seal(sealed["body"])["crc32"]:
        raise ValueError("its JSON does not match its checksum")
    if sealed["body"]["step"] != step:
        raise ValueError(f"it is a copy of step {sealed['body']['step']}")
    return sealed["body"]


def _read_leaves(
    folder: epath.Path, step: int, saved: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Array]:
    """Reads the leaves named in `wanted`, in its order, and no other. Raises UserError where their
    shapes and dtypes differ from the JSON's, `saved`.
    """
    here = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in wanted.items()}
    there = {name: f"{leaf['dtype']}{leaf['shape']}" for name, leaf in saved.items()}
    for name in sorted(here | there):
        if here.get(name) != there.get(name):
            found = (
                f"{name} is {here.get(name, 'absent')} here, {there.get(name, 'absent')} in "
                f"step {step} of {folder}"
            )
            raise UserError(
                f"{found}; use the code and flags that saved it, or choose another --workdir"
            )
        if here[name].split("[")[0].endswith("64") and not jax.config.jax_enable_x64:
            raise UserError(f"step {step} of {folder} holds 64-bit arrays; set JAX_ENABLE_X64=1")
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    specs = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or place
        )
        for name, leaf in wanted.items()
    }
    item = {name: spec for name, spec in specs.items() if spec.size}
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
    read = ocp.PyTreeCheckpointHandler().restore(folder / str(step) / "state", args=args)
    # with damaged metadata Orbax may return placeholders instead of arrays
    lacks = [name for name in item if not isinstance(read.get(name), jax.Array)]
    if lacks:
        raise ValueError(f"{', '.join(lacks)} cannot be read")
    empty = {
        n: jnp.zeros(x.shape, x.dtype, device=x.sharding) for n, x in specs.items() if not x.size
    }
    return {name: (read | empty)[name] for name in wanted}


def _parts(leaves: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Yields the leaves that are not empty, in groups of up to PART_BYTES, or of one leaf."""
    part, size = {}, 0
    for name, leaf in leaves.items():
        if part and size + leaf.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        if leaf.size:
            part[name] = leaf
            size += leaf.nbytes
    yield part


def _verify(leaves: Mapping[str, Array], saved: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the leaves which differ from what was saved."""
    digest = digests(leaves)
    wrong = [
        n
        for n, leaf in leaves.items()
        if (digest[n], str(leaf.dtype)) != (saved[n]["digest"], saved[n]["dtype"])
    ]
    if wrong:
        raise ValueError(f"the values of {', '.join(wrong)} are not those that were saved")


def _seal(body: Mapping[str, Any]) -> dict[str, Any]:
    # JSON turns tuples into lists, and integer keys into strings
    body = json.loads(json.dumps(body))
    return {
        "format": FORMAT,
        "crc32": zlib.crc32(json.dumps(body, sort_keys=True).encode()),
        "body": body,
    }
