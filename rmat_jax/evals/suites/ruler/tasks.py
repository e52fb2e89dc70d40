"""Makes the samples of `ruler` at each length, or reads them from RULER's files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.evals.records import json_records, record_files
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.ruler.counts import common_words, frequent_words, variables
from rmat_jax.evals.suites.ruler.needles import NEEDLES
from rmat_jax.evals.suites.ruler.stock import Sample, Stock

TASKS = {
    **{name: task.make for name, task in NEEDLES.items()},
    "vt": variables,
    "cwe": common_words,
    "fwe": frequent_words,
}
# the tokens of the shortest prompts, and how many times as long the next ones are
SHORTEST, FACTOR = 1024, 4
# the fewest samples of a task at a length
FEWEST = 8
# the subsets of a published task, which are names of its files
SUBSETS = ("validation", "test")
EXAMPLE = '{"input": "...", "outputs": ["..."], "length": 4096}'


def lengths(options: Options) -> list[int]:
    """Returns the lengths of prompts: SHORTEST, each next one FACTOR times as long, the most.

    Raises:
        UserError: there is no such length.
    """
    if options.max_tokens < SHORTEST:
        raise UserError(
            f"max_tokens={options.max_tokens} must be at least {SHORTEST} for `ruler`; "
            "give a larger one"
        )
    found = [SHORTEST]
    while found[-1] < options.max_tokens:
        found.append(min(found[-1] * FACTOR, options.max_tokens))
    return found


def made(stock: Stock, options: Options) -> Iterator[Sample]:
    """Yields the samples of every task at every length, if one fits.

    Longer lengths have fewer samples, so that all lengths cost the same.
    """
    for number, (name, make) in enumerate(TASKS.items()):
        for length in lengths(options):
            count = options.examples * SHORTEST // length
            for index in range(
                int(np.clip(count, min(FEWEST, options.examples), options.examples))
            ):
                # A prompt does not depend on the other prompts.
                rng = np.random.default_rng([options.seed, number, length, index])
                sample = make(stock, name, length, rng)
                if sample:
                    yield sample


def read(path: str, options: Options) -> list[Sample]:
    """Returns the samples of RULER's files, at most `options.examples` of a task at a length.

    A folder is as RULER writes it, such as `4096/data/niah_single_1/validation.jsonl`. The task is
    the name of the file or of its folder. The length is the name of a folder, or the largest
    `length` of a record.

    Raises:
        UserError: there is no such file, a record is not RULER's, or all prompts are too long.
    """
    root, found, shortest = Path(path).expanduser(), {}, []
    for file in record_files(root) if root.is_dir() else [root]:
        inner = file.relative_to(root) if root.is_dir() else Path(file.name)
        parts = inner.parts[:-1]
        name = inner.name.partition(".")[0]
        task = parts[-1] if name in SUBSETS and parts else name
        flag = f"ruler={path!r}" + (f", {inner}" if root.is_dir() else "")
        records = list(json_records(flag, file, "prompts", EXAMPLE))
        named = [int(part) for part in parts if part.isdecimal()]
        length = named[-1] if named else max((_length(*record) for record in records), default=0)
        shortest.append(length)
        if length <= options.max_tokens:
            samples = [_sample(where, record, task, length) for where, record in records]
            found.setdefault((task, length), []).extend(samples)
    if not any(found.values()):
        least = f"; the shortest prompts have {min(shortest):,} tokens" if any(shortest) else ""
        raise UserError(
            f"ruler={path!r} has no prompt of max_tokens={options.max_tokens} or less{least}; "
            f"give RULER's files, with records like {EXAMPLE}, or a larger --max_tokens"
        )
    rng = np.random.default_rng(options.seed)
    return [
        samples[at]
        for _, samples in sorted(found.items())
        for at in sorted(rng.permutation(len(samples))[: options.examples].tolist())
    ]


def _length(where: str, record: Any) -> int:
    length = record.get("length") if isinstance(record, dict) else None
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise UserError(
            f"{where} has no length, and no folder of its file names one; give records "
            f"like {EXAMPLE}"
        )
    return length


def _sample(where: str, record: Any, task: str, length: int) -> Sample:
    fields = record if isinstance(record, dict) else {}
    prompt, outputs = fields.get("input"), fields.get("outputs")
    outputs = [outputs] if isinstance(outputs, str) else outputs
    prefix = fields.get("answer_prefix") or ""
    texts = [prompt, prefix, *outputs] if isinstance(outputs, list) and outputs else [None]
    if not all(isinstance(text, str) for text in texts) or not all(map(str.strip, outputs)):
        raise UserError(f"{where}: a record must have the texts input and outputs: {EXAMPLE}")
    # JSON can hold half a surrogate pair, which is no text
    prompt, prefix, *outputs = (text.encode(errors="replace").decode() for text in texts)
    # trailing white space is dropped, since a space follows every question
    context, line, question = (prompt.rstrip() + prefix).rstrip().rpartition("\n")
    if not line or not context.strip() or not question.strip():
        raise UserError(
            f"{where}: the question must stand in the last line of input, behind the context; "
            "make the files without remove_newline_tab"
        )
    return Sample(task, length, context, question, tuple(outputs))
