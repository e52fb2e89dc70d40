"""Measures a finished or running experiment from its workdir alone."""

from collections.abc import Sequence
from pathlib import Path

from rmat_jax.checkpoint import restore_params
from rmat_jax.config import Config, UserError, from_dict
from rmat_jax.data import make_data
from rmat_jax.evals.report import write_report

SUITES = ("position",)  # position: held-out loss by place, baselines, gauges: the report


def evaluate(workdir: Path, suites: Sequence[str] = ("position",), out: Path | None = None) -> Path:
    """Writes the report of the newest checkpoint.

    Args:
        workdir: of a training run.
        suites: names out of SUITES.
        out: folder for report.md and its figures; None: the workdir itself.

    Returns:
        The path of report.md.

    Raises:
        UserError: an unknown suite, no checkpoint, or data that is no longer there.
    """
    for suite in suites or ("",):
        if suite not in SUITES:
            raise UserError(f"unknown suite {suite!r}; there is {', '.join(SUITES)}")
    workdir = Path(workdir)
    params, values, step = restore_params(workdir / "checkpoints")
    config = from_dict(Config, values)
    data = make_data(config, workdir)
    return write_report(workdir, workdir if out is None else out, config=config, params=params, step=step, data=data)
