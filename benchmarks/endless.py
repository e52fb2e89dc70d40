"""Resident memory and time a token while a trained model reads one endless document.

    python benchmarks/endless.py --workdir=runs/paper --tokens=1000000 --out=docs/streaming.png

The document is the source code of the Python standard library, file after file and again from the
start, written to one file. It is scored as `python -m rmat_jax score` does it. Prints resident
memory after the first 10,000 tokens and at the end, and the median time a token of the first and of
the last tenth. The machine's speed drifts by more than the difference that is looked for, so a
second stream reads the first tenth again while the other reads its last, call by call in turns.
Linux only: memory is read from /proc.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rmat_jax import infer
from rmat_jax.colours import BLUE, GREY, PURPLE
from rmat_jax.config import DataConfig
from rmat_jax.data.sources import make_source, read_blocks
from rmat_jax.drawing import dress, save, shared_legend, sheet
from rmat_jax.runs import load_run

# tokens after which memory is first looked at
WARM_UP = 10_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Rows(NamedTuple):
    """One row a call: tokens read so far, microseconds a token of this call, resident bytes after
    it.
    """

    # [n, 3] the stream
    whole: np.ndarray
    # [m, 3] the other one, which reads the first tenth while `whole` reads its last
    again: np.ndarray
    # a token
    bits: float


def measure(workdir: Path, tokens: int) -> Rows:
    model, params, tokenizer = load_run(workdir)
    whole, again = [], []
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "document"
        sources = make_source(DataConfig())
        with document.open("wb") as opened:
            for text in itertools.chain.from_iterable(sources.train() for _ in itertools.count()):
                opened.write(text)
                # more than any vocabulary puts into a token on average
                if opened.tell() > 8 * tokens:
                    break

        def stream(rows):
            with document.open("rb") as opened:
                pieces, before, start = (
                    map(tokenizer.encode, read_blocks(opened, 1 << 16)),
                    0,
                    time.perf_counter(),
                )
                for scored in infer.score(model, params, pieces, tokenizer.end):
                    seconds = time.perf_counter() - start
                    rows.append(
                        (scored.tokens, seconds / (scored.tokens - before) * 1e6, resident_bytes())
                    )
                    yield scored
                    before, start = scored.tokens, time.perf_counter()

        first, second = stream(whole), stream(again)
        # what it takes in memory is there from the beginning
        next(second)
        for scored in first:
            if scored.tokens >= tokens:
                break
            if scored.tokens >= 0.9 * tokens:
                next(second)
            if len(whole) % 200 == 0:
                print(f"  {scored.tokens:,} tokens", flush=True)
    return Rows(np.array(whole), np.array(again[1:]), scored.nats / scored.tokens / np.log(2))


def summary(rows: Rows) -> str:
    whole = rows.whole
    warm = whole[np.searchsorted(whole[:, 0], WARM_UP)]
    tenth = len(whole) // 10
    began, first, last = (np.median(x[:, 1]) for x in (whole[1:tenth], rows.again, whole[-tenth:]))
    return (
        f"{int(whole[-1, 0]):,} tokens, {rows.bits:.3f} bits a token\n"
        f"resident memory: {warm[2] / 2**20:.1f} MiB after {int(warm[0]):,} tokens, "
        f"{whole[-1, 2] / 2**20:.1f} MiB at the end "
        f"({whole[-1, 2] / warm[2] - 1:+.2%}), at most {whole[:, 2].max() / 2**20:.1f} MiB\n"
        f"median time a token: {last:.2f} us in the last tenth; the first tenth read in turns "
        f"with it {first:.2f} us "
        f"({last / first - 1:+.1%}), at the start of the run {began:.2f} us "
        f"({last / began - 1:+.1%})"
    )


def plot(rows: Rows, file: Path) -> None:
    figure = sheet(8.4, 3.4)
    memory, pace = figure.subplots(1, 2)
    for axes, title, unit in (
        (memory, "Resident memory", "MiB"),
        (pace, "Time a token", "microseconds"),
    ):
        dress(axes, title)
        axes.set(xlabel="million tokens read", ylabel=unit)
    tokens, micros, resident = rows.whole.T
    memory.plot(tokens / 1e6, resident / 2**20, color=BLUE)
    memory.set_ylim(0, 1.15 * resident.max() / 2**20)
    pace.plot(tokens[1:] / 1e6, micros[1:], ".", markersize=2, color=GREY, label="each call")
    parts = np.array_split(np.arange(1, len(tokens)), 50)
    middles, medians = (np.array([np.median(x[p]) for p in parts]) for x in (tokens, micros))
    pace.plot(middles / 1e6, medians, color=BLUE, label="median of neighbours")
    pace.plot(
        [0.9 * tokens[-1] / 1e6, tokens[-1] / 1e6],
        [np.median(rows.again[:, 1])] * 2,
        color=PURPLE,
        label="the first tenth, read in turns",
    )
    pace.set_ylim(0, 3 * np.median(micros))
    shared_legend(pace)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True, help="a PNG")
    args = parser.parse_args()
    rows = measure(args.workdir, args.tokens)
    print(summary(rows))
    plot(rows, args.out)


if __name__ == "__main__":
    main()
