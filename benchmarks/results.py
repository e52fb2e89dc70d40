"""Makes a row of docs/results.md anew: runs its commands, keeps the record, writes the tables.

    python benchmarks/results.py --list
    python benchmarks/results.py --row=quickstart,quickstart-queue --out=runs
    python benchmarks/results.py --row=passkey --out=runs --novels=100_english_novels/corpus
    python benchmarks/results.py --page

A row is an entry of `benchmarks/rows.py`. Its commands run one after the other, each in a process
of its own. A command that has ended is not run again with the same --out. The record of the row is
docs/results/NAME.json: the commands, the figures by seed, and the commit, the machine and the time.
--page writes the tables of all pages from the records. The prose is written by hand.

A row of version 1 runs in a copy of that commit, which the program makes under --out. Keys such as
--config.steps=100 change a row of today's code. Its record then stays in --out.
"""

import contextlib
import datetime
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

# a script has its own folder alone on its path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import QUESTIONS, ROWS, Row  # noqa: E402
from rmat_jax import flags  # noqa: E402
from rmat_jax.ablate.report import error  # noqa: E402
from rmat_jax.errors import UserError  # noqa: E402
from rmat_jax.evals.means import Mean  # noqa: E402
from rmat_jax.evals.suite import table  # noqa: E402
from rmat_jax.files import make_folder, write_whole  # noqa: E402
from rmat_jax.progress import say  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGES, RECORDS = ROOT / "docs", ROOT / "docs/results"
NOVELS, BABI = "100_english_novels/corpus", "tasks_1-20_v1-2/en-10k"
# a process of its own says it, since this one would keep the device from those that compute
MACHINE = """
import json, platform, jax
from rmat_jax.machine import facts
print(json.dumps({"hardware": {"device": facts()["device"], "cores": facts()["threads"]},
                  "versions": {"python": platform.python_version(), "jax": jax.__version__}}))
"""
MARK = re.compile(r"(<!-- (table|seeds|distances): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands(
    row: Row, seeds: Sequence[int], out: str = "runs", novels: str = NOVELS, babi: str = BABI
) -> list[str]:
    """The commands of a row, as they are typed in the project's folder."""
    every = ",".join(map(str, seeds))
    return [
        command.format(out=out, novels=novels, babi=babi, seeds=every, seed=seed)
        for command in row.commands
        for seed in (seeds if "{seed}" in command else [None])
    ]


def measure(
    name: str, out: Path, seeds: Sequence[int], texts: Sequence[Path], overrides: Sequence[str]
) -> dict[str, Any]:
    """Runs the commands of a row that have not ended before, and returns its record.

    Raises:
        UserError: a row without commands, or a command failed.
    """
    row = ROWS[name]
    if not row.commands:
        raise UserError(f"--row={name} has no command that makes it anew; --list shows the others")
    if overrides and row.commit:
        raise UserError(f"{overrides[0]} cannot change {name}, a row of version 1; drop it")
    make_folder(out)
    out = out.resolve()
    folder = _copy(row.commit, out) if row.commit else ROOT
    log, kept = out / "commands.jsonl", out / f"{name}.json"
    typed = [" ".join([c, *_more(c, overrides)]) for c in commands(row, seeds)]
    if kept.exists() and _read(kept)["commands"] == typed:
        say(f"{name} has ended before; {kept} has it")
        return _read(kept)
    real = commands(row, seeds, str(out), *(str(text.resolve()) for text in texts))
    for number, (shown, command) in enumerate(zip(typed, real, strict=True), 1):
        if any(entry["command"] == shown and not entry["code"] for entry in _lines(log)):
            say(f"{name}: command {number} of {len(typed)} has ended before")
            continue
        say(f"{name}: command {number} of {len(typed)}: {shown}")
        entry = _run([*shlex.split(command), *_more(command, overrides)], folder)
        entry = {"command": shown, "commit": row.commit or _commit(), **entry}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if entry["code"]:
            raise UserError(f"{name}: code {entry['code']}; mend what is said above, and go on")
    # with the calls that were stopped
    entries = [entry for entry in _lines(log) if entry["command"] in typed]
    found = {
        "row": name,
        "question": QUESTIONS[row.questions.split()[0]].text,
        "unit": QUESTIONS[row.questions.split()[0]].unit,
        "source": "run",
        "commands": typed,
        "seconds": round(sum(entry["seconds"] for entry in entries)),
        **{key: entries[-1][key] for key in ("commit", "date", "hardware", "versions")},
        "figures": READERS[row.reader](
            row, {seed: _read(row.file.format(out=out, seed=seed)) for seed in seeds or [None]}
        ),
    }
    # the next row may write over the files that the figures stand in
    write_whole(kept, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def _more(command: str, overrides: Sequence[str]) -> Sequence[str]:
    """What a command takes of the keys: one that asks a trained model takes none."""
    return [] if " evaluate " in command else overrides


def _run(argv: list[str], folder: Path) -> dict[str, Any]:
    """Runs a program in a folder with the project's code, and says what it took."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    start = time.perf_counter()
    process, code = subprocess.Popen([sys.executable, *argv[1:]], cwd=folder, env=environment), None
    while code is None:
        # Ctrl-C reaches the program too, which saves
        with contextlib.suppress(KeyboardInterrupt):
            code = process.wait()
    seconds = time.perf_counter() - start
    about = subprocess.check_output([sys.executable, "-c", MACHINE], cwd=ROOT, env=os.environ)
    today = datetime.date.today().isoformat()
    return {"date": today, "seconds": round(seconds, 1), "code": code, **json.loads(about)}


def _commit() -> str:
    """Of the code, with "+changes" where it has been changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    code = [*git, "status", "--porcelain", "rmat_jax", "benchmarks", "configs", "train.py"]
    return head + "+changes" * bool(subprocess.check_output(code))


def _copy(commit: str, out: Path) -> Path:
    """A folder with the project as it was at a commit."""
    folder = out / f"rmat_jax-{commit}"
    if not folder.exists():
        packed = subprocess.check_output(["git", "-C", str(ROOT), "archive", commit])
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(folder, filter="data")
    return folder


def _lines(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def _read(file: str | Path) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def of_ablation(row: Row, contents: Mapping[int, Any]) -> dict[str, dict]:
    """The figures of results.json, which has all seeds."""
    names = {
        "score": "score",
        "memory emptied": "score_without_memory",
        "parameters": "parameters",
        "tokens a second": "tokens_per_second",
        "bytes of state": "state_bytes",
    }
    runs = {(run["name"], run["seed"]): run for run in next(iter(contents.values()))}
    found = {
        ours: {str(seed): runs[row.variant, seed][theirs] for seed in contents}
        for ours, theirs in names.items()
    }
    # a model without memory has none to empty
    return {name: figure for name, figure in found.items() if by_seed(figure)}


def of_recall(row: Row, contents: Mapping[int, Any]) -> dict[str, dict]:
    """The figures of the suite `recall`, a report for each seed."""
    found: dict[str, dict] = {}
    for seed, report in contents.items():
        values = report["suites"]["recall"]
        for place, tokens in enumerate(values["context_tokens"]):
            for words, key in (
                ("", "with_memory"),
                (", memory emptied", "emptied_before_question"),
                (", all right", "all_right"),
            ):
                figure = found.setdefault(f"{tokens:,} tokens{words}", {})
                figure[str(seed)] = values["by_context"][key][place]["value"]
        if "keys" in values:
            # of the most keys that were told
            found.setdefault("keys held", {})[str(seed)] = values["keys"]["held"][-1]
        if "capacity" in values:
            many = values["capacity"]
            for tokens, held in zip(many["context_tokens"], many["held"], strict=True):
                found.setdefault(f"keys held, {tokens:,} tokens", {})[str(seed)] = held
    return found


def of_babi(row: Row, contents: Mapping[int, Any]) -> dict[str, dict]:
    """The figures of the suite `babi` with one task, a report for each seed."""
    found: dict[str, dict] = {}
    for seed, report in contents.items():
        (task,) = report["suites"]["babi"]["tasks"].values()
        for chunks, means in task["stretches"].items():
            for words, key in (("", "kept"), (", memory emptied", "emptied")):
                figure = found.setdefault(f"{chunks} chunks{words}", {})
                figure[str(seed)] = means[key]["value"]
    return found


def of_length(row: Row, contents: Mapping[int, Any]) -> dict[str, dict]:
    """What each reach of the suite `length` saves against the chunk alone."""
    found: dict[str, dict] = {}
    for seed, report in contents.items():
        values = report["suites"]["length"]
        alone, *others = values["bits_per_byte"]
        for tokens, bits in zip(values["reach_tokens"][1:], others, strict=True):
            found.setdefault(f"{tokens:,} tokens", {})[str(seed)] = alone - bits
        emptied = values["bits_per_byte_memory_emptied"]
        found.setdefault("memory emptied", {})[str(seed)] = alone - emptied
    return found


def of_bench(row: Row, contents: Mapping[None, Any]) -> dict[str, dict]:
    """The figures of `bench stream` or `bench train`."""
    found = {}
    for line in contents[None]["rows"]:
        of = line.get("ms") or line["tokens_per_second"]
        model, tokens = (
            line.get(x) or line[y] for x, y in (("peer", "model"), ("context", "tokens"))
        )
        name = f"{model}, {tokens:,} tokens"
        found[name] = {"median": of["median"], "quartiles": [of["q1"], of["q3"]]}
        if "state_bytes" in line:
            found[f"{name}: MB of state"] = {"median": line["state_bytes"] / 1e6}
    return found


READERS = {
    "ablation": of_ablation,
    "recall": of_recall,
    "babi": of_babi,
    "length": of_length,
    "bench": of_bench,
}


def mean(figure: Mapping[str, Any]) -> Mean:
    """Over seeds; of a published table that has no seeds, what it says."""
    values = np.array([*by_seed(figure).values()])
    if len(values):
        return Mean(float(values.mean()), error(values), len(values))
    seeds, deviation = figure.get("seeds", 0), figure.get("deviation", math.nan)
    value = figure.get("mean", figure.get("median", math.nan))
    return Mean(value, deviation / math.sqrt(seeds or math.nan), seeds)


def by_seed(figure: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): x for seed, x in figure.items() if seed.isdigit() and x is not None}


def difference(figure: Mapping[str, Any], base: Mapping[str, Any]) -> Mean | None:
    """To the base with the same seeds. What a published table says goes before: its figures by seed
    are rounded.
    """
    ours, theirs = by_seed(figure), by_seed(base)
    pairs = np.array([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
    if "difference" in figure:
        return Mean(*figure["difference"], figure.get("seeds", len(pairs)))
    return Mean(float(pairs.mean()), error(pairs), len(pairs)) if len(pairs) else None


def counts(found: Mean) -> str:
    """Whether it differs from 0, at 95 %, by Student's t for so few seeds."""
    if found.units < 2:
        return "one seed"
    bound = stats.t.ppf(0.975, found.units - 1) * found.error
    return "yes" if abs(found.value) > bound else "no"


def record(name: str | None) -> dict[str, Any]:
    """What was measured of a row; without figures where there is no record."""
    file = RECORDS / f"{name}.json"
    return _read(file) if name and file.exists() else {"figures": {}}


def of_question(key: str) -> str:
    """The table of a question: a line for each figure of each of its rows."""
    question, lines, spread = QUESTIONS[key], [], "±"
    form = f",.{question.decimals}f"
    for name, row in ROWS.items():
        found, base = record(name)["figures"], record(row.base)["figures"]
        for figure in found if key in row.questions.split() else ():
            if figure not in question.figures:
                continue
            value, less = mean(found[figure]), difference(found[figure], base.get(figure, {}))
            around = "" if math.isnan(value.error) else f"{value.error:{form}}"
            if "quartiles" in found[figure]:
                spread = "quartiles"
                around = " to ".join(f"{x:{form}}" for x in found[figure]["quartiles"])
            costs = {x: found.get(f"{figure}: {x}", found.get(x)) for x in question.costs}
            line = (
                ", ".join(filter(None, [row.label, question.figures[figure]])),
                f"{value.value:{form}}",
                around,
                value.units or "",
                "" if less is None else _signed(less, form),
                "" if less is None else counts(less),
                ", ".join(f"{_short(mean(x).value)} {cost}" for cost, x in costs.items() if x),
            )
            lines.append(line)
    head = ("variant", question.unit, spread, "seeds", "difference", "counts", "what it costs")
    return _without_empty(head, lines)


def of_seeds(names: str) -> str:
    """Every seed of some rows that a comparison has measured."""
    lines = []
    for name in names.split(","):
        row, found = ROWS[name], record(name)["figures"]
        less = difference(found["score"], record(row.base)["figures"].get("score", {}))
        others = ("memory emptied", "parameters", "tokens a second", "bytes of state")
        line = (
            row.label.rpartition(": ")[2],
            ", ".join(f"{x:.4f}" for x in by_seed(found["score"]).values()),
            f"{mean(found['score']).value:.4f}",
            "" if less is None else _signed(less, ".4f"),
            *(_short(mean(found[x]).value) if x in found else "" for x in others),
        )
        lines.append(line)
    return _without_empty(("variant", "by seed", "mean", "difference", *others), lines)


def of_distances(names: str) -> str:
    """Every seed of rows that were asked at several distances."""
    columns: dict[str, dict[str, str]] = {}
    for name in names.split(","):
        for figure, values in record(name)["figures"].items():
            tokens, of_tokens, words = figure.partition(" tokens")
            if not of_tokens:
                continue
            seeds = by_seed(values)
            between = values.get(
                "range", [min(seeds.values(), default=0), max(seeds.values(), default=0)]
            )
            text = ", ".join(f"{x:.3f}" for x in seeds.values())
            if words == ", memory emptied" and (seeds or "range" in values):
                text = " to ".join(f"{x:.3f}" for x in between)
            columns.setdefault(f"{ROWS[name].label}{words}", {})[tokens] = text
    rows = dict.fromkeys(tokens for column in columns.values() for tokens in column)
    lines = [(x, *(column.get(x, "") for column in columns.values())) for x in rows]
    return table(("tokens later", *columns), lines)


def _signed(less: Mean, form: str) -> str:
    return f"{less.value:+{form}}" + ("" if math.isnan(less.error) else f" ± {less.error:{form}}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.5g}"


def _without_empty(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table without the columns that have nothing in them."""
    kept = [place for place in range(len(head)) if any(line[place] != "" for line in lines)]
    return table([head[i] for i in kept], [[line[i] for i in kept] for line in lines])


TABLES = {"table": of_question, "seeds": of_seeds, "distances": of_distances}


def filled(page: str) -> str:
    """A page with its tables as the records have them."""
    return MARK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]](found[3])}\n\n{found[4]}", page)


def listed() -> str:
    """Every row with its commands and what they take."""
    parts = []
    for name, row in ROWS.items():
        where = f", at commit {row.commit}" if row.commit else ""
        lines = commands(row, row.seeds) or ["no command makes it anew"]
        about = f"{QUESTIONS[row.questions.split()[0]].text} {row.label}"
        parts.append("\n    ".join([f"{name}: {about}", f"{row.takes}{where}", *lines]))
    return "\n\n".join(parts)


def main() -> int:
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--row", metavar="NAME[,NAME]", help="the rows to make anew")
    flags.add_path(parser, "--out", "DIR", "the folder for the runs", required=False)
    text = "the seeds; without it those of the row"
    parser.add_argument("--seeds", type=flags.whole_numbers, metavar="N[,N]", help=text)
    text = "the folder of novels that some rows read (default %(default)s)"
    flags.add_path(parser, "--novels", "FOLDER", text, required=False, default=Path(NOVELS))
    text = "the folder of bAbI's files that some rows read (default %(default)s)"
    flags.add_path(parser, "--babi", "FOLDER", text, required=False, default=Path(BABI))
    parser.add_argument("--list", action="store_true", help="show the rows and their commands")
    parser.add_argument("--page", action="store_true", help="write the tables of the pages")
    args, overrides = parser.parse_known_args()
    if wrong := [word for word in overrides if not word.startswith("--config.")]:
        parser.error(f"unknown argument {wrong[0]!r}")
    names = args.row.split(",") if args.row else []
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"--row={unknown[0]} is not there; --list shows the rows")
    if names and not args.out:
        raise UserError("--row needs a folder for its runs; give --out=DIR")
    if not (names or args.list or args.page):
        raise UserError("nothing is asked for; give --row=NAME, --list or --page")
    if args.list:
        print(listed())
    for name in names:
        seeds, texts = args.seeds or ROWS[name].seeds, (args.novels, args.babi)
        kept = measure(name, args.out, seeds, texts, overrides)
        if not overrides:
            file = RECORDS / f"{name}.json"
            write_whole(file, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
            say(f"written: {file}")
    for page in sorted(PAGES.glob("*.md")) if args.page else []:
        before = page.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            write_whole(page, after)
            say(f"written: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(flags.run(main))
