"""The training run: resume, step, log, evaluate, sample, save."""

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from rmat_jax import flops, infer
from rmat_jax.config import Config, differences, from_saved, to_dict, to_saved
from rmat_jax.data import Data, make_data
from rmat_jax.data.tokenizer import count_words
from rmat_jax.data.tokenizer_files import follow_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.files import locked, write_whole
from rmat_jax.infer import open_chunk
from rmat_jax.machine import keep_memory
from rmat_jax.model import RMAT
from rmat_jax.progress import BestEffort
from rmat_jax.signals import Signals
from rmat_jax.train import averages, bucket, parallel, processes, sharding
from rmat_jax.train.bad_steps import LIMIT, LOWER
from rmat_jax.train.best import Best, best_of
from rmat_jax.train.checkpoint import Checkpoints, check_same_config
from rmat_jax.train.heldout import evaluate_heldout
from rmat_jax.train.log import Log, clock
from rmat_jax.train.metrics import MetricWriter, NoWriter, read_metrics
from rmat_jax.train.optim import decay_begins, make_optimizer
from rmat_jax.train.sharding import make_mesh
from rmat_jax.train.state import TrainState
from rmat_jax.train.trace import Trace


def run(config: Config, workdir: Path | str, *, until: int | None = None) -> int:
    """Trains to `config.steps`, from the newest good checkpoint of `workdir` if there is one.

    Args:
        config: the config of the run. On resuming, only the keys in `checkpoint.MAY_CHANGE` and
            `checkpoint.PLACES` may differ from the config that `workdir` was begun with.
        workdir: gets checkpoints/, config.json, metrics.jsonl, samples.txt, tensorboard/, corpus/,
            tokenizer/. It may be an address, such as gs://NAME/run; see `bucket.py`.
        until: save and stop after this step, as if interrupted there.

    Returns:
        The exit code: 0, or 128 + the signal that stopped the run after it had saved.

    Raises:
        UserError: bad input, or a loss that is not finite.
    """
    started = time.monotonic()
    place = bucket.find(workdir)
    workdir = place.folder
    config = follow_tokenizer(config, workdir / "tokenizer")
    last_step = config.steps if until is None else min(until, config.steps)
    if last_step < 1:
        raise UserError(f"until={until} must be at least 1")
    if config.model.dtype == "float64" and not jax.config.jax_enable_x64:
        raise UserError(
            "dtype='float64' needs 64-bit types; set JAX_ENABLE_X64=1, or use dtype='float32'"
        )
    _check_same_command(config, until)
    if jax.default_backend() == "cpu":
        keep_memory()
    optimizer = make_optimizer(config)
    mesh = make_mesh(config.mesh)
    abstract = parallel.abstract_state(config, optimizer, mesh)
    if place.address:
        processes.together(place.fetch)
    else:
        _make_workdir(workdir)
    with (
        _alone(workdir),
        Checkpoints(place.checkpoints, keep=config.log.keep) as checkpoints,
        Signals("saving after this step") as signals,
    ):
        saved_config = checkpoints.saved_config()
        if saved_config is not None:
            saved = from_saved(Config, saved_config, str(workdir))
            check_same_config(to_dict(saved), to_dict(config))
        if processes.is_main():
            with BestEffort("training")(workdir / "config.json"):
                write_whole(workdir / "config.json", json.dumps(to_saved(config), indent=1))
        rows = sharding.local_rows(mesh, config.batch_size)
        data = place.made(lambda: make_data(config, workdir, rows, share=jax.process_count() == 1))

        begin = parallel.make_init(config, optimizer, mesh)
        restored = checkpoints.restore(abstract)
        if restored is None:
            processes.together(lambda: _check_not_lost(workdir))
            state, step, seconds = begin(), 0, 0.0
        else:
            step, state, meta = restored
            _check_steps(saved, config, step)
            seconds = meta["seconds"]
            data.check_same(meta["data"], workdir)
        processes.say(_summary(config, data, state, mesh))
        processes.say(
            f"resuming from step {step} of {place}" if restored else f"starting in {place}"
        )

        train = parallel.make_train_step(config, optimizer, mesh)
        batches = data.train.batches(step)
        vote, stopped = processes.Vote(mesh), 0
        with (
            _writer(config, workdir, step) as writer,
            Trace(workdir / "profile", config.log.traced) as trace,
        ):
            log = Log(config, writer, seconds, started)
            best = Best(*json.loads(processes.tell(json.dumps(best_of(writer.records)))[0]))

            def patience_ends():
                return 0 < config.log.patience <= best.since

            def save():
                log.flush()
                go_back()
                confirm()
                meta = {
                    "seconds": log.seconds(),
                    "data": data.identity,
                    "loss": log.loss_since_save(),
                    "planned": _planned(config, step),
                }
                checkpoints.save(step, state, config, meta)
                if processes.is_main():
                    place.send()

            def go_back():
                """After a bad step, restores the newest planned checkpoint before it, but keeps the
                position in the data.
                """
                nonlocal state, step, batches
                if log.bad is None:
                    return
                step, health = log.bad
                # frees its memory before the restore
                state = None
                start, state, _ = checkpoints.restore(abstract, below=step) or (0, begin(), None)
                returns = health.bad - jax.device_get(state.health.bad)
                if returns > LIMIT:
                    raise UserError(
                        f"step {step}: the run went back to step {start} {LIMIT} times, and met a "
                        f"bad step each time; {LOWER}"
                    )
                state = state.moved_to(step, health)
                batches = data.train.batches(step)
                log.went_back()
                writer.write("rollback", step, to=start)
                processes.say(f"back to step {start}; training goes on behind step {step}")

            def confirm():
                """Waits until the last save is committed, and records it."""
                checkpoints.wait()
                if checkpoints.held not in (None, *_steps(writer, "saved")):
                    writer.write("saved", checkpoints.held)

            def evaluate():
                nonlocal best
                # saves first, so that an evaluation that fails does not cost the steps
                save()
                with log.paused():
                    bits = _evaluate(config, state, mesh, data, step, writer, log.seconds())
                best = best.after(step, bits)
                checkpoints.best = best.step if config.log.keep_best else None

            checkpoints.best = best.step if config.log.keep_best else None
            # a run may have been killed between a save and its evaluation
            due = restored and _evaluates(config, step)
            lacks = "" if step in _steps(writer, "heldout") else "it"
            if due and processes.tell(lacks)[0]:
                evaluate()
            if step < last_step and not patience_ends():
                processes.say("compiling the train step")
            while step < last_step and not patience_ends():
                if stopped := vote.ask(signals.caught):
                    break
                trace.at(step, state)
                batch = next(batches)
                state, sums = train(
                    state, sharding.global_batch(mesh, config.batch_size, rows, batch)
                )
                step += 1
                log.step(step, sums, wait=_planned(config, step))
                go_back()
                if _evaluates(config, step):
                    evaluate()
                elif _planned(config, step):
                    save()
            trace.at(step, state)
            if step:
                # does nothing for a step that is saved already
                save()
                confirm()
                if processes.is_main():
                    place.send()
    if not step:
        processes.say("stopped before the first step; nothing to save")
    elif patience_ends():
        processes.say(
            f"ended at step {step} of {config.steps}: in {best.since} evaluations the held-out "
            f"loss was not below that of step {best.step} (log.patience={config.log.patience}); "
            + ("--step=best takes it" if config.log.keep_best else "log.keep_best=False: not kept")
        )
    elif step < config.steps:
        processes.say(
            f"saved at step {step} of {config.steps}; the same command goes on from there"
        )
    else:
        processes.say(f"done: {step} steps in {clock(log.seconds())}; {place}")
    return 128 + stopped if stopped else 0


def _check_same_command(config: Config, until: int | None) -> None:
    """Raises UserError where the config of a process differs from that of process 0."""
    mine = to_dict(config) | {"until": until}
    told = processes.tell(json.dumps(mine))

    def check():
        if len(told[0].encode()) == processes.TEXT_BYTES:
            raise UserError(
                "the config is too long for processes to compare; shorten log.sample_prompt"
            )
        found = differences(json.loads(told[0]), mine)
        if found:
            shown = "; ".join(
                f"{key} is {there!r} in process 0, {here!r} here" for key, there, here in found
            )
            raise UserError(f"{shown}; start all processes with the same command")

    if len(told) > 1:
        processes.together(check)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Locks the workdir against other runs. Raises UserError where another one has it."""

    def lock(file):
        if not locked(file):
            raise UserError(
                f"another run is at work in {workdir}; wait for it, or choose another --workdir"
            )

    with open(workdir / ".lock", "wb") if processes.is_main() else contextlib.nullcontext() as file:
        processes.together(lambda: lock(file) if processes.is_main() else None)
        yield


def _make_workdir(workdir: Path) -> None:
    """Makes the workdir. Raises UserError where the processes do not share one.

    Process 0 leaves a file there, which the others must see.
    """
    mark = workdir / f".shared-{processes.tell(uuid.uuid4().hex)[0]}"

    def make():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if processes.is_main():
                mark.touch()
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be made: {error.strerror}; choose another"
            ) from error

    def look():
        # a network file system may show the file late
        until = time.monotonic() + 10
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.1)
        if not mark.exists():
            raise UserError(
                f"--workdir={workdir} is not the same disk for all processes; choose one that "
                "they share"
            )

    processes.together(make)
    try:
        processes.together(look)
    finally:
        if processes.is_main():
            mark.unlink(missing_ok=True)


def _writer(config: Config, workdir: Path, step: int) -> MetricWriter | NoWriter:
    if not processes.is_main():
        return NoWriter()
    return MetricWriter(workdir, step, config.log.trackers, to_dict(config))


def _due(every: int, step: int) -> bool:
    return bool(every) and step % every == 0


def _planned(config: Config, step: int) -> bool:
    """Whether a step is saved even if the run is not interrupted there."""
    return _due(config.log.save_every, step) or _evaluates(config, step)


def _evaluates(config: Config, step: int) -> bool:
    return _due(config.log.eval_every, step) or step == config.steps


def _steps(writer: MetricWriter | NoWriter, split: str) -> set[int]:
    """Returns the steps that have a record of this split."""
    return {record["step"] for record in writer.records if record["split"] == split}


def _check_not_lost(workdir: Path) -> None:
    """Raises UserError where saved steps are gone, since a disk may not be mounted."""
    saved = [r["step"] for r in read_metrics(workdir) if r["split"] == "saved"]
    if saved:
        raise UserError(
            f"{workdir / 'checkpoints'} is empty, but step {max(saved)} was saved there; bring the "
            f"checkpoints back, or begin again in another --workdir, or without "
            f"{workdir / 'metrics.jsonl'}"
        )


def _check_steps(saved: Config, config: Config, step: int) -> None:
    """Raises UserError where changed `steps` would change learning rates of steps already done."""
    same_until = min(map(decay_begins, (saved, config)))
    if saved.steps != config.steps and step > same_until:
        c = saved.optim.schedule
        raise UserError(
            f"this workdir was trained with another config: steps was {saved.steps}, is "
            f"{config.steps}, which with optim.schedule={c} may change until step {same_until}; "
            f"step {step} is done; choose another --workdir, or set back "
            f"--config.steps={saved.steps}"
        )


def _summary(config: Config, data: Data, state: TrainState, mesh: Mesh) -> str:
    c = config.model
    count = sum(x.size for x in jax.tree.leaves(state.params))
    local = ""
    if c.local:
        local = f", windows of {c.local.window} ({'sliding' if c.local.sliding else 'blocks'})"
    memory = "off"
    if c.memory:
        gate = f"gate {c.memory.gate}" if c.memory.gated else "no gate"
        memory = f"{c.memory.slots} slots, {c.memory.writes} written a chunk, {gate}"
    streaming = jax.eval_shape(lambda: open_chunk.initial_state(c, 1))
    forward = flops.per_token(c) / 1e6
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    axes += f" ({config.mesh.parallelism})" if axes else ""
    several = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    rows = {
        "data": data.describe,
        "parameters": f"{count:,}",
        "FLOPs a token": f"{forward:.2f}M forward, {3 * forward:.2f}M training "
        "(without recomputation)",
        "chunk": f"{c.chunk_len} tokens{local}",
        "memory": memory,
        "BPTT span": f"{config.chunks_per_step} chunks = {config.segment_len} tokens",
        "a step reads": f"{config.batch_size} lanes x {config.segment_len} tokens",
        "state": f"{streaming.num_bytes():,} bytes a stream, whatever its length",
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {c.dtype}"
        + (f", {axes}" if axes else "")
        + several,
    }
    return "\n".join(f"{name:14s} {value}" for name, value in rows.items())


def _evaluate(
    config: Config,
    state: TrainState,
    mesh: Mesh,
    data: Data,
    step: int,
    writer: MetricWriter | NoWriter,
    seconds: float,
) -> float:
    """Evaluates on held-out text with and without memory, and writes a sample. Returns the bits a
    token with memory.
    """
    params = averages.evaluated(config.optim, state.params, state.opt_state, state.ema)
    held = evaluate_heldout(config, params, data.heldout, data.heldout.num_bytes, mesh=mesh)
    values = {"accuracy": held.accuracy, "bits_per_token": held.bits_per_token}
    line = f"step {step}: held-out accuracy {held.accuracy:.3f}"
    if held.bits_per_byte is not None:
        values["bits_per_byte"] = held.bits_per_byte
        what = "answers, " if config.data.answers_only else ""
        line = f"step {step}: held-out {what}{held.bits_per_byte:.4f} bits per byte"
        if config.data.tokenizer == "words":
            bits = held.bits.sum() / count_words(data.heldout.texts())
            line += f" (perplexity {2**bits:,.2f} a word)"
        if config.data.answers_only:
            line += f" (perplexity {2**held.bits_per_token:,.2f} a token)"
    if config.model.memory:
        cut = evaluate_heldout(
            config, params, data.heldout, data.heldout.num_bytes, cut=True, mesh=mesh
        )
        if cut.bits_per_byte is None:
            values["accuracy_without_memory"] = cut.accuracy
            line += f", {cut.accuracy:.3f} without memory"
        else:
            values["bits_per_byte_without_memory"] = cut.bits_per_byte
            line += f", {cut.bits_per_byte:.4f} without memory"
    processes.say(line)
    writer.write("heldout", step, **values, seconds=seconds)
    if not config.log.sample_tokens or data.tokenizer is None:
        return held.bits_per_token
    # all processes gather the parameters, and one generates
    params = sharding.on_one_device(mesh, params)
    if processes.is_main():
        session = infer.Engine(RMAT(config.model), params, data.tokenizer, rows=1).open(
            config.log.sample_prompt
        )
        written = session.write(max_new_tokens=config.log.sample_tokens, seed=step)
        text = config.log.sample_prompt + "".join(written)
        shown = "".join(
            c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
        )
        processes.say("\n".join("    | " + row for row in shown.splitlines()))
        writer.write_sample(step, text)
    return held.bits_per_token
