"""The training run: resume, step, log, evaluate, sample, save."""

import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from rmat_jax import flops, infer
from rmat_jax.chips import chip_of
from rmat_jax.config import Config, differences, from_saved, to_dict, to_saved
from rmat_jax.data import Data, make_data
from rmat_jax.data.tokenizer import count_words
from rmat_jax.errors import UserError
from rmat_jax.files import locked, write_whole
from rmat_jax.infer import open_chunk
from rmat_jax.machine import keep_memory
from rmat_jax.model import RMAT
from rmat_jax.progress import BestEffort
from rmat_jax.signals import Signals
from rmat_jax.train import bucket, parallel, processes, sharding
from rmat_jax.train.bad_steps import LIMIT, Health
from rmat_jax.train.checkpoint import Checkpoints, check_same_config
from rmat_jax.train.heldout import evaluate_heldout
from rmat_jax.train.metrics import MetricWriter, NoWriter, read_metrics
from rmat_jax.train.optim import decay_begins, make_optimizer, make_schedule
from rmat_jax.train.sharding import make_mesh
from rmat_jax.train.state import TrainState
from rmat_jax.train.step import Sums
from rmat_jax.train.trace import Trace

LOWER = "lower --config.optim.learning_rate or raise --config.optim.warmup_steps in a new --workdir"


def run(config: Config, workdir: Path | str, *, until: int | None = None) -> int:
    """Trains to `config.steps`, from the newest good checkpoint of `workdir` if there is one.

    Args:
        config: the experiment; but for `checkpoint.MAY_CHANGE` it must be the one that `workdir`
            was begun with.
        workdir: gets checkpoints/, config.json, metrics.jsonl, samples.txt, tensorboard/, corpus/,
            tokenizer/. An address, such as gs://NAME/run: see `bucket.py`.
        until: save and stop after this step, as if interrupted there.

    Returns:
        The exit code: 0, or 128 + the signal that stopped the run after it had saved.

    Raises:
        UserError: bad input, or a loss that is no longer a number.
    """
    started = time.monotonic()
    place = bucket.find(workdir)
    workdir = place.folder
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
        if step < last_step:
            processes.say("compiling the train step")

        train = parallel.make_train_step(config, optimizer, mesh)
        batches = data.train.batches(step)
        vote, stopped = processes.Vote(mesh), 0
        with (
            MetricWriter(workdir, step) if processes.is_main() else NoWriter() as writer,
            Trace(workdir / "profile", config.log.traced) as trace,
        ):
            log = _Log(config, writer, seconds, started)

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
                """After a bad step, takes all but the position in the data from the newest planned
                checkpoint before it.
                """
                nonlocal state, step, batches
                if log.bad is None:
                    return
                step, health = log.bad
                # makes room
                state = None
                start, state, _ = checkpoints.restore(abstract, below=step) or (0, begin(), None)
                returns = health.bad - jax.device_get(state.health.bad)
                if returns > LIMIT:
                    raise UserError(
                        f"step {step}: back at step {start} {LIMIT} times, and there was a bad "
                        f"step each time; {LOWER}"
                    )
                state = state.moved_to(step, health)
                batches = data.train.batches(step)
                log.went_back()
                writer.write("rollback", step, to=start)
                processes.say(f"back to step {start}; training goes on behind step {step}")

            def confirm():
                """Records the last save when it is committed."""
                checkpoints.wait()
                if checkpoints.held not in (None, *_steps(writer, "saved")):
                    writer.write("saved", checkpoints.held)

            def evaluate():
                # first: an evaluation that fails must not cost the steps
                save()
                with log.paused():
                    _evaluate(config, state, mesh, data, step, writer, log.seconds())

            # of a run that was killed between the two
            due = restored and _evaluates(config, step)
            lacks = "" if step in _steps(writer, "heldout") else "it"
            if due and processes.tell(lacks)[0]:
                evaluate()
            while step < last_step and not (stopped := vote.ask(signals.caught)):
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
    elif step < config.steps:
        processes.say(
            f"saved at step {step} of {config.steps}; the same command goes on from there"
        )
    else:
        processes.say(f"done: {step} steps in {_clock(log.seconds())}; {place}")
    return 128 + stopped if stopped else 0


def _check_same_command(config: Config, until: int | None) -> None:
    """All processes have the flags of process 0."""
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
    """No other run writes into this workdir meanwhile."""

    def lock(file):
        if not locked(file):
            raise UserError(
                f"another run is at work in {workdir}; wait for it, or choose another --workdir"
            )

    with open(workdir / ".lock", "wb") if processes.is_main() else contextlib.nullcontext() as file:
        processes.together(lambda: lock(file) if processes.is_main() else None)
        yield


def _make_workdir(workdir: Path) -> None:
    """Process 0 makes it and leaves a mark, which the others must see: checkpoints need a disk that
    all share.
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
        # network disks take their time
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


def _due(every: int, step: int) -> bool:
    return bool(every) and step % every == 0


def _planned(config: Config, step: int) -> bool:
    """Whether a step is saved though nobody interrupts the run."""
    return _due(config.log.save_every, step) or _evaluates(config, step)


def _evaluates(config: Config, step: int) -> bool:
    return _due(config.log.eval_every, step) or step == config.steps


def _steps(writer: MetricWriter | NoWriter, split: str) -> set[int]:
    """The steps that have a record of this kind."""
    return {record["step"] for record in writer.records if record["split"] == split}


def _check_not_lost(workdir: Path) -> None:
    """Raises UserError where steps were saved, and there are none: a disk may not be mounted."""
    saved = [r["step"] for r in read_metrics(workdir) if r["split"] == "saved"]
    if saved:
        raise UserError(
            f"{workdir / 'checkpoints'} is empty, but step {max(saved)} was saved there; bring the "
            f"checkpoints back, or begin again in another --workdir, or without "
            f"{workdir / 'metrics.jsonl'}"
        )


def _check_steps(saved: Config, config: Config, step: int) -> None:
    """Raises UserError where other steps would have meant other learning rates until now."""
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
) -> None:
    """Held-out text with and without memory, and a sample."""
    held = evaluate_heldout(config, state.params, data.heldout, data.heldout.num_bytes, mesh=mesh)
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
            config, state.params, data.heldout, data.heldout.num_bytes, cut=True, mesh=mesh
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
        return
    # all processes help, one writes
    params = sharding.on_one_device(mesh, state.params)
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


class _Log:
    """Progress lines and records. Sums are fetched one step late, so that the device never waits
    for the host.
    """

    def __init__(
        self, config: Config, writer: MetricWriter | NoWriter, seconds: float, started: float
    ):
        self._config, self._writer = config, writer
        self._schedule = make_schedule(config)
        self._offset = seconds - started
        # FLOPs a second at the chips' peak in bfloat16; None: the chip is not known
        chip = chip_of(jax.devices()[0].device_kind)
        self._peak = chip and chip.flops * jax.device_count()
        self._pending: tuple[int, Sums] | None = None
        self._totals: list[Sums] = []
        # nats and scored tokens since the last save
        self._since_save = (0.0, 0)
        # the bad step to go back from, and the counts after it
        self.bad: tuple[int, Health] | None = None
        self._paused_for = 0.0
        self._printed = -math.inf
        self._began = self._recorded = (
            # (time, step) where the first step, which compiles, and the last record ended
            None
        )

    def seconds(self) -> float:
        """Since the run began, resumes included, pauses between them not."""
        return time.monotonic() + self._offset

    def loss_since_save(self) -> float | None:
        """Nats a token, in the good steps since the last call; None: there was none."""
        (loss, scored), self._since_save = self._since_save, (0.0, 0)
        return loss / scored if scored else None

    def step(self, step: int, sums: Sums, wait: bool = False) -> None:
        """Takes what a step counted. With `wait`, its own sums are fetched at once, too."""
        self.flush()
        self._pending = step, sums
        if wait:
            self.flush()

    def went_back(self) -> None:
        """Forgets the bad step, and the one that was begun meanwhile."""
        self._pending = self.bad = None

    @contextlib.contextmanager
    def paused(self):
        """What happens inside does not count as training time."""
        start = time.monotonic()
        yield
        self._paused_for += time.monotonic() - start

    def flush(self) -> None:
        """Fetches the last step's sums; records and prints when due."""
        if self._pending is None or self.bad:
            return
        (step, sums), self._pending = self._pending, None
        sums = jax.device_get(sums)
        if sums.health.in_a_row:
            self._bad_step(step, sums)
        else:
            self._totals.append(sums)
            loss, scored = self._since_save
            self._since_save = loss + float(sums.loss), scored + int(sums.scored)
        now = time.monotonic() - self._paused_for
        if self._began is None:
            self._began = self._recorded = now, step
        last = step == self._config.steps
        if last or step % self._config.log.every == 0:
            self._record(step, now)
        if last or now - self._printed >= self._config.log.seconds:
            self._print(step, sums, now)

    def _bad_step(self, step: int, sums: Sums) -> None:
        health, optim = sums.health, self._config.optim
        what = f"step {step}: the loss is {sums.loss / max(sums.scored, 1):.4g} nats a token, the "
        what += f"gradient norm {sums.grad_norm:.4g}"
        if optim.bad_step == "stop":
            raise UserError(
                f"{what}; nothing from here on is saved. Go on with --config.optim.bad_step=skip "
                f"or rollback, or {LOWER}"
            )
        highest = float(health.highest(optim.bad_step_sigmas))
        what += f", above {highest:.4g}" if math.isfinite(highest) else ""
        if health.in_a_row >= LIMIT:
            raise UserError(f"{what}, the {LIMIT}th bad step in a row; {LOWER}")
        processes.say(f"{what}; nothing is learned from it ({health.bad} bad steps so far)")
        if optim.bad_step == "rollback" and self.bad is None:
            self.bad = step, health

    def _tokens(self, steps: int) -> int:
        return steps * self._config.batch_size * self._config.segment_len

    def _rate(self, now: float, step: int, since: tuple[float, int]) -> float:
        return self._tokens(step - since[1]) / (now - since[0]) if step > since[1] else 0.0

    def _mfu(self, rate: float) -> float:
        """Model FLOPs utilisation: the products of a step, without what is computed again, by the
        chips' peak (arXiv 2204.02311, appendix B).
        """
        return rate * 3 * flops.per_token(self._config.model) / self._peak

    def _record(self, step: int, now: float) -> None:
        if not self._totals:
            return
        health = self._totals[-1].health
        counts = {} if self._config.optim.bad_step == "stop" else {"bad_steps": int(health.bad)}
        scored = max(sum(int(s.scored) for s in self._totals), 1)
        self._writer.write(
            "train",
            step,
            tokens=self._tokens(step),
            loss=sum(float(s.loss) for s in self._totals) / scored,
            accuracy=sum(int(s.correct) for s in self._totals) / scored,
            grad_norm=float(self._totals[-1].grad_norm),
            learning_rate=float(self._schedule(health.good - 1)),
            **counts,
            tokens_per_second=(rate := self._rate(now, step, self._recorded)),
            **({"mfu": self._mfu(rate)} if self._peak else {}),
            seconds=self.seconds(),
        )
        self._totals, self._recorded = [], (now, step)

    def _print(self, step: int, sums: Sums, now: float) -> None:
        rate = self._rate(now, step, self._began)
        loss = sums.loss / max(sums.scored, 1)
        line = (
            f"step {step}/{self._config.steps}  loss {loss:.4f} nats ({loss / math.log(2):.3f} "
            "bits) a token"
        )
        if rate:
            line += (
                f"  {rate:,.0f} tokens/s  "
                + (f"MFU {self._mfu(rate):.1%}  " if self._peak else "")
                + f"{_clock(self._tokens(self._config.steps - step) / rate)} left"
            )
        processes.say(line)
        self._printed = now


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
