"""Draws the lines of `code` from source files."""

import dataclasses

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.suite import Options, Subject
from rmat_jax.evals.suites.code.definitions import Use, uses
from rmat_jax.train.heldout import offset_bins

# the most files that are read
FILES = 64
# the fewest tokens from the definition to the line
NEAREST = 16


@dataclasses.dataclass(frozen=True)
class Line:
    """A line to complete."""

    file: int
    # tokens from the definition to the beginning of the line
    distance: int
    # whether the open chunk holds the definition
    in_chunk: bool
    # The text before the line, from the last line that was asked for in the file, or else from its
    # beginning, without the last line feed.
    context: bytes
    # the line up to the name's first character, which is given
    before: bytes
    # the rest of the name
    name: bytes
    # the rest of the line
    after: bytes

    @property
    def size(self) -> int:
        """The number of bytes that are asked for."""
        return len(self.before) + len(self.name) + len(self.after)


def find(subject: Subject, options: Options) -> list[Line]:
    """Returns lines in the order in which they stand.

    There are at most `options.examples` for each power of two of distance.

    Raises:
        UserError: there is no text, or none with such lines.
    """
    texts = read_texts(subject, options, options.max_tokens, "code")[:FILES]
    tokenizer, chunk_len = subject.tokenizer, subject.config.model.chunk_len
    places: list[tuple[int, Use, int, bool]] = []
    # the first token stands for no text
    pieces = [[tokenizer.decode([token]) for token in tokens] for tokens in texts]
    data = [b"".join(parts) for parts in pieces]
    for file, text in enumerate(data):
        ends = np.cumsum([*map(len, pieces[file])])
        for use in uses(text):
            defined, line = (int(np.searchsorted(ends, place)) for place in (use.defined, use.line))
            if line - defined >= NEAREST:
                # `line` is the place of the line feed before the line, the first token that is read
                # after the memory is emptied.
                places.append(
                    (file, use, line - defined, defined // chunk_len == line // chunk_len)
                )
    rng, taken = np.random.default_rng(options.seed), {}
    for index in rng.permutation(len(places)).tolist():
        taken.setdefault(int(offset_bins(np.array(places[index][2]))), []).append(index)
    chosen = sorted(index for indices in taken.values() for index in indices[: options.examples])
    if not chosen:
        raise UserError(
            f"{source_name(options, 'code')} has no line that uses a name defined {NEAREST} tokens "
            "before or more; give --code=PATH with source code"
        )
    found, last = [], (-1, 0)
    for file, use, distance, in_chunk in (places[index] for index in chosen):
        start = last[1] if last[0] == file else 0
        # the line feed is read with the line
        last = file, use.line - 1
        text, given = data[file], use.name + 1
        parts = (
            text[use.line : given],
            text[given : use.name_end],
            text[use.name_end : use.end] + b"\n",
        )
        found.append(Line(file, distance, in_chunk, text[start : use.line - 1], *parts))
    return found


def decoys(found: list[Line]) -> list[bytes]:
    """Returns for each line another line's name that its file has not had so far.

    It is the name of the nearest length; b"" where there is none.
    """
    pool = [line.before[-1:] + line.name for line in found]
    chosen, file, text = [], -1, b""
    for place, line in enumerate(found):
        file, text = line.file, (text if line.file == file else b"") + line.context
        others = sorted(
            pool[place + 1 :] + pool[:place], key=lambda name: abs(len(name) - 1 - len(line.name))
        )
        chosen.append(next((name for name in others if name not in text), b""))
    return chosen
