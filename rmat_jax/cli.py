"""The commands of `python -m rmat_jax`: each parses its flags and calls one plain function.

Heavy imports stand inside the commands: help and typos answer at once.
"""

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path

from rmat_jax import flags
from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError

GENERATE = """Goes on with a text.

    python -m rmat_jax generate --workdir=runs/quickstart --prompt="def main("
    cat story.txt | python -m rmat_jax generate --workdir=runs/mine --prompt=- --max_new_tokens=500 --temperature=0.7
    python -m rmat_jax generate --workdir=runs/mine --session=ann.safetensors --prompt="Ann: Hello." --stop="Ann:"
"""
SCORE = """What texts of any length cost a trained model, in bits per byte, at constant memory. Each file is a document.

    python -m rmat_jax score --workdir=runs/quickstart story.txt another.txt
    zcat log.gz | python -m rmat_jax score --workdir=runs/mine -
"""
EVALUATE = """Measures a trained model and writes one report with plots, report.md, and every number, report.json.

    python -m rmat_jax evaluate --workdir=runs/quickstart --suite=position --out=runs/quickstart
    python -m rmat_jax evaluate --workdir=runs/mine --suite=position,length,recall --text=novels/ --max_tokens=262144 --out=report
    python -m rmat_jax evaluate --workdir=runs/mine --suite=babi,qa --babi=tasks/ --qa=questions.jsonl --out=report

docs/evaluation.md says what each suite measures: position, length, recall, babi, qa, summary, dialogue, code.
"""
INSPECT = """What a model does with its memory while it reads one text of any length: fusion weights, gates, how long entries
stay, which slots are read, and the text itself, coloured by what memory changed. Writes inspect.md, figures and text.html.

    python -m rmat_jax inspect --workdir=runs/quickstart --text=my_program.py --out=runs/quickstart/my_program
"""
EXPORT = """Writes the weights of the newest checkpoint to a safetensors file, with config and tokenizer.

    python -m rmat_jax export --workdir=runs/quickstart --file=quickstart.safetensors --dtype=bfloat16
"""
IMPORT = """Begins a run with the weights of a safetensors file; generate works at once, train.py goes on with the same config.

    python -m rmat_jax import --workdir=runs/mine --file=quickstart.safetensors
    python -m rmat_jax import --workdir=runs/mine --file=from_pytorch.safetensors --config=configs/quickstart.py
"""
CROSSCHECK = """Does JAX compute what PyTorch computes? The exit code is 1 if something is beyond its tolerance.

    python -m rmat_jax crosscheck --out=crosscheck.json                       a small model with random weights
    python -m rmat_jax crosscheck --workdir=runs/quickstart --dtype=float64   a trained one
    python -m rmat_jax crosscheck --torch=my_package.my_port:factory          your own port: see docs/crosscheck.md
    python -m rmat_jax crosscheck --dump=golden.safetensors                   all results of JAX, in one file
    python -m rmat_jax crosscheck --against=golden.safetensors                the same on another machine or version
    python -m rmat_jax crosscheck --against=golden.safetensors --framework=torch
"""
BENCH = """Times models with random weights. `stream`: a token, and bytes of state, against what was read before; beside a
transformer that attends to all of it (the same code), and GPT-2 where Hugging Face transformers is installed.

    python -m rmat_jax bench stream --json=stream.json --plot=stream.png
    python -m rmat_jax bench stream --json=large.json --config=configs/enwik8.py --contexts=1024,8192 --profile
    taskset -c 0 python -m rmat_jax bench stream --json=one_core.json
"""
PLAN = """What a training step would take on accelerators that you do not have: memory, FLOPs, bytes exchanged.

    python -m rmat_jax plan --config=configs/pg19_1b.py --topology=v5e:16x16 --json=plan.json
    python -m rmat_jax plan --config=configs/pg19_1b.py --topology=v5p:4x4x4 --config.mesh.fsdp=64 --config.mesh.tensor=1 --advise
    python -m rmat_jax plan --config=configs/pg19_150m.py --topology=gpu:h100:16

TPU slices (v4, v5e, v5p, v6e): the real train step is compiled for them, which takes minutes and
`pip install "jax[tpu]"`, but no TPU. GPUs (a100-40, a100-80, h100, h200, b200): arithmetic, marked so.
Any key of the config can be set. Where the step does not fit, what would fit is tried and shown.
"""
ABLATE = """Trains many variants of one config with several seeds and compares them: same tokens, optimiser and parameters.

    python -m rmat_jax ablate --config=configs/quickstart.py --out=runs/ablation --seeds=0,1,2
    python -m rmat_jax ablate --config=configs/quickstart.py --out=runs/baselines --variants=baselines --config.data.path=books/
    python -m rmat_jax ablate --config=configs/recall.py --out=runs/gate --variants=queue --vary="model.gate_bias=-4;-2;0"
    python -m rmat_jax ablate --config=configs/quickstart.py --out=runs/mine --variant="deep: model.num_layers=6"

Stopped (Ctrl-C), it goes on where it was when the same command is given again; what was finished under --out is not
trained again by another command either. Variants: each option that the base uses changed alone (grid; the default without
--variant and --vary), the models that one would compare with (baselines), or names out of these, separated by commas.
"""


def main(argv: list[str] | None = None) -> int:
    parser = flags.Parser(prog="python -m rmat_jax", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=flags.Parser
    )

    generate = commands.add_parser("generate", help="go on with a text", description=GENERATE)
    generate.set_defaults(function=_generate)
    generate.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run"
    )
    generate.add_argument("--prompt", metavar="TEXT", help="- reads standard input, of any length")
    generate.add_argument(
        "--session",
        type=flags.folder,
        metavar="FILE",
        help="goes on where the last call with it stopped",
    )
    generate.add_argument(
        "--max_new_tokens", type=int, default=256, metavar="N", help="default %(default)s"
    )
    generate.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: greedy; default %(default)s"
    )
    generate.add_argument(
        "--top_k", type=int, default=0, metavar="K", help="of the K likeliest; 0: of all (default)"
    )
    generate.add_argument(
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help="of the likeliest P; default %(default)s",
    )
    generate.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same text"
    )
    generate.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="the text ends before it; may be given several times",
    )

    score = commands.add_parser(
        "score", help="bits per byte of texts of any length", description=SCORE
    )
    score.set_defaults(function=_score)
    score.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run"
    )
    score.add_argument("files", nargs="+", metavar="FILE", help="- reads standard input")

    evaluate = commands.add_parser("evaluate", help="measure and report", description=EVALUATE)
    evaluate.set_defaults(function=_evaluate)
    evaluate.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run"
    )
    evaluate.add_argument(
        "--suite", default="position", metavar="NAME[,NAME]", help="default %(default)s"
    )
    evaluate.add_argument(
        "--out",
        required=True,
        type=flags.folder,
        metavar="DIR",
        help="gets report.md and its plots",
    )
    evaluate.add_argument(
        "--text",
        metavar="PATH",
        help="a file or folder of long texts for length and recall; default: held-out ones",
    )
    evaluate.add_argument(
        "--max_tokens", type=int, metavar="N", help="of context, at most; default 65536"
    )
    evaluate.add_argument(
        "--examples", type=int, metavar="N", help="of a suite or a cell, at most; default 100"
    )
    evaluate.add_argument("--seed", type=int, metavar="N", help="of what is drawn; default 0")
    for name, what in {
        "babi": "a folder of bAbI files",
        "qa": "questions on documents, a file of JSON lines or tfds:NAME",
        "summary": "documents and summaries, a file of JSON lines or tfds:NAME",
        "dialogue": "a file or folder of dialogues, or tfds:NAME",
    }.items():
        evaluate.add_argument(f"--{name}", metavar="PATH", help=what)

    inspect = commands.add_parser(
        "inspect", help="what the memory does with one text, as plots", description=INSPECT
    )
    inspect.set_defaults(function=_inspect)
    inspect.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run"
    )
    inspect.add_argument(
        "--text", required=True, type=flags.folder, metavar="FILE", help="is read as one document"
    )
    inspect.add_argument(
        "--out",
        required=True,
        type=flags.folder,
        metavar="DIR",
        help="gets inspect.md and its plots",
    )

    export = commands.add_parser("export", help="write the weights to a file", description=EXPORT)
    export.set_defaults(function=_export)
    export.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="of a training run"
    )
    export.add_argument(
        "--file",
        required=True,
        type=flags.folder,
        metavar="FILE",
        help="is replaced if it is there",
    )
    export.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: that of the parameters"
    )

    load = commands.add_parser(
        "import", help="begin a run with the weights of a file", description=IMPORT
    )
    load.set_defaults(function=_import)
    load.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="without a checkpoint"
    )
    load.add_argument(
        "--file", required=True, type=flags.folder, metavar="FILE", help="safetensors"
    )
    load.add_argument(
        "--config",
        metavar="FILE",
        help="of configs/, where the file has no config or training shall differ",
    )

    crosscheck = commands.add_parser(
        "crosscheck", help="JAX against PyTorch, or a dump", description=CROSSCHECK
    )
    crosscheck.set_defaults(function=_crosscheck)
    crosscheck.add_argument(
        "--out", type=flags.folder, metavar="FILE", help="gets every comparison, as JSON"
    )
    crosscheck.add_argument(
        "--workdir", type=flags.folder, metavar="DIR", help="of a training run: its newest weights"
    )
    crosscheck.add_argument(
        "--config", metavar="FILE", help="of configs/: its model with random weights"
    )
    crosscheck.add_argument(
        "--seed", type=int, metavar="N", help="of weights and inputs; default 0"
    )
    crosscheck.add_argument("--steps", type=int, metavar="N", help="of the optimiser; default 10")
    crosscheck.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="default %(default)s"
    )
    crosscheck.add_argument(
        "--precision",
        choices=("highest", "default"),
        default="highest",
        help="of JAX's matrix products; default %(default)s",
    )
    crosscheck.add_argument(
        "--torch", metavar="MODULE:FUNCTION", help="a port to check instead of the reference"
    )
    modes = crosscheck.add_mutually_exclusive_group()
    modes.add_argument(
        "--dump", type=flags.folder, metavar="FILE", help="write JAX's float64 results there"
    )
    modes.add_argument("--against", type=flags.folder, metavar="FILE", help="replay a dump")
    crosscheck.add_argument(
        "--framework", choices=("jax", "torch"), help="that replays the dump; default jax"
    )

    bench = commands.add_parser("bench", help="time and memory of a token", description=BENCH)
    bench.set_defaults(function=_bench, argv=argv)
    bench.add_argument("name", metavar="NAME", help="stream")
    bench.add_argument(
        "--json", required=True, type=flags.folder, metavar="FILE", help="gets every number"
    )
    bench.add_argument(
        "--plot", type=flags.folder, metavar="FILE", help="a figure, PNG, SVG or PDF"
    )
    bench.add_argument(
        "--config", metavar="FILE", help="of configs/: its model; default: that of no config"
    )
    bench.add_argument(
        "--contexts", metavar="N[,N]", help="tokens; default 512,1024,4096,8192,16384"
    )
    bench.add_argument("--tokens", type=int, metavar="N", help="timed at once; default 64")
    bench.add_argument(
        "--rounds", type=int, metavar="N", help="of all models and contexts; default 15"
    )
    bench.add_argument(
        "--profile", action="store_true", help="where the time of one of our tokens goes"
    )

    plan = commands.add_parser(
        "plan", help="memory, FLOPs and traffic on accelerators not there", description=PLAN
    )
    plan.set_defaults(function=_plan)
    plan.add_argument("--config", required=True, metavar="FILE", help="of configs/, or your own")
    plan.add_argument(
        "--topology", required=True, metavar="NAME", help="v5e:16x16, v5p:4x4x4, gpu:h100:8, ..."
    )
    plan.add_argument(
        "--advise", action="store_true", help="also what would take less, where it fits"
    )
    plan.add_argument("--json", type=flags.folder, metavar="FILE", help="gets every number")

    ablate = commands.add_parser(
        "ablate", help="train variants and compare them", description=ABLATE
    )
    ablate.set_defaults(function=_ablate, argv=argv)
    ablate.add_argument(
        "--config", required=True, metavar="FILE", help="the base, of configs/ or your own"
    )
    ablate.add_argument(
        "--out",
        required=True,
        type=flags.folder,
        metavar="DIR",
        help="gets runs, report.md, figures",
    )
    ablate.add_argument(
        "--variants", metavar="NAME[,NAME]", help="default grid, or with --variant or --vary none"
    )
    ablate.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME: KEY=VALUE ...",
        help="one of your own",
    )
    ablate.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE;VALUE",
        help="a variant for each value",
    )
    ablate.add_argument(
        "--seeds",
        type=flags.whole_numbers,
        default="0",
        metavar="N[,N]",
        help="default %(default)s",
    )
    ablate.add_argument(
        "--parameters",
        choices=("equal", "free"),
        default="equal",
        help="equal: the MLPs' width makes up for what a variant lacks (default)",
    )
    ablate.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time, which share the cores"
    )
    ablate.add_argument("--list", action="store_true", help="show the variants and train nothing")

    args, overrides = parser.parse_known_args(argv)
    if overrides and args.command not in ("plan", "ablate"):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    args.overrides = overrides
    args.own = [
        name for name in vars(args) if name not in ("command", "function", "argv", "overrides")
    ]
    return args.function(args)


def _check_files(*files: Path | None) -> None:
    """Files that will be written, after much work."""
    for file in filter(None, files):
        if not file.absolute().parent.is_dir():
            raise UserError(
                f"{file} cannot be written: there is no folder {file.parent}; make it first"
            )
        if file.is_dir():
            raise UserError(f"{file} cannot be written: it is a folder; give a file in it")


def _generate(args: argparse.Namespace) -> int:
    from rmat_jax import infer

    rules = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop")
    return infer.generate(
        args.workdir,
        flags.stdin() if args.prompt == "-" else args.prompt,
        args.session,
        flags.stdout().buffer,
        **{name: getattr(args, name) for name in rules},
    )


def _score(args: argparse.Namespace) -> int:
    from rmat_jax import infer

    if "-" in args.files:
        flags.stdin()
    infer.score_files(args.workdir, args.files, flags.stdout())
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from rmat_jax.evals.evaluate import evaluate
    from rmat_jax.evals.suite import Options

    names = [field.name for field in dataclasses.fields(Options)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    report = evaluate(args.workdir, tuple(args.suite.split(",")), args.out, Options(**given))
    print(report.read_text().partition("\n## ")[0].strip())
    print(f"\nwritten: {report}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from rmat_jax.evals.look.look import inspect

    report = inspect(args.workdir, args.text, args.out)
    print(report.read_text().partition("\n## ")[0].strip())
    print(f"\nwritten: {report}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from rmat_jax.interop.convert import export_weights

    print(f"written: {export_weights(args.workdir, args.file, args.dtype)}")
    return 0


def _import(args: argparse.Namespace) -> int:
    config = flags.load_config(args.config) if args.config else None
    from rmat_jax.interop.convert import import_weights

    print(f"made: {import_weights(args.workdir, args.file, config)}")
    return 0


def _crosscheck(args: argparse.Namespace) -> int:
    from rmat_jax.interop import crosscheck

    made = {name: getattr(args, name) for name in ("workdir", "config", "seed", "steps")}
    given = [f"--{name}" for name, value in made.items() if value is not None]
    if args.against and given:
        raise UserError(
            f"{' and '.join(given)} cannot go with --against: the dump holds the model and its inputs"
        )
    if args.framework and not args.against:
        raise UserError(
            "--framework goes with --against=FILE; a comparison of both needs no such flag"
        )
    if args.torch and (args.dump or args.framework == "jax"):
        raise UserError(
            "--torch names a port to be checked; it cannot go with --dump or --framework=jax"
        )
    _check_files(args.out, args.dump)
    if args.against:
        framework = args.framework or ("torch" if args.torch else "jax")
        report = crosscheck.replay(args.against, args.dtype, framework, args.torch, args.precision)
    else:
        if args.config:
            made["config"] = flags.load_config(args.config)
        case = crosscheck.load_case(
            **{name: value for name, value in made.items() if value is not None}
        )
        if args.dump:
            crosscheck.dump(case, args.dump)
            print(f"written: {args.dump}, {args.dump.stat().st_size:,} bytes")
            return 0
        report = crosscheck.crosscheck(case, args.dtype, args.torch, args.precision)
    print(report.text())
    if args.out:
        args.out.write_text(report.json())
        print(f"written: {args.out}")
    return 0 if report.passed else 1


def _bench(args: argparse.Namespace) -> int:
    if args.name != "stream":
        raise UserError(f"there is no benchmark {args.name!r}; the one there is: stream")
    _check_files(args.json, args.plot)
    if args.plot and args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot={args.plot} must end in .png, .svg or .pdf")
    config = flags.load_config(args.config).model if args.config else RMATConfig()
    from rmat_jax.bench.plot import plot
    from rmat_jax.bench.stream import parse_contexts, stream

    given = {
        name: getattr(args, name)
        for name in ("tokens", "rounds")
        if getattr(args, name) is not None
    }
    if args.contexts is not None:
        given["contexts"] = parse_contexts(args.contexts)
    command = shlex.join(
        ["python", "-m", "rmat_jax", *(sys.argv[1:] if args.argv is None else args.argv)]
    )
    report = stream(config, **given, profiled=args.profile, command=command)
    print(report.text())
    args.json.write_text(report.json())
    print(f"\nwritten: {args.json}")
    if args.plot:
        plot(report, args.plot)
        print(f"written: {args.plot}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    _check_files(args.json)
    config = flags.load_config(args.config, args.overrides, args.own)
    # Read when JAX is imported. Accelerators that are there are not touched, and programs for those
    # that are not cannot be taken from the cache (jax 0.10.2).
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    from rmat_jax.plan import plan

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    report = plan(config, args.topology, advise=args.advise, progress=progress)
    print(report.text())
    if args.json:
        args.json.write_text(report.json())
        print(f"written: {args.json}")
    return 0


def _ablate(args: argparse.Namespace) -> int:
    config = flags.load_config(args.config, args.overrides, args.own)
    from rmat_jax import ablate

    names = (
        ("" if args.variant or args.vary else "grid") if args.variants is None else args.variants
    )
    variants = ablate.named(config, names)
    for text in args.vary:
        variants += ablate.parse_vary(text)
    variants += map(ablate.parse_variant, args.variant)
    if args.list:
        print("\n".join(f"{variant.name:24s} {variant}" for variant in variants))
        return 0
    command = shlex.join(
        ["python", "-m", "rmat_jax", *(sys.argv[1:] if args.argv is None else args.argv)]
    )
    equal = args.parameters == "equal"
    code = ablate.ablate(
        config, args.out, variants, args.seeds, equal=equal, jobs=args.jobs, command=command
    )
    print(f"written: {args.out / 'report.md'}")
    return code
