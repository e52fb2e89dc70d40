"""Checks that another implementation, machine or version computes the same; docs/crosscheck.md."""

import contextlib
import dataclasses
import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from rmat_jax.config import Config, Local, Memory, OptimConfig, RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.interop import compare
from rmat_jax.interop.case import Case, Results, make_case
from rmat_jax.interop.compare import Difference, Spread
from rmat_jax.interop.dump import read_dump, write_dump
from rmat_jax.interop.layout import from_jax, layout, random_weights
from rmat_jax.progress import say

# The model that is checked when none is named. It lies between the default and the paper, so it
# has the parts of both.
SMALL = Config(
    model=RMATConfig(
        vocab_size=64,
        width=32,
        num_layers=3,
        num_heads=4,
        chunk_len=16,
        local=Local(window=8),
        memory=Memory(slots=12, writes=4, keeps="outputs", gate="gru", gate_bias=-2.0),
    ),
    # near the gradients' norm, so that some steps are clipped and some are not
    optim=OptimConfig(clip_norm=1.7),
)
PARTS = ("the call and its gradient", "the optimiser's steps", "the streams")
# computes a case in a dtype, and yields the results of each of PARTS
Run = Callable[[Case, str], Iterator[Results]]


@dataclasses.dataclass(frozen=True)
class Report:
    """A finished comparison."""

    title: str
    config: RMATConfig
    dtype: str
    differences: list[Difference]
    # quantities that the checked implementation does not give
    not_offered: list[str]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(d.passed for d in self.differences)

    def text(self) -> str:
        """The table, the quantities that were not compared, the first difference, the verdict."""
        lines = [self.title, "", compare.table(self.differences), ""]
        if self.not_offered:
            lines.append(
                f"not compared, since the module does not offer it: {', '.join(self.not_offered)}"
            )
        failed = [d for d in self.differences if not d.passed]
        if failed:
            lines.append(f"first difference: {explain(compare.first_difference(self.differences))}")
        worst = max(self.differences, key=lambda d: d.share)
        lines.append(
            f"{'EQUAL' if self.passed else 'DIFFERENT'}: {len(failed)} of {len(self.differences)} "
            "results beyond tolerance; "
            f"the largest is {worst.share:.2g} of its tolerance ({worst.quantity}, "
            f"{worst.where}); {self.seconds:.0f} s"
        )
        return "\n".join(lines)

    def json(self) -> str:
        """All comparisons as JSON."""
        first = compare.first_difference(self.differences)
        return json.dumps(
            {
                "title": self.title,
                "passed": self.passed,
                "dtype": self.dtype,
                "config": dataclasses.asdict(self.config),
                "versions": versions(),
                "seconds": round(self.seconds, 1),
                "not_offered": self.not_offered,
                "first_difference": first and explain(first),
                "differences": compare.to_json(self.differences),
            },
            indent=1,
        )


def explain(d: Difference) -> str:
    """Says where a difference lies and where to look for its cause."""
    chunk, _, layer = d.place.partition(", ")
    size = f"{d.absolute:.1e}, tolerance {d.tolerance:.1e}"
    if d.quantity == "layer output":
        below = (
            "the embedding stands before it" if layer == "layer 0" else "the layers below it agree"
        )
        return f"the output of {layer} in {chunk} ({size}); {below}"
    if d.quantity == "memory":
        return (
            f"what {layer} wrote to its memory after {chunk} ({size}); its output there "
            "agrees: look at entry, gate and queue"
        )
    if d.quantity == "logits":
        return (
            f"the logits of {chunk} ({size}); what was compared before them agrees: look at "
            "final norm and output table"
        )
    return f"{d.quantity}, {d.where} ({size}); the forward pass agrees"


def load_case(
    *,
    workdir: Path | None = None,
    step: int | str | None = None,
    config: Config | None = None,
    steps: int = 10,
    seed: int = 0,
) -> Case:
    """Makes a case of a checkpoint, on text that its tokenizer can read, or of random weights.

    Args:
        workdir: the run's folder; None: random weights.
        step: the checkpoint's step; None: the newest; "best": the lowest held-out loss.
        config: the experiment whose model gets random weights; None: SMALL.
        steps: the number of optimiser steps.
        seed: the seed of weights and inputs.
    """
    if workdir is not None and config is not None:
        raise UserError("--workdir and --config are both given; a workdir has its own config")
    if workdir is None and step is not None:
        raise UserError(f"--step={step} is one of a run; give its --workdir")
    if workdir is None:
        config = dataclasses.replace(config or SMALL, seed=seed)
        return make_case(config, random_weights(config.model, seed), steps=steps, seed=seed)
    import jax

    from rmat_jax.config import from_saved
    from rmat_jax.data.tokenizer_files import load_tokenizer
    from rmat_jax.train.checkpoint import restore_params

    # a checkpoint may hold float64
    with jax.enable_x64(True):
        params, values, *_ = restore_params(workdir / "checkpoints", step)
    config = from_saved(Config, values, str(workdir))
    text = None
    if not config.data.synthetic:
        # the source code of this package, which every installation has
        sources = sorted(Path(__file__).parent.parent.rglob("*.py"))
        text = load_tokenizer(config, workdir / "tokenizer").encode(
            b"\n".join(file.read_bytes() for file in sources)
        )
    weights = {name: x.astype(np.float64) for name, x in from_jax(config.model, params).items()}
    return make_case(config, weights, steps=steps, seed=seed, text=text)


def crosscheck(
    case: Case, dtype: str, factory: str | None = None, precision: str = "highest"
) -> Report:
    """Compares JAX with PyTorch: the reference, or the port that `factory` names as
    `package.module:function`.
    """
    start = time.perf_counter()
    ours, theirs = _jax(precision), _torch(factory)
    expected = _collect(ours, case, dtype, "JAX")
    actual = _collect(theirs, case, dtype, "PyTorch")
    spread = None if dtype == "float64" else _spread(case, _torch(None), dtype)
    title = f"JAX against {factory or 'the PyTorch reference'}, {dtype}"
    return _report(title, case, dtype, actual, expected, spread, start)


def dump(case: Case, file: Path) -> None:
    """Writes the case with JAX's float64 results to `file`."""
    run = _jax("highest")
    exact = _collect(run, case, "float64", "JAX")
    write_dump(
        file,
        case,
        exact,
        _spread(case, run, "float32", exact),
        f"JAX float64, {', '.join(map(' '.join, versions().items()))}",
    )


def replay(
    file: Path, dtype: str, framework: str, factory: str | None = None, precision: str = "highest"
) -> Report:
    """Computes the case of a dump again, and compares the results with the dump's.

    It computes in JAX on the default device, or in PyTorch with the reference or a port.
    """
    start = time.perf_counter()
    case, expected, spread, origin = read_dump(file)
    if framework == "jax":
        wanted = {n: spec.shape for n, spec in layout(case.config.model).items()}
        if wanted != {n: x.shape for n, x in case.weights.items()}:
            raise UserError(
                f"{file} holds other weights than those of its config; make the dump anew"
            )
        run, name = _jax(precision), f"JAX on {_device()}"
    else:
        run, name = _torch(factory), factory or "the PyTorch reference"
    title = f"{name}, {dtype}, precision {precision}, against {file} ({origin})"
    return _report(title, case, dtype, _collect(run, case, dtype, name), expected, spread, start)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that take part."""
    found = {"python": platform.python_version()}
    for package in ("jax", "flax", "optax", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _report(title, case, dtype, actual, expected, spread, start) -> Report:
    missing = {key[0] for key in expected} - {key[0] for key in actual}
    return Report(
        title=title,
        config=case.config.model,
        dtype=dtype,
        differences=compare.compare(case, actual, expected, spread, dtype),
        not_offered=[quantity for quantity in compare.QUANTITIES if quantity in missing],
        seconds=time.perf_counter() - start,
    )


def _collect(run: Run, case: Case, dtype: str, name: str) -> Results:
    results: Results = {}
    parts = run(case, dtype)
    for part in PARTS:
        say(f"{name}, {dtype}: {part}")
        results |= next(parts)
    return results


def _spread(case: Case, run: Run, dtype: str, exact: Results | None = None) -> Spread:
    say(
        f"tolerances of {dtype}, from the same in float64 with weights that are off by its rounding"
    )
    exact = exact or {key: x for part in run(case, "float64") for key, x in part.items()}
    return compare.measure_spread(case, lambda moved: run(moved, "float64"), exact, dtype)


def _jax(precision: str) -> Run:
    from rmat_jax.interop.run_jax import run_jax

    return lambda case, dtype: run_jax(case, dtype, precision)


def _torch(factory: str | None) -> Run:
    from rmat_jax.interop.run_torch import load_factory, reference, run_torch

    made = load_factory(factory) if factory else reference

    def run(case, dtype):
        try:
            yield from run_torch(case, dtype, made)
        except BaseException as error:
            # a port may also exit, which is no verdict
            if factory is None or isinstance(error, KeyboardInterrupt | GeneratorExit):
                raise
            # the author of the port needs the whole trace
            traceback.print_exc()
            raise UserError(
                f"--torch={factory} failed: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error

    return run


def _device() -> str:
    import jax

    return jax.devices()[0].device_kind
