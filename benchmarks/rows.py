"""The rows of docs/results.md and of its neighbours: the questions, and what measures each row.

    python benchmarks/results.py --list

A row names its question, its label, its commands and the figures that these leave. In a command
{out} stands for --out, {novels} for --novels, {babi} for --babi, {seeds} for all seeds; a command
with {seed} runs once for each. `benchmarks/results.py` runs the commands, keeps the record and
writes the tables.
"""

from typing import NamedTuple

# of the model's code, not of its results
VERSION_1 = "3a94fb7"


class Row(NamedTuple):
    """A model, or a way to train it, that is measured."""

    # keys of QUESTIONS, in whose tables it stands
    questions: str
    label: str
    commands: tuple[str, ...]
    # the files that the commands write, and who reads them: `benchmarks/results.py`, READERS
    file: str
    reader: str
    # time and hardware
    takes: str
    seeds: tuple[int, ...] = (0, 1, 2)
    # the row that it is compared with, seed by seed
    base: str | None = None
    # for the reader: the name of the variant
    variant: str = "base"
    # the commands are of this commit's code; "": of today's
    commit: str = ""


class Question(NamedTuple):
    """A heading of docs/results.md, with the table below it."""

    text: str
    # figures of a row, each with the words that its line adds to the label
    figures: dict[str, str]
    unit: str
    # of the unit
    decimals: int = 4
    # figures that say what a row costs
    costs: tuple[str, ...] = ()


SPEED = ("tokens a second", "bytes of state")
SCORE = {"score": ""}
MILLION, LONGEST = "1,048,576 tokens", "33,554,432 tokens"
QUESTIONS = {
    "memory": Question("Is the memory worth its place on text?", SCORE, "bits per byte", 4, SPEED),
    "reach": Question(
        "How far back does the state help?",
        {
            f"{tokens:,} tokens": f"{tokens:,} tokens"
            for tokens in (64, 128, 256, 512, 1024, 2048, 4096, 8192)
        }
        | {"memory emptied": "all, but the memory emptied"},
        "bits per byte saved",
    ),
    "slots": Question(
        "How many slots are worth their time on text?", SCORE, "bits per byte", 4, SPEED
    ),
    "parts": Question(
        "Do the gate and the local branch gain anything on text?", SCORE, "bits per byte", 4, SPEED
    ),
    "others": Question(
        "Is it better than a Transformer-XL, or than full attention?",
        SCORE,
        "bits per byte",
        4,
        SPEED,
    ),
    "paper": Question(
        "Is the paper's own arrangement as good on text?",
        SCORE,
        "bits per byte",
        4,
        ("parameters", "tokens a second"),
    ),
    "options": Question(
        "Which ways to train for the memory earn their place?", SCORE, "bits per byte"
    ),
    "sooner": Question(
        "Which of them teach recall sooner?", {"steps": ""}, "steps to a loss below 1 nat", 0
    ),
    "facts": Question(
        "Is a fact found a million tokens later?",
        {name: f"{name} later" for name in ("1,024 tokens", MILLION, LONGEST)},
        "share of answers right",
        3,
    ),
    "passkey": Question(
        "Is a pass key found in a novel, a million tokens later?",
        {name: f"{name} later" for name in ("128 tokens", MILLION)},
        "share of digits right",
        3,
    ),
    "babi": Question(
        "Are bAbI's questions answered after long text?",
        {
            f"{chunks} chunks{words}": f"{chunks} chunks of novels between the facts{words}"
            for chunks in (0, 8, 64)
            for words in ("", ", memory emptied")
        },
        "share of answers right",
        3,
    ),
    "keys": Question(
        "How many keys does a memory hold?",
        {"keys held": ""},
        "keys held, of 32 told",
        1,
    ),
    "stream": Question(
        "Does a token cost the same after a long text?",
        {
            f"{model}, {context:,} tokens": f"{model}, after {context:,} tokens"
            for model in ("RMAT", "full attention", "GPT-2, static cache")
            for context in (512, 16384)
        },
        "ms a token",
        2,
        ("MB of state",),
    ),
    "training": Question(
        "Does it train fast?",
        {
            f"{model}, {tokens:,} tokens": f"{words}, steps of {tokens:,} tokens"
            for model, words in {
                "ours": "RMAT",
                "full attention": "the same code, full attention",
                "Transformer-XL": "the same code, Transformer-XL",
                "Recurrent Memory Transformer": "Recurrent Memory Transformer",
                "Block-Recurrent Transformer": "Block-Recurrent Transformer",
                "Memorizing Transformer": "Memorizing Transformer",
                "GPT-2": "GPT-2",
            }.items()
            for tokens in (2048, 16384)
        },
        "tokens a second",
        0,
    ),
    "versions": Question(
        "Is version 2 as fast as version 1?",
        {
            f"{what}, {which}": f"{what}, {which}"
            for what in ("train step", "reading a prompt", "writing a token")
            for which in ("the queue", "the hybrid", "the paper's")
        },
        "speed of version 2 by that of version 1",
        3,
    ),
}


def ablated(
    questions: str,
    label: str,
    config: str,
    variant: str = "base",
    flags: str = "",
    takes: str = "1 to 3 minutes a run on one core",
    folder: str = "",
    **more,
) -> Row:
    """A variant of a config, which `ablate` trains beside its base.

    Args:
        questions: as of a Row.
        label: as of a Row.
        config: the name of the base.
        variant: its name in the comparison.
        flags: that the command has besides; "": the name among --variants.
        takes: as of a Row.
        folder: under --out; "": the config's name.
        **more: fields of the Row.
    """
    out = f"{{out}}/{folder or config}"
    named = "" if variant == "base" else variant
    flags = flags if "--variant=" in flags else f'--variants="{named}" {flags}'.strip()
    command = f"python -m rmat_jax ablate --config=configs/{config}.py --out={out}"
    return Row(
        questions,
        label,
        (f"{command} --seeds={{seeds}} {flags}",),
        f"{out}/results.json",
        "ablation",
        takes,
        variant=variant,
        **more,
    )


def asked(
    questions: str,
    label: str,
    name: str,
    takes: str,
    config: str,
    stages: int,
    flags: str = "",
    max_tokens: int = 1 << 20,
    **more,
) -> Row:
    """A model that is trained in stages, and asked for facts.

    Args:
        questions: as of a Row.
        label: as of a Row.
        name: of its folders under --out.
        takes: as of a Row.
        config: the name of a config with stages.
        stages: how many it has.
        flags: that the training has besides.
        max_tokens: of the longest context.
        **more: fields of the Row.
    """
    out = f"{{out}}/{name}-{{seed}}"
    train = (
        f"python train.py --config=configs/{config}.py --workdir={out} --config.seed={{seed}} "
        f"--config.data.seed={{seed}} {flags}"
    )
    ask = (
        f"python -m rmat_jax evaluate --workdir={out}/stage-{stages} --suite=recall "
        f"--max_tokens={max_tokens} --seed={{seed}} --out={out}/report"
    )
    commands = (train.strip(), ask)
    return Row(questions, label, commands, f"{out}/report/report.json", "recall", takes, **more)


def reaching(label: str, config: str, takes: str, flags: str = "", **more) -> Row:
    """A model that is trained, and asked how far back it looks.

    Args:
        label: as of a Row.
        config: its name.
        takes: as of a Row.
        flags: that the training has besides.
        **more: fields of the Row.
    """
    out = f"{{out}}/{config}-reach-{{seed}}"
    train = (
        f"python train.py --config=configs/{config}.py --workdir={out} --config.seed={{seed}} "
        f"--config.data.seed={{seed}} {flags}"
    )
    ask = f"python -m rmat_jax evaluate --workdir={out} --suite=length --out={out}/report"
    commands = (train.strip(), ask)
    return Row("reach", label, commands, f"{out}/report/report.json", "length", takes, **more)


def asked_then(questions: str, label: str, name: str, flags: str, takes: str, **more) -> Row:
    """The same with version 1, where a program did both."""
    out = f"{{out}}/{name}-{{seed}}"
    command = f"python benchmarks/far_recall.py --out={out} --seed={{seed}} {flags}".strip()
    return Row(questions, label, (command,), f"{out}/report/report.json", "recall", takes, **more)


QUICK = {"config": "quickstart", "seeds": (0, 1, 2, 3, 4)}
CODE = QUICK | {"base": "quickstart"}
NOVELS = "--config.data.path={novels}"
BOOKS = {"config": "novels", "flags": NOVELS, "takes": "7 to 40 minutes a run on one core"}
OLD = {"commit": VERSION_1}
OLD_BOOKS = BOOKS | OLD | {"folder": "v1-novels", "base": "v1-novels"}
OLD_CODE = OLD | {"folder": "v1-quickstart", "config": "quickstart", "base": "v1-quickstart"}
OLD_SHORT = (
    OLD
    | {"folder": "v1-segments", "config": "segments", "base": "v1-segments"}
    | {"takes": "4 to 9 minutes a run on one core"}
)
OLD_150 = {
    "folder": "v1-segments-150",
    "flags": "--config.model.chunk_len=150 --config.model.memory_slots=300 "
    "--config.chunks_per_step=2",
}
# switches of an experiment, which today's code does not have: benchmarks/README.md has the commands
TRIED = {"commands": (), "file": "", "reader": "", "commit": "f0b9312", "seeds": (0, 1, 2, 3, 4)}
WAYS = {
    "entry-gate": "the gate sees the new entry alone",
    "branch-drop": "a quarter of the lanes without the full branch, a quarter without the local "
    "one",
    "random-reach": "half of the lanes see fewer tokens, a random number",
}
SHORT_RUN = "2 minutes a run on one core"
OLD_PAPER = OLD | {
    "folder": "v1-paper",
    "config": "paper",
    "takes": "2 to 5 minutes a run on one core",
}
OLD_WORDS = (
    OLD
    | {"config": "wikitext2", "folder": "v1-wikitext2", "seeds": (0,)}
    | {
        "flags": "--config.data.path={out}/wiki.train.tokens "
        "--config.data.heldout_path={out}/wiki.test.tokens",
        "takes": "5 minutes a run on one H200, with the files wiki.*.tokens in --out",
    }
)
OLD_KEYS = (
    "--config.model.gate_scope=channel --stages=2,4 --max_tokens=4096 "
    "--config.data.recall_symbols=32 --config.data.recall_pairs=32 --config.model.vocab_size=72 "
    "--config.model.chunk_len=64 --config.model.window_len=32 --config.model.memory_slots={0} "
    "--config.model.memory_writes={0}"
)
OLD_FAR = "10 minutes of training and 9 of questions a seed on one core"
OLD_KEY = "34 minutes of training and 13 of questions a seed on one core"
ALONE = (
    "--config.model.streams=full,memory --config.model.window=block --config.model.window_len=32"
)

ROWS = {
    # source code as bytes
    "quickstart": ablated(
        "memory slots parts others paper options", "source code: the hybrid", **QUICK
    ),
    "quickstart-memory-off": ablated(
        "memory", "source code: no memory", variant="memory off", **CODE
    ),
    "quickstart-slots-64": ablated(
        "slots", "source code: slots for one chunk", variant="memory.slots=64", **CODE
    ),
    "quickstart-slots-256": ablated(
        "slots", "source code: slots for four chunks", variant="memory.slots=256", **CODE
    ),
    "quickstart-queue": ablated(
        "parts", "source code: no gate, no local branch", variant="queue", **CODE
    ),
    "quickstart-no-local": ablated(
        "parts", "source code: no local branch", variant="no local branch", **CODE
    ),
    "quickstart-no-gate": ablated(
        "parts", "source code: no gate", variant="memory.gate=none", **CODE
    ),
    "quickstart-transformer-xl": ablated(
        "others", "source code: Transformer-XL, W = 128", variant="transformer-xl", **CODE
    ),
    "quickstart-paper": ablated("paper", "source code: the paper's", variant="paper", **CODE),
    "v1-quickstart": ablated(
        "memory parts others", "source code, version 1: the queue", **OLD_CODE | {"base": None}
    ),
    "v1-quickstart-memory-off": ablated(
        "memory", "source code, version 1: no memory", variant="memory off", **OLD_CODE
    ),
    "v1-quickstart-gate": ablated(
        "parts",
        "source code, version 1: the queue with a gate",
        variant="gate=evicted",
        **OLD_CODE | {"folder": "v1-parts"},
    ),
    "v1-quickstart-transformer-xl": ablated(
        "others", "source code, version 1: Transformer-XL", variant="transformer-xl", **OLD_CODE
    ),
    "quickstart-reach": reaching(
        "source code", "quickstart", "3 minutes a seed on one core", seeds=(0, 1, 2, 3, 4)
    ),
    "novels-reach": reaching("novels", "novels", "40 minutes a seed on one core", NOVELS),
    # ways to train
    "recall-base": Row("sooner", "the hybrid", takes=SHORT_RUN, **TRIED),
    **{
        f"{task}-{name}": Row(question, label, takes=SHORT_RUN, base=base, **TRIED)
        for task, question, base in (
            ("options", "options", "quickstart"),
            ("recall", "sooner", "recall-base"),
        )
        for name, label in WAYS.items()
    },
    # whole novels
    "novels": ablated("parts", "novels: the hybrid", **BOOKS),
    "novels-queue": ablated(
        "parts", "novels: no gate, no local branch", variant="queue", base="novels", **BOOKS
    ),
    "v1-novels": ablated(
        "memory others", "novels, version 1: the queue", **OLD_BOOKS | {"base": None}
    ),
    "v1-novels-memory-off": ablated(
        "memory", "novels, version 1: no memory", variant="memory off", **OLD_BOOKS
    ),
    "v1-novels-transformer-xl": ablated(
        "others",
        "novels, version 1: Transformer-XL, W = 512",
        variant="transformer-xl",
        **OLD_BOOKS,
    ),
    "v1-novels-full": ablated(
        "others",
        "novels, version 1: full attention over 1,024 tokens",
        variant="full attention",
        **OLD_BOOKS,
    ),
    # short chunks
    "v1-segments": ablated(
        "memory parts others", "chunks of 50, version 1: the queue", **OLD_SHORT | {"base": None}
    ),
    "v1-segments-memory-off": ablated(
        "memory", "chunks of 50, version 1: no memory", variant="memory off", **OLD_SHORT
    ),
    "v1-segments-gated": ablated(
        "parts",
        "chunks of 50, version 1: the queue with a gate",
        variant="gated",
        **OLD_SHORT | {"flags": '--variant="gated: model.gate=evicted model.gate_bias=2.2"'},
    ),
    "v1-segments-transformer-xl": ablated(
        "others",
        "chunks of 50, version 1: Transformer-XL, W = 150",
        variant="transformer-xl",
        **OLD_SHORT,
    ),
    "v1-segments-150": ablated(
        "memory", "chunks of 150, version 1: the queue", **OLD_SHORT | OLD_150 | {"base": None}
    ),
    "v1-segments-150-memory-off": ablated(
        "memory",
        "chunks of 150, version 1: no memory",
        variant="memory off",
        **OLD_SHORT | OLD_150 | {"base": "v1-segments-150"},
    ),
    # words
    "v1-wikitext2": ablated("memory", "WikiText-2, version 1: the queue", **OLD_WORDS),
    "v1-wikitext2-memory-off": ablated(
        "memory",
        "WikiText-2, version 1: no memory",
        variant="memory off",
        base="v1-wikitext2",
        **OLD_WORDS,
    ),
    # the paper's arrangement by itself
    "v1-paper": ablated("paper", "source code, version 1: the paper's", **OLD_PAPER),
    "v1-paper-memory-off": ablated(
        "paper",
        "source code, version 1: the paper's without memory",
        variant="memory off",
        base="v1-paper",
        **OLD_PAPER,
    ),
    # facts told long ago
    "far": asked(
        "facts",
        "the hybrid",
        "far",
        "6 minutes of training and 25 of questions a seed on one core",
        "far_recall",
        3,
        max_tokens=1 << 25,
        seeds=(0, 1, 2, 3, 4),
    ),
    "far-queue": asked(
        "facts",
        "no gate, no local branch",
        "far-queue",
        "6 minutes of training a seed on one core",
        "far_recall",
        3,
        "--config.model.branches=full,memory --config.model.memory.gate=none",
        max_tokens=1 << 12,
        base="far",
    ),
    "far-entry-gate": Row(
        "facts",
        WAYS["entry-gate"],
        takes="6 minutes of training and 10 of questions a seed on one core",
        base="far",
        **TRIED | {"seeds": (0,)},
    ),
    "v1-far": asked_then(
        "facts", "version 1: the paper's, a gate a slot", "v1-far", "", OLD_FAR, **OLD
    ),
    "v1-far-channel": asked_then(
        "facts",
        "version 1: the paper's, a gate a channel",
        "v1-far-channel",
        "--config.model.gate_scope=channel",
        OLD_FAR,
        base="v1-far",
        **OLD,
    ),
    "passkey": asked(
        "passkey",
        "the hybrid",
        "passkey",
        "52 minutes of training and 13 of questions a seed on one core",
        "passkey",
        4,
        NOVELS,
        seeds=(3, 4, 5, 6),
    ),
    "babi-qa1": Row(
        "babi",
        "QA1",
        (
            "python benchmarks/babi.py --babi={babi} --text={novels} --out={out}/babi-{seed} "
            "--tasks=1 --config.seed={seed}",
        ),
        "{out}/babi-{seed}/report/report.json",
        "babi",
        "58 minutes of training and 14 of questions a seed on one core with other work beside",
    ),
    "v1-passkey": asked_then(
        "passkey",
        "version 1",
        "v1-passkey",
        f"--task=passkey {NOVELS}",
        OLD_KEY,
        seeds=(3, 4, 5, 6),
        base="passkey",
        **OLD,
    ),
    "v1-passkey-alone": asked_then(
        "passkey",
        "version 1: no local branch",
        "v1-passkey-alone",
        f"--task=passkey {NOVELS} {ALONE}",
        OLD_KEY,
        seeds=(4, 5),
        base="v1-passkey",
        **OLD,
    ),
    **{
        f"v1-keys-{slots}": asked_then(
            "keys",
            f"version 1: {slots} slots",
            f"v1-keys-{slots}",
            OLD_KEYS.format(slots),
            "10 minutes a seed on one core",
            **OLD,
        )
        for slots in (4, 8, 16, 32)
    },
    # time
    "stream": Row(
        "stream",
        "",
        ("python -m rmat_jax bench stream --json={out}/stream.json",),
        "{out}/stream.json",
        "bench",
        "two cores with nothing beside",
        seeds=(),
    ),
    "training": Row(
        "training",
        "",
        (
            "python -m rmat_jax bench train --json={out}/training.json --lengths=2048,16384 "
            "--lanes=1 --rounds=3",
        ),
        "{out}/training.json",
        "bench",
        "two cores with nothing beside",
        seeds=(),
    ),
    "versions": Row("versions", "", (), "", "", "two checkouts in turn", seeds=()),
}
