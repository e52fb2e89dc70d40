"""Writes one report of all suites: report.md for people, report.json for programs."""

import dataclasses
import json
import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmat_jax.config import to_dict
from rmat_jax.evals import plots
from rmat_jax.evals.suite import Options, Section, Subject, figure, say, table
from rmat_jax.files import write_whole
from rmat_jax.machine import hardware
from rmat_jax.train.metrics import read_metrics


def write_report(
    subject: Subject,
    sections: Mapping[str, Section],
    out: Path,
    command: str,
    failures: Mapping[str, str] | None = None,
) -> Path:
    """Writes `out/report.md` and `out/report.json`.

    Args:
        subject: the model that was measured; `metrics.jsonl` and `samples.txt` of its workdir are
            used if they are there.
        sections: the sections by the names of their suites.
        out: the folder of the report, in which the sections' figures lie.
        command: the command that writes this report again.
        failures: why suites stopped, by their names.

    Returns:
        The path of report.md.
    """
    metrics = {
        s: [r for r in read_metrics(subject.workdir) if r["split"] == s]
        for s in ("train", "heldout")
    }
    stopped = [f"**{name} was not measured**: {error}" for name, error in (failures or {}).items()]
    headlines = [section.headline for section in sections.values()] + stopped
    parts = [
        f"# {subject.workdir.resolve().name}, step {subject.step:,}",
        "\n".join(f"- {line}" for line in headlines),
        *(f"## {section.title}\n\n{section.text}" for section in sections.values()),
        _training(out, metrics, is_text=subject.config.data.scores_text),
        _sample(subject.workdir),
        _facts(subject, metrics),
        f"## Reproduce\n\n```sh\n{command}\n```",
    ]
    report = out / "report.md"
    write_whole(report, "\n\n".join(filter(None, parts)) + "\n")
    numbers = {
        "workdir": subject.workdir,
        "step": subject.step,
        "command": command,
        "headlines": {name: section.headline for name, section in sections.items()},
        "suites": {name: section.values for name, section in sections.items()},
        "failed": failures or {},
        "config": to_dict(subject.config),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
    }
    text = json.dumps(plain(numbers), indent=1, allow_nan=False)
    write_whole(out / "report.json", text + "\n")
    return report


def command_line(
    subject: Subject,
    suites: Sequence[str],
    out: Path,
    options: Options,
    step: int | str | None = None,
) -> str:
    """Returns the command that writes this report again, with all options that are not defaults."""
    default = Options()
    changed = {
        name: value for name, value in vars(options).items() if value != getattr(default, name)
    }
    asked = {} if step is None else {"step": step}
    flags = {"workdir": subject.workdir, **asked, "suite": ",".join(suites), "out": out, **changed}
    return "python -m rmat_jax evaluate " + shlex.join(
        f"--{name}={value}" for name, value in flags.items()
    )


def plain(value: Any) -> Any:
    """Turns a value into one for JSON.

    Arrays become lists, dataclasses and named tuples become dicts, NaN and infinity become None.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if dataclasses.is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple | set | range):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)


def _training(out: Path, metrics: Mapping[str, list[dict]], *, is_text: bool) -> str:
    if not metrics["train"]:
        return ""
    if is_text:
        quantity, train_value, heldout_name = (
            "bits per token",
            lambda r: r["loss"] / math.log(2),
            "bits_per_token",
        )
    else:
        quantity, train_value, heldout_name = "accuracy", lambda r: r["accuracy"], "accuracy"
    train = [(record["step"], train_value(record)) for record in metrics["train"]]
    heldout = [(record["step"], record[heldout_name]) for record in metrics["heldout"]]
    plots.training(out / "training.png", train, heldout, quantity)
    text = f"{quantity.capitalize()} by optimiser step, on training batches and held out."
    return f"## Training\n\n{text}\n\n{figure('Training', 'training.png')}"


def _sample(workdir: Path) -> str:
    """The last sample of the run."""
    file = workdir / "samples.txt"
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    except OSError as error:
        say(f"warning: {file} cannot be read: {error.strerror}; the report has no sample")
        text = ""
    parts = re.split(r"^--- step (\d+)\n", text, flags=re.MULTILINE)
    if len(parts) < 3:
        return ""
    step, sample = parts[-2:]
    sample = "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in sample
    ).strip("\n")
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", sample))])
    return f"## Sample, step {int(step):,}\n\n{fence}text\n{sample}\n{fence}"


def _facts(subject: Subject, metrics: Mapping[str, list[dict]]) -> str:
    facts = {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(subject.params)):,}",
        "steps": f"{subject.step:,} of {subject.config.steps:,}",
    }
    # only where a suite has read the data, which are not read for this line
    if "data" in vars(subject):
        facts = {"data": subject.data.describe} | facts
    if metrics["train"]:
        last = metrics["train"][-1]
        facts["tokens read"] = f"{last['tokens']:,}"
        speed = np.median([record["tokens_per_second"] for record in metrics["train"]])
        facts["training time"] = (
            f"{last['seconds']:,.0f} s with evaluations; {speed:,.0f} tokens/s without them"
        )
    facts["this report's hardware"] = hardware()
    facts["versions"] = f"jax {jax.__version__}, Python {platform.python_version()}"
    values = to_dict(subject.config)
    groups = {name: value for name, value in values.items() if isinstance(value, dict)}
    groups["experiment"] = {name: value for name, value in values.items() if name not in groups}
    lines = [
        (name, ", ".join(f"{key}={value!r}" for key, value in group.items()))
        for name, group in groups.items()
    ]
    return (
        "## Run\n\n"
        + table(("", ""), facts.items())
        + "\n\n## Settings\n\n"
        + table(("", ""), lines)
    )
