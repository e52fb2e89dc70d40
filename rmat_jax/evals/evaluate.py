"""Measures a run, finished or not, from its workdir with some suites, and writes one report."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from rmat_jax.errors import UserError
from rmat_jax.evals.report import command_line, write_report
from rmat_jax.evals.suite import Options, Section, load_subject, say
from rmat_jax.files import make_folder

# The modules of the suites, see `suite.py`. Each folder says what its suite asks.
SUITES = {
    "position": "rmat_jax.evals.suites.position.suite",
    "length": "rmat_jax.evals.suites.length.suite",
    "recall": "rmat_jax.evals.suites.recall.suite",
    "babi": "rmat_jax.evals.suites.babi.suite",
    "ruler": "rmat_jax.evals.suites.ruler.suite",
    "qa": "rmat_jax.evals.suites.answers.qa",
    "summary": "rmat_jax.evals.suites.answers.summary",
    "dialogue": "rmat_jax.evals.suites.dialogue.suite",
    "code": "rmat_jax.evals.suites.code.suite",
}
# These suites need a file, which the option of the same name gives.
NEED_FILE = ("babi", "qa", "summary", "dialogue")
# All suites but these need a model of text.
ANY_DATA = ("position", "recall")


def evaluate(
    workdir: Path,
    suites: Sequence[str] = ("position",),
    out: Path | None = None,
    options: Options | None = None,
    step: int | str | None = None,
) -> Path:
    """Writes the report of a checkpoint, and writes it again after each suite.

    The `check` functions of all suites run before any suite measures.

    Args:
        workdir: the folder of a training run.
        suites: names out of SUITES, in the order of the report.
        out: the folder for report.md, report.json and the figures; None: the workdir itself.
        options: the options of the suites.
        step: the checkpoint's step; None: the newest; "best": that with the lowest held-out loss.

    Returns:
        The path of report.md.

    Raises:
        UserError: a suite is unknown or named twice, a file is not given or not there, there is no
            checkpoint or no such step, or the data is no longer there. An error of a suite while it
            measures is raised after the other suites have run, whose results the report holds.
    """
    options = options or Options()
    check_names(suites, options)
    modules = {name: importlib.import_module(SUITES[name]) for name in suites}
    workdir = Path(workdir)
    out = workdir if out is None else Path(out)
    subject = load_subject(workdir, step)
    for name, module in modules.items():
        if name not in ANY_DATA:
            _ = subject.tokenizer
        if hasattr(module, "check"):
            module.check(subject, options)
    make_folder(out)

    sections: dict[str, Section] = {}
    failures: dict[str, str] = {}
    command = command_line(subject, suites, out, options, step)
    for number, (name, module) in enumerate(modules.items(), 1):
        say(f"suite {name}, {number} of {len(modules)}")
        try:
            sections[name] = getattr(module, name)(subject, options, out)
        except UserError as error:
            say(f"suite {name} stopped: {error}")
            failures[name] = str(error)
        report = write_report(subject, sections, out, command, failures)
    if failures:
        found = "; ".join(f"suite {name}: {error}" for name, error in failures.items())
        raise UserError(f"{found}; the rest is in {report}" if sections else found)
    return report


def check_names(suites: Sequence[str], options: Options) -> None:
    """Checks without the model that the suites can run.

    Raises:
        UserError: a suite is unknown or named twice, or a file is not given or not there.
    """
    for index, name in enumerate(suites or ("",)):
        if name not in SUITES:
            raise UserError(f"unknown suite {name!r}; there is {', '.join(SUITES)}")
        if name in suites[:index]:
            raise UserError(f"suite {name!r} is named twice; name each once")
    for name in NEED_FILE:
        if name in suites and getattr(options, name) is None:
            raise UserError(
                f"suite {name!r} needs a file; give --{name}=PATH, see docs/evaluation.md"
            )
    for name in ("text", "ruler", *NEED_FILE):
        path = getattr(options, name)
        if (
            path is not None
            and not path.startswith("tfds:")
            and not Path(path).expanduser().exists()
        ):
            raise UserError(f"--{name}={path} does not exist; give a file or folder that does")
