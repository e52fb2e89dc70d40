"""Traces of some training steps, for TensorBoard's profiler and Perfetto."""

from pathlib import Path

import jax

from rmat_jax.progress import BestEffort
from rmat_jax.types import PyTree


class Trace:
    """Records a trace of all devices between two steps. A failure costs a warning."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        """Args:
        folder: gets the files of the trace.
        steps: the trace begins after the first of these steps, and ends after the second; None: no
            trace.
        """
        self._folder, self._steps, self._running = folder, steps, False
        self._try = BestEffort("training")

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def at(self, step: int, state: PyTree) -> None:
        """Begins or ends the trace where it is due. Called between steps.

        Args:
            step: the last step.
            state: the state after it. The trace begins and ends when the state is computed.
        """
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(state)
            self._stop()
        elif self._steps and step == self._steps[0]:
            jax.block_until_ready(state)
            with self._try(self._folder):
                jax.profiler.start_trace(self._folder)
                self._running = True

    def _stop(self) -> None:
        if self._running:
            self._running = False
            with self._try(self._folder):
                jax.profiler.stop_trace()
