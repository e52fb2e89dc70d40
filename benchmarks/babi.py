"""bAbI's questions after long text: trains on stretched stories, asks over up to a million tokens.

    python benchmarks/babi.py --babi=tasks_1-20_v1-2/en-10k --text=100_english_novels/corpus \\
        --out=runs/babi
    python benchmarks/babi.py --babi=tasks_1-20_v1-2/en-10k --text=100_english_novels/corpus \\
        --out=runs/babi-1 --tasks=1,2 --max_tokens=1048576 --config.seed=1

Writes the stories of the training files, with other text between their facts as the suite `babi`
has it, trains configs/babi.py on them, stage after stage, and asks the questions of the test files:
out/report/report.md. A story's questions stand where they stand in its file, each with its answer,
the earlier ones in half of the cases. The last tenth of the other text is kept for the questions.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rmat_jax import commands, flags
from rmat_jax.config import DataConfig
from rmat_jax.data.sources import make_source
from rmat_jax.errors import UserError
from rmat_jax.evals.passages import mixed, sentences
from rmat_jax.evals.suites.babi.stories import Question, read_stories
from rmat_jax.files import make_folder
from rmat_jax.progress import say

# of each stage: bytes of other text in a story, at most, and stories
STAGES = ((0, 40_000), (1_000, 12_000), (4_000, 3_000), (20_000, 1_000))
FILE = "qa{}_*_train.txt"


def main() -> int:
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--babi", type=Path, required=True, help="the folder of bAbI's files")
    parser.add_argument("--text", type=Path, required=True, help="what stands between the facts")
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--tasks", type=flags.whole_numbers, default="1,2,4,5")
    parser.add_argument("--max_tokens", type=int, default=1 << 20)
    parser.add_argument("--examples", type=int, default=100, help="questions of a task and stretch")
    args, overrides = parser.parse_known_args()
    write_stories(args.babi, args.text, args.out, args.tasks)
    config = [f"--config.data.path={args.out / 'stories'}", *overrides]
    if code := commands.main(
        ["train", "--config=configs/babi.py", f"--workdir={args.out / 'run'}", *config]
    ):
        # stopped by a signal, and saved
        return code
    last = sorted(args.out.glob("run/stage-*"))[-1]
    return commands.main(
        [
            "evaluate",
            f"--workdir={last}",
            "--suite=babi",
            f"--babi={args.out / 'test'}",
            f"--text={args.out / 'other.txt'}",
            f"--max_tokens={args.max_tokens}",
            f"--examples={args.examples}",
            f"--out={args.out / 'report'}",
        ]
    )


def write_stories(babi: Path, text: Path, out: Path, tasks: Sequence[int]) -> None:
    """Writes stories/N.jsonl of each stage N, test/ with the test files, and other.txt."""
    source = make_source(DataConfig(path=str(text), heldout_fraction=0.1))
    make_folder(out)
    (out / "other.txt").write_bytes(b"\n".join(source.heldout()))
    other = sentences(source.train())
    stories = [story for task in tasks for story in _stories(_file(babi, FILE.format(task)))]
    for task in tasks:
        test = _file(babi, FILE.format(task).replace("train", "test"))
        make_folder(out / "test")
        (out / "test" / test.name).write_bytes(test.read_bytes())
    make_folder(out / "stories")
    for number, (size, count) in enumerate(STAGES, 1):
        rng = np.random.default_rng(number)
        with open(out / "stories" / f"{number}.jsonl", "w", encoding="utf-8") as file:
            for index in rng.integers(len(stories), size=count):
                segments = _segments(
                    stories[index], _passage(other, rng.integers(size + 1), rng), rng
                )
                file.write(json.dumps({"segments": segments}) + "\n")
        say(f"{file.name}: {count:,} stories with up to {size:,} bytes of other text")


def _file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise UserError(f"--babi={folder} has no file {pattern}; give bAbI's folder")
    return found[0]


def _stories(file: Path) -> Iterator[list[Question]]:
    """The questions of each story."""
    story: list[Question] = []
    for question in read_stories(file):
        if story and question.story != story[0].story:
            yield story
            story = []
        story.append(question)
    yield story


def _passage(other: Sequence[bytes], size: int, rng: np.random.Generator) -> list[bytes]:
    """Sentences that follow each other, of about so many bytes."""
    place, found = int(rng.integers(len(other))), []
    while size > 0:
        found.append(other[place % len(other)])
        size, place = size - len(found[-1]), place + 1
    return found


def _segments(
    story: Sequence[Question], passage: Sequence[bytes], rng: np.random.Generator
) -> list[dict[str, object]]:
    """The facts in the passage, and the questions behind the facts that they ask for."""
    facts = story[-1].facts
    lines = mixed([f"{fact}\n".encode() for fact in facts], passage, rng)
    asked = {len(q.facts): q for q in story if q is story[-1] or rng.integers(2)}
    told, text, segments = 0, b"", []
    names = {f"{fact}\n".encode() for fact in facts}
    for line in lines:
        text += line
        if line in names:
            told += 1
            question = asked.get(told) if told < len(facts) else None
            if question:
                segments += _asked(text, question)
                text = b""
    return [*segments, *_asked(text, story[-1])]


def _asked(text: bytes, question: Question) -> list[dict[str, object]]:
    before = text.decode(errors="replace") + question.text
    return [{"text": before, "label": False}, {"text": f" {question.answer}\n", "label": True}]


if __name__ == "__main__":
    sys.exit(flags.run(main))
