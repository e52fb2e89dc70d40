"""Recall beyond the queue's length: configs/recall.py with its gate, without it, and without the
memory.

    python benchmarks/recall.py --out=runs/recall --seeds=0,1,2

Trains every variant with every seed (a finished one is not trained again), asks each model also at
distances that it was not trained on, and prints the table of docs/recall.md.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from rmat_jax import flags
from rmat_jax.config import Config
from rmat_jax.data.recall import RecallLanes
from rmat_jax.train import loop
from rmat_jax.train.checkpoint import restore_params
from rmat_jax.train.heldout import evaluate_heldout

VARIANTS = {
    "gru": [],
    "slot": ["--config.model.memory.gate=slot"],
    "none": ["--config.model.memory.gate=none"],
    "none, within the queue": [
        "--config.model.memory.gate=none",
        "--config.data.recall_gap=1",
        "--config.chunks_per_step=3",
    ],
    "full and local": ["--config.model.branches=full,local"],
}
GAPS = (1, 4, 16, 64)


def accuracy(config: Config, params, gap: int) -> float:
    """Share of the questions that are answered right across `gap` chunks of noise."""
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, recall_gap=gap),
        chunks_per_step=gap + 2,
        accumulation=1,
    )
    lanes = RecallLanes(config, range(config.batch_size), "heldout", steps=16)
    return evaluate_heldout(config, params, lanes, None).accuracy


def main() -> None:
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=flags.whole_numbers, default="0,1,2")
    args = parser.parse_args()
    results = {}
    for seed in args.seeds:
        for name, overrides in VARIANTS.items():
            workdir = args.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            config = flags.load_config(
                "configs/recall.py",
                [*overrides, f"--config.seed={seed}", f"--config.data.seed={seed}"],
            )
            if code := loop.run(config, workdir):
                # stopped by a signal, and saved
                sys.exit(code)
            params, *_ = restore_params(workdir / "checkpoints")
            seconds = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])[
                "seconds"
            ]
            results[name, seed] = [accuracy(config, params, gap) for gap in GAPS] + [seconds]
    print(
        "| memory | trained across | "
        + " | ".join(f"asked across {gap}" for gap in GAPS)
        + " | seconds a run |"
    )
    print("|---|---|" + "---|" * (len(GAPS) + 1))
    for name, overrides in VARIANTS.items():
        rows = np.array([results[name, seed] for seed in args.seeds])
        cells = [" ".join(f"{value:.3f}" for value in column) for column in rows[:, :-1].T]
        trained = flags.load_config("configs/recall.py", overrides).data.recall_gap
        print(f"| {name} | {trained} chunks | {' | '.join(cells)} | {rows[:, -1].mean():.0f} |")


if __name__ == "__main__":
    sys.exit(flags.run(main))
