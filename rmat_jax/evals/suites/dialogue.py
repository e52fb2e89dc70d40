"""Does a later turn of a long dialogue profit from the earlier ones, and from the memory of them?"""

from pathlib import Path

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.evals.answers import batches
from rmat_jax.evals.compared import verdict
from rmat_jax.evals.heldout import offset_bins
from rmat_jax.evals.inputs.dialogues import Placed, Turn, join, load
from rmat_jax.evals.suite import Options, Section, Subject, figure, say, table
from rmat_jax.evals.ways import ALONE, EMPTIED, KEPT, Costs, Next, costs, draw, head, lines, ways

# dialogues that are read side by side
ROWS = 8
# tokens of a long dialogue, at most
LENGTH = 8192
# of a TFDS set
RECORDS = 2000
# a group of fewer is not drawn
MIN_TURNS = 20


def check(subject: Subject, options: Options) -> None:
    """What can be told at once. Raises UserError."""
    _find(subject, options)


def dialogue(subject: Subject, options: Options, out: Path) -> Section:
    """Bits per byte of every utterance after all turns before it, by turn number.

    Raises:
        UserError: no dialogues in `options.dialogue`, or none whose first two turns
            `options.max_tokens` has room for.
    """
    sessions, joined = _find(subject, options)
    order = np.random.default_rng(options.seed).permutation(len(joined))[: options.examples]
    # those side by side end together
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
    late = found.at(numbers >= 16)
    texts = [
        f"{len(sessions):,} dialogues, neighbours joined with an empty line between them to {len(joined)} long ones of at most "
        f"{min(options.max_tokens, LENGTH):,} tokens and {max(map(len, joined))} turns. Counted is what the words of each turn "
        f"cost after the speaker's name: {len(turns):,} turns of {found.sizes.mean():.0f} bytes. {_conditions(subject)}",
        figure("Bits per byte by turn", "dialogue.png"),
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
    others = f"{found.rate(ALONE):.3f} on its own"
    if EMPTIED in found.bits:
        others = f"{found.rate(EMPTIED):.3f} with the memory emptied before it, {others}"
        texts.insert(0, verdict(found.saved(EMPTIED), "Memory", "bits per byte saved", "dialogues"))
    headline = (
        f"A turn of a long dialogue costs **{found.rate(KEPT):.3f} bits per byte**, {others}."
    )
    return Section("Dialogue", headline, "\n\n".join(texts), values)


def _find(subject: Subject, options: Options) -> tuple[list[list[Turn]], list[list[Placed]]]:
    """The dialogues, and the long ones that they make."""
    sessions, room = load(options.dialogue, RECORDS), min(options.max_tokens, LENGTH)
    joined = join(sessions, subject.tokenizer, room)
    if not joined:
        raise UserError(
            f"--dialogue={options.dialogue} has no dialogue whose first two turns take at most {room} tokens; give others, or "
            f"--max_tokens up to {LENGTH}"
        )
    return sessions, joined


def measure(subject: Subject, joined: list[list[Placed]]) -> Costs:
    """What every turn costs in each way, dialogue by dialogue."""
    engine = subject.engine(rows=ROWS)
    encode = subject.tokenizer.encode
    bits: list[list[dict[str, float]]] = [[] for _ in joined]
    done, total = 0, sum(map(len, joined))
    for group in batches(list(enumerate(joined)), ROWS):
        streams = {index: engine.open() for index, _ in group}
        for place in range(max(len(long) for _, long in group)):
            here = [(index, long[place]) for index, long in group if place < len(long)]
            asked = [
                Next(streams[index], encode(turn.lead()), encode(turn.text()))
                for index, turn in here
            ]
            for (index, _), cost, one in zip(here, costs(engine, asked), asked, strict=True):
                bits[index].append({way: of.total / np.log(2) for way, of in cost.items()})
                one.session.read(np.concatenate([one.lead, one.text]))
            done += len(here)
            if place % 10 == 0:
                say(f"dialogue: {done:,} of {total:,} turns")
    turns, flat = [turn for long in joined for turn in long], [of for long in bits for of in long]
    return Costs(
        {way: np.array([of[way] for of in flat]) for way in ways(engine)},
        np.array([len(turn.text()) for turn in turns]),
        np.repeat(np.arange(len(joined)), [len(long) for long in joined]),
    )


def _groups(found: Costs, bins: np.ndarray) -> dict[str, Costs]:
    """By powers of two: 1, 2-3, 4-7, ..."""
    names = {
        bin: f"{1 << bin}" if bin == 0 else f"{1 << bin}-{(2 << bin) - 1}"
        for bin in np.unique(bins).tolist()
    }
    groups = {name: found.at(bins == bin) for bin, name in names.items()}
    enough = {name: group for name, group in groups.items() if len(group.sizes) >= MIN_TURNS}
    return enough or groups


def _conditions(subject: Subject) -> str:
    if not subject.config.model.has_memory:
        return "This model has no memory: what is more than a chunk back, it does not know."
    return (
        "The memory is emptied before the speaker's name; the open chunk stays, which holds "
        f"{subject.config.model.chunk_len // 2} tokens on average. On its own, a turn stands at the beginning of a document. "
        "Standard errors are over long dialogues."
    )
