"""The section of `dialogue`: bits per byte of every turn, by its number."""

from pathlib import Path

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, Condition, conditions, verdict
from rmat_jax.evals.continuations import ROWS, Costs, Next, costs, draw, groups_of, head, lines
from rmat_jax.evals.suite import Options, Section, Subject, figure, say, table
from rmat_jax.evals.suites.dialogue.dialogues import Placed, Turn, join, load
from rmat_jax.train.heldout import offset_bins

# the most tokens of a long dialogue
LENGTH = 8192
# the most records of a TFDS set that are read
RECORDS = 2000
# a group of fewer turns is not drawn
MIN_TURNS = 20


def check(subject: Subject, options: Options) -> None:
    """Raises UserError if anything is wrong with `options.dialogue`."""
    _find(subject, options)


def dialogue(subject: Subject, options: Options, out: Path) -> Section:
    """Measures every turn of long dialogues. Returns the section; its figure is in `out`.

    Raises:
        UserError: `options.dialogue` has no dialogues, or none whose first two turns fit into
            `options.max_tokens`.
    """
    sessions, joined = _find(subject, options)
    order = np.random.default_rng(options.seed).permutation(len(joined))[: options.examples]
    # sorted by length, so that dialogues of a group end together
    joined = sorted((joined[index] for index in order), key=len)
    turns = [placed for long in joined for placed in long]
    found = measure(subject, joined)
    numbers = np.concatenate([np.arange(1, len(long) + 1) for long in joined])
    inside = np.array([placed.number for placed in turns])

    by_turn = _groups(found, offset_bins(numbers) - 1)
    by_place = _groups(found, offset_bins(inside) - 1)
    draw(
        out / "dialogue.png",
        "What a turn costs, by its number in the long dialogue",
        "turn of the long dialogue",
        by_turn,
    )
    few = len(turns) - sum(len(group.sizes) for group in by_turn.values())
    left_out = f"{few} turns of groups with fewer than {MIN_TURNS} are in no group."
    late = found.at(numbers >= 16)
    texts = [
        f"{len(sessions):,} dialogues, neighbours joined with an empty line between them to "
        f"{len(joined)} long ones of at most {min(options.max_tokens, LENGTH):,} tokens and "
        f"{max(map(len, joined))} turns. The cost of a turn is that of its words after the "
        f"speaker's name. There are {len(turns):,} turns of {found.sizes.mean():.0f} bytes. "
        f"{_conditions(subject)}",
        figure("Bits per byte by turn", "dialogue.png"),
        *[left_out] * bool(few),
        table(head("turn", found.bits), lines({"all": found} | by_turn)),
        "By the turn's number in the dialogue that it was joined from:",
        table(head("turn", found.bits), lines(by_place)),
    ]
    values = {
        "dialogues": len(joined),
        "joined_from": sum(long[-1].session for long in joined),
        "all": found.numbers(),
        "by_turn": {name: group.numbers() for name, group in by_turn.items()},
        "by_turn_of_its_own": {name: group.numbers() for name, group in by_place.items()},
        "from_turn_16": late.numbers() if len(late.sizes) else None,
    }
    rivals = f"{found.rate(ALONE):.3f} on its own"
    if EMPTIED in found.bits:
        rivals = f"{found.rate(EMPTIED):.3f} with the memory emptied before it, {rivals}"
        texts.insert(0, verdict(found.saved(EMPTIED), "Memory", "bits per byte saved", "dialogues"))
    headline = (
        f"A turn of a long dialogue costs **{found.rate(KEPT):.3f} bits per byte**, {rivals}."
    )
    return Section("Dialogue", headline, "\n\n".join(texts), values)


def _find(subject: Subject, options: Options) -> tuple[list[list[Turn]], list[list[Placed]]]:
    """Returns the dialogues, and the long ones that they are joined to."""
    sessions, room = load(options.dialogue, RECORDS), min(options.max_tokens, LENGTH)
    joined = join(sessions, subject.tokenizer, room)
    if not joined:
        raise UserError(
            f"--dialogue={options.dialogue} has no dialogue whose first two turns take at most "
            f"{room} tokens; give others, or --max_tokens up to {LENGTH}"
        )
    return sessions, joined


def measure(subject: Subject, joined: list[list[Placed]]) -> Costs:
    """Returns what every turn costs under each condition, dialogue by dialogue."""
    engine = subject.engine(rows=ROWS)
    encode = subject.tokenizer.encode
    bits: list[list[dict[Condition, float]]] = [[] for _ in joined]
    done, total = 0, sum(map(len, joined))
    for group in groups_of(ROWS, list(enumerate(joined))):
        streams = {index: engine.open() for index, _ in group}
        for place in range(max(len(long) for _, long in group)):
            here = [(index, long[place]) for index, long in group if place < len(long)]
            asked = [
                Next(streams[index], encode(turn.lead()), encode(turn.text()))
                for index, turn in here
            ]
            for (index, _), cost, one in zip(here, costs(engine, asked), asked, strict=True):
                bits[index].append({way: paid.total / np.log(2) for way, paid in cost.items()})
                one.session.read(np.concatenate([one.lead, one.text]))
            done += len(here)
            if place % 10 == 0:
                say(f"dialogue: {done:,} of {total:,} turns")
    turns, flat = [turn for long in joined for turn in long], [of for long in bits for of in long]
    ways = conditions(bool(engine.model.config.memory))
    return Costs(
        {condition: np.array([of[condition] for of in flat]) for condition in ways},
        np.array([len(turn.text()) for turn in turns]),
        np.repeat(np.arange(len(joined)), [len(long) for long in joined]),
    )


def _groups(found: Costs, bins: np.ndarray) -> dict[str, Costs]:
    """Returns the costs by power of two: 1, 2-3, 4-7, ..., without groups of too few turns."""
    names = {
        bin: f"{1 << bin}" if bin == 0 else f"{1 << bin}-{(2 << bin) - 1}"
        for bin in np.unique(bins).tolist()
    }
    groups = {name: found.at(bins == bin) for bin, name in names.items()}
    enough = {name: group for name, group in groups.items() if len(group.sizes) >= MIN_TURNS}
    return enough or groups


def _conditions(subject: Subject) -> str:
    if not subject.config.model.memory:
        return "This model has no memory, so it knows nothing that is more than a chunk back."
    return (
        "The memory is emptied before the speaker's name. The open chunk stays, which holds "
        f"{subject.config.model.chunk_len // 2} tokens on average. On its own, a turn stands at "
        "the beginning of a document. Standard errors are over long dialogues."
    )
