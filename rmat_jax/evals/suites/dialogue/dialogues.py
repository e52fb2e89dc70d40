"""Reads the dialogues of `dialogue` from files or TFDS, and joins them to long ones."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.inputs import tfds_records
from rmat_jax.evals.records import json_records

EXAMPLE = '{"turns": [{"speaker": "USER", "utterance": "Hello."}, ...]}'
# the names of QMSum and ShareGPT besides our own
TURNS = ("turns", "meeting_transcripts", "messages", "conversations", "dialogue", "conversation")
SPEAKERS, UTTERANCES = ("speaker", "role", "from"), ("utterance", "content", "text", "value")


class Turn(NamedTuple):
    """What one speaker says at once."""

    speaker: str
    utterance: str


class Placed(NamedTuple):
    """A turn in a long dialogue."""

    turn: Turn
    # the number of its dialogue among those that were joined, from 1
    session: int
    # its number in that dialogue, from 1
    number: int

    def lead(self) -> bytes:
        """Returns the speaker's name, after an empty line if another dialogue has just ended."""
        return b"\n" * (self.number == 1 and self.session > 1) + self.turn.speaker.encode() + b":"

    def text(self) -> bytes:
        """Returns the utterance, to the end of its line."""
        return b" " + self.turn.utterance.encode() + b"\n"


def load(value: str, limit: int) -> list[list[Turn]]:
    """Returns all dialogues of two turns or more.

    Args:
        value: a file of JSON (a list of dialogues) or of JSON lines, a folder of them, or
            tfds:NAME, tfds:NAME@SPLIT.
        limit: the most records of TFDS that are read.

    Raises:
        UserError: there is no file, or it holds no dialogues.
    """
    flag = f"dialogue={value!r}"
    if value.startswith("tfds:"):
        records = tfds_records(flag, value, lambda count: range(min(limit, count)))
    else:
        records = json_records(flag, Path(value).expanduser(), "dialogues", EXAMPLE)
    dialogues = [parse(record, where) for where, record in records]
    dialogues = [dialogue for dialogue in dialogues if len(dialogue) > 1]
    if not dialogues:
        raise UserError(f"{flag} has no dialogue of two turns or more; give records like {EXAMPLE}")
    return dialogues


def join(
    dialogues: Iterable[Sequence[Turn]], tokenizer: Tokenizer, length: int
) -> list[list[Placed]]:
    """Joins neighbours to long dialogues, as many as fit into `length` tokens, each only once.

    A dialogue that is too long by itself ends at its last whole turn that fits.
    """
    joined: list[list[Placed]] = []
    room = session = 0
    for dialogue in dialogues:
        sizes = [
            len(tokenizer.encode(f"\n{turn.speaker}: {turn.utterance}\n".encode()))
            for turn in dialogue
        ]
        if not joined or sum(sizes) > room:
            joined.append([])
            room, session = length, 0
        session += 1
        for number, (turn, size) in enumerate(zip(dialogue, sizes, strict=True), 1):
            room -= size
            if room < 0:
                break
            joined[-1].append(Placed(turn, session, number))
    return [long for long in joined if len(long) > 1]


def parse(record: Any, where: str) -> list[Turn]:
    """Returns the turns of one record. Turns without a word are left out.

    Raises:
        UserError: the record is no dialogue. The message begins with `where`.
    """
    record = record if isinstance(record, Mapping) else {}
    turns = next((record[name] for name in TURNS if name in record), None)
    if isinstance(turns, Mapping) and (sessions := sessions_of(turns)):
        turns = [turn for _, session in sessions for turn in session]
    # TFDS gives a list of objects as an object of lists
    if isinstance(turns, Mapping) and turns:
        lists = {name: list(values) for name, values in turns.items()}
        turns = [
            dict(zip(lists, values, strict=False)) for values in zip(*lists.values(), strict=False)
        ]
    if not isinstance(turns, list):
        raise UserError(f"{where} has no list of turns; give records like {EXAMPLE}")
    return [turn for turn in (_turn(turn, where) for turn in turns) if turn.utterance]


def sessions_of(conversation: Mapping[str, Any]) -> list[tuple[str, list]]:
    """The sessions of a LoCoMo conversation in order, each with its date; [] for anything else."""
    numbers = sorted(
        int(found[1])
        for name, turns in conversation.items()
        if (found := re.fullmatch(r"session_(\d+)", name)) and isinstance(turns, list)
    )
    return [
        (str(conversation.get(f"session_{n}_date_time", "")), conversation[f"session_{n}"])
        for n in numbers
    ]


def _turn(turn: Any, where: str) -> Turn:
    fields = turn if isinstance(turn, Mapping) else {}
    found = [
        next((fields[name] for name in names if name in fields), None)
        for names in (SPEAKERS, UTTERANCES)
    ]
    texts = [
        value.decode(errors="replace") if isinstance(value, bytes) else value for value in found
    ]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{where} has a turn without speaker and utterance, both texts: {turn!r:.60}; "
            f"give records like {EXAMPLE}"
        )
    # JSON can hold half a surrogate pair, which is no text; a turn is one line.
    return Turn(*(" ".join(text.encode(errors="replace").decode().split()) for text in texts))
