"""Resident memory and time a token while a trained model reads one endless document.

    python benchmarks/endless.py --workdir=runs/quickstart --tokens=1000000 --out=docs/streaming.png

The document is the source code of the Python standard library, file after file and again from the start, written to one file.
It is scored as `python -m rmat_jax score` does it. Prints resident memory after the first 10,000 tokens and at the end, and the
median time a token in the first and in the last tenth. Linux only: memory is read from /proc.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from rmat_jax import infer
from rmat_jax.checkpoint import restore_params
from rmat_jax.config import Config, DataConfig, from_dict
from rmat_jax.data.sources import make_source, read_blocks
from rmat_jax.data.tokenizer import load_tokenizer
from rmat_jax.model import RMAT

WARM_UP = 10_000  # tokens after which memory is first looked at


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(workdir: Path, tokens: int) -> np.ndarray:
    """[n, 4]: after each call, the tokens read, seconds since the start, resident bytes, nats so far."""
    params, values, _ = restore_params(workdir / "checkpoints")
    config = from_dict(Config, values)
    tokenizer = load_tokenizer(config, workdir / "tokenizer")
    rows = []
    with tempfile.TemporaryFile() as document:
        sources = make_source(DataConfig())
        for text in itertools.chain.from_iterable(sources.train() for _ in itertools.count()):
            document.write(text)
            if document.tell() > 8 * tokens:  # more than any vocabulary puts into a token on average
                break
        document.seek(0)
        pieces = map(tokenizer.encode, read_blocks(document, 1 << 16))
        start = time.perf_counter()
        for scored in infer.score(RMAT(config.model), params, pieces, tokenizer.end):
            rows.append((scored.tokens, time.perf_counter() - start, resident_bytes(), scored.nats))
            if scored.tokens >= tokens:
                break
            if len(rows) % 200 == 0:
                print(f"  {scored.tokens:,} tokens", flush=True)
    return np.array(rows)


def summary(rows: np.ndarray) -> str:
    warm = rows[np.searchsorted(rows[:, 0], WARM_UP)]
    micros = np.diff(rows[:, 1]) / np.diff(rows[:, 0]) * 1e6
    tenth = len(micros) // 10
    first, last = np.median(micros[:tenth]), np.median(micros[-tenth:])
    peak = rows[:, 2].max()
    return (
        f"{int(rows[-1, 0]):,} tokens in {rows[-1, 1]:.0f} s, {rows[-1, 3] / rows[-1, 0] / np.log(2):.3f} bits a token\n"
        f"resident memory: {warm[2] / 2**20:.1f} MiB after {int(warm[0]):,} tokens, {rows[-1, 2] / 2**20:.1f} MiB at the end "
        f"({rows[-1, 2] / warm[2] - 1:+.2%}), at most {peak / 2**20:.1f} MiB\n"
        f"median time a token: {first:.2f} us in the first tenth, {last:.2f} us in the last ({last / first - 1:+.1%})"
    )


def plot(rows: np.ndarray, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    memory, pace = figure.subplots(1, 2)
    memory.plot(rows[:, 0] / 1e6, rows[:, 2] / 2**20, color="#0072B2")
    memory.set(
        title="Resident memory", xlabel="million tokens read", ylabel="MiB", ylim=(0, 1.15 * rows[:, 2].max() / 2**20)
    )
    micros = np.diff(rows[:, 1]) / np.diff(rows[:, 0]) * 1e6
    pace.plot(rows[1:, 0] / 1e6, micros, ".", markersize=2, color="#A0A0A0", label="each call")
    width = max(1, len(micros) // 50)
    medians = [np.median(part) for part in np.array_split(micros, len(micros) // width)]
    places = [np.median(part) for part in np.array_split(rows[1:, 0] / 1e6, len(micros) // width)]
    pace.plot(places, medians, color="#0072B2", label="median of neighbours")
    pace.set(title="Time a token", xlabel="million tokens read", ylabel="microseconds", ylim=(0, 3 * np.median(micros)))
    pace.legend(frameon=False)
    for axes in (memory, pace):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True, help="a PNG")
    args = parser.parse_args()
    rows = measure(args.workdir, args.tokens)
    print(summary(rows))
    plot(rows, args.out)


if __name__ == "__main__":
    main()
