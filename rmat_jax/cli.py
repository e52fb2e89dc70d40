"""The commands of `python -m rmat_jax`: each parses its flags and calls one plain function.

Heavy imports stand inside the commands: help and typos answer at once.
"""

import argparse
import sys
import time

from rmat_jax import flags
from rmat_jax.config import Config, UserError, from_dict

GENERATE = """Goes on with a text.

    python -m rmat_jax generate --workdir=runs/quickstart --prompt="def main("
    cat story.txt | python -m rmat_jax generate --workdir=runs/mine --prompt=- --max_new_tokens=500 --temperature=0.7
"""
EVALUATE = """Measures a trained model on its held-out text and writes a report with plots.

    python -m rmat_jax evaluate --workdir=runs/quickstart --suite=position --out=runs/quickstart
"""


def main(argv: list[str] | None = None) -> int:
    parser = flags.Parser(prog="python -m rmat_jax", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=flags.Parser)

    generate = commands.add_parser("generate", help="go on with a text", description=GENERATE)
    generate.set_defaults(function=_generate)
    generate.add_argument("--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run")
    generate.add_argument("--prompt", required=True, metavar="TEXT", help="- reads standard input")
    generate.add_argument("--max_new_tokens", type=int, default=256, metavar="N", help="default %(default)s")
    generate.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: greedy; default %(default)s")
    generate.add_argument("--top_k", type=int, default=0, metavar="K", help="of the K likeliest; 0: of all (default)")
    generate.add_argument(
        "--top_p", type=float, default=1.0, metavar="P", help="of the likeliest P; default %(default)s"
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text")

    evaluate = commands.add_parser("evaluate", help="measure and report", description=EVALUATE)
    evaluate.set_defaults(function=_evaluate)
    evaluate.add_argument("--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run")
    evaluate.add_argument("--suite", default="position", metavar="NAME[,NAME]", help="default %(default)s")
    evaluate.add_argument("--out", required=True, type=flags.folder, metavar="DIR", help="gets report.md and its plots")

    args = parser.parse_args(argv)
    return args.function(args)


def _generate(args: argparse.Namespace) -> int:
    prompt = sys.stdin.buffer.read() if args.prompt == "-" else args.prompt.encode("utf-8", "surrogateescape")
    if not prompt:
        raise UserError("the prompt is empty; give --prompt=TEXT, or --prompt=- and text on standard input")
    import numpy as np

    from rmat_jax import infer
    from rmat_jax.checkpoint import restore_params
    from rmat_jax.data.tokenizer import load_tokenizer
    from rmat_jax.model import RMAT

    params, values, step = restore_params(args.workdir / "checkpoints")
    config = from_dict(Config, values)
    tokenizer = load_tokenizer(config, args.workdir / "tokenizer")
    tokens = np.concatenate([[tokenizer.end], tokenizer.encode(prompt)])
    start = time.perf_counter()
    new = infer.generate(
        RMAT(config.model),
        params,
        tokens,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        end=tokenizer.end,
    )
    seconds = time.perf_counter() - start
    sys.stdout.buffer.write(tokenizer.decode(new) + b"\n")
    sys.stdout.flush()
    ended = ", the end of the document" if len(new) < args.max_new_tokens else ""
    print(f"[step {step}: read {len(tokens)} tokens, wrote {len(new)}{ended}, {seconds:.1f} s]", file=sys.stderr)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from rmat_jax.evals.evaluate import evaluate

    report = evaluate(args.workdir, tuple(args.suite.split(",")), args.out)
    print(report.read_text().partition("\n## ")[0].strip())
    print(f"\nwritten: {report}")
    return 0
