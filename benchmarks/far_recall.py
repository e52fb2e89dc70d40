"""Facts found again a million tokens later: a gate that can shut, trained on contexts of at most
4,096 tokens.

    python benchmarks/far_recall.py --out=runs/far_recall
    python benchmarks/far_recall.py --out=runs/far_queue --config.model.branches=full,memory \\
        --config.model.memory.gate=none
    python benchmarks/far_recall.py --out=runs/keys --stages=2,4 --max_tokens=4096 \\
        --config.data.recall_symbols=32 --config.data.recall_pairs=32 \\
        --config.model.vocab_size=72 --config.model.chunk_len=64 --config.model.memory.writes=16
    python benchmarks/far_recall.py --task=passkey --out=runs/passkey

Key-value pairs in any chunk, or a pass key anywhere in a novel, in stages, each begun with the
weights of the one before: documents of 8, 64 and 256 chunks, or of 2, 8, 32 and 128, the last of
them the question. Long ones alone ask too rarely for anything to be learned. Then the suite
`recall` up to 1,048,576 tokens, on documents of its own for each --seed: out/report/report.md. The
second command is the control; the third asks how many keys a memory holds. One CPU core: ten
minutes of training, 35 for the pass key; then the suite.
"""

import sys

from rmat_jax import flags
from rmat_jax.evals.evaluate import evaluate
from rmat_jax.evals.suite import Options
from rmat_jax.interop.convert import export_weights, import_weights
from rmat_jax.train import loop

# of each task, chunks of a document: lanes, steps, learning rate, and more settings
STAGES = {
    "recall": {
        2: (32, 600, 2e-3),
        4: (32, 300, 2e-3),
        8: (32, 600, 2e-3),
        64: (16, 150, 1e-3),
        256: (8, 150, 1e-3),
    },
    "passkey": {
        2: (64, 600, 2e-3),
        8: (32, 1200, 2e-3, "data.passkey_decoys=0.5"),
        32: (16, 300, 1e-3, "data.passkey_decoys=0.5", "data.recall_place=even"),
        128: (8, 200, 1e-3, "data.passkey_decoys=0.5", "data.recall_place=even"),
    },
}
DEFAULT = {"recall": [8, 64, 256], "passkey": [2, 8, 32, 128]}
CONFIG = {"recall": "configs/far_recall.py", "passkey": "configs/passkey.py"}


def main() -> int:
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--task", choices=STAGES, default="recall", help="what is asked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stages", type=flags.whole_numbers, metavar="N[,N]", help="chunks of a document"
    )
    parser.add_argument("--max_tokens", type=int, default=1 << 20)
    args, overrides = parser.parse_known_args()
    stages = args.stages or DEFAULT[args.task]
    if unknown := set(stages) - set(STAGES[args.task]):
        parser.error(
            f"--stages={unknown.pop()} has no setting; there is "
            f"{', '.join(map(str, STAGES[args.task]))}"
        )
    before, options = None, Options(max_tokens=args.max_tokens, seed=args.seed)
    for number, chunks in enumerate(stages, 1):
        lanes, steps, learning_rate, *more = STAGES[args.task][chunks]
        workdir = args.out / "-".join(["stage", *map(str, stages[:number])])
        config = flags.load_config(
            CONFIG[args.task],
            [
                f"--config.data.recall_gap={chunks - 2}",
                f"--config.chunks_per_step={chunks}",
                f"--config.batch_size={lanes}",
                f"--config.steps={steps}",
                f"--config.optim.learning_rate={learning_rate}",
                "--config.optim.warmup_steps=20",
                "--config.log.eval_every=0",
                f"--config.seed={args.seed}",
                f"--config.data.seed={args.seed}",
                *(f"--config.{setting}" for setting in more),
                *overrides,
            ],
        )
        if before is not None and not any(
            step.name.isdigit() for step in (workdir / "checkpoints").glob("*")
        ):
            weights = args.out / f"{workdir.name}.safetensors"
            export_weights(before, weights, None)
            import_weights(workdir, weights, config)
        if code := loop.run(config, workdir):
            # stopped by a signal, and saved
            return code
        before = workdir
    print(evaluate(before, ("recall",), args.out / "report", options).read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(flags.run(main))
