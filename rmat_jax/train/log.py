"""The progress lines and the records of the steps, and the messages about bad steps."""

import contextlib
import math
import time

import jax

from rmat_jax import flops
from rmat_jax.chips import GIB, chip_of
from rmat_jax.config import Config
from rmat_jax.errors import UserError
from rmat_jax.machine import peak_bytes
from rmat_jax.train import processes
from rmat_jax.train.bad_steps import LIMIT, LOWER, Health
from rmat_jax.train.metrics import MetricWriter, NoWriter
from rmat_jax.train.optim import make_schedule
from rmat_jax.train.step import Sums


class Log:
    """Writes progress lines and records. The sums of a step are fetched one step late, so that the
    device never waits for the host.
    """

    def __init__(
        self, config: Config, writer: MetricWriter | NoWriter, seconds: float, started: float
    ):
        self._config, self._writer = config, writer
        self._schedule = make_schedule(config)
        self._offset = seconds - started
        # the chips' peak in bfloat16, FLOPs a second; None: the chip is not known
        chip = chip_of(jax.devices()[0].device_kind)
        self._peak = chip and chip.flops * jax.device_count()
        self._pending: tuple[int, Sums] | None = None
        self._totals: list[Sums] = []
        # nats and scored tokens since the last save
        self._since_save = (0.0, 0)
        # the bad step from which the run must go back, and the health after it
        self.bad: tuple[int, Health] | None = None
        self._paused_for = 0.0
        self._printed = -math.inf
        self._began = self._recorded = (
            # (time, step) where the first step, which compiles, and the last record ended
            None
        )

    def seconds(self) -> float:
        """Returns the seconds of the run, with those before a resume, without pauses between."""
        return time.monotonic() + self._offset

    def loss_since_save(self) -> float | None:
        """Returns nats a token over the good steps since the last call; None: there was none."""
        (loss, scored), self._since_save = self._since_save, (0.0, 0)
        return loss / scored if scored else None

    def step(self, step: int, sums: Sums, wait: bool = False) -> None:
        """Takes the sums of a step, and fetches those of the step before. `wait` fetches both."""
        self.flush()
        self._pending = step, sums
        if wait:
            self.flush()

    def went_back(self) -> None:
        """Forgets the bad step, and the step that was begun after it."""
        self._pending = self.bad = None

    @contextlib.contextmanager
    def paused(self):
        """Excludes the time of the block from the training speed."""
        start = time.monotonic()
        yield
        self._paused_for += time.monotonic() - start

    def flush(self) -> None:
        """Fetches the last step's sums. Writes a record and a progress line when they are due."""
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
        """Returns the model FLOPs utilisation: FLOPs without recomputation, divided by the chips'
        peak (arXiv 2204.02311, appendix B).
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
            **({"peak_bytes": held} if (held := peak_bytes()) else {}),
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
                + (f"peak {held / GIB:.1f} GiB  " if (held := peak_bytes()) else "")
                + f"{clock(self._tokens(self._config.steps - step) / rate)} left"
            )
        processes.say(line)
        self._printed = now


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
