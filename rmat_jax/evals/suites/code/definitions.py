"""Finds lines of source code that use a name for the first time since it was defined.

It works for any language that defines names in a line.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# the fewest letters of a name, since shorter names can be guessed
MIN_NAME = 4
MODIFIERS = (
    rb"(?:(?:export|pub|public|private|protected|static|async|default|abstract|final|inline|unsafe)"
    rb"[ \t]+)*"
)
KEYWORDS = rb"(?:def|class|function|func|fn|struct|enum|interface|trait|type|const|let|var|module)"
DEFINITION = re.compile(
    # def name, class Name, ...
    rb"[ \t]*" + MODIFIERS + KEYWORDS + rb"[ \t]+\*?([A-Za-z_]\w*)"
    # name = ..., at the left margin only
    rb"|([A-Za-z_]\w*)[ \t]*(?::[^=\n]+)?=(?!=)"
)
NAME = re.compile(rb"[A-Za-z_]\w*")
COMMENT = re.compile(rb"[ \t]*(?:#|//|/?\*|--|\"\"\"|''')")


class Use(NamedTuple):
    """A line, and a name in it. All places are bytes from the beginning of the text."""

    # where the line begins
    line: int
    # where the line ends, without the white space at its end
    end: int
    # where the name begins
    name: int
    name_end: int
    # where the name ends in its definition, the last place of the name before the line
    defined: int


def uses(text: bytes) -> Iterator[Use]:
    """Yields one use for each line that has any: the one with the furthest definition.

    A name counts until the text has it a second time, even in a comment, since from then on there
    is something nearer to copy. Lines that define names, comments and blank lines are left out.
    """
    # names that the text has had only once, in their definitions -> the place of the definition
    fresh: dict[bytes, int] = {}
    seen: set[bytes] = set()
    start = 0
    for line in text.splitlines(keepends=True):
        definition = DEFINITION.match(line)
        # the first occurrence of each name
        names = {match[0]: match for match in reversed(list(NAME.finditer(line)))}
        if not definition and not COMMENT.match(line) and start:
            known = [(fresh[name], match) for name, match in names.items() if name in fresh]
            if known:
                defined, match = min(known, key=lambda pair: pair[0])
                end = start + len(line.rstrip())
                yield Use(start, end, start + match.start(), start + match.end(), defined)
        for name in names:
            fresh.pop(name, None)
        if definition:
            group = 1 if definition[1] else 2
            name = definition[group]
            if len(name) >= MIN_NAME and name not in seen:
                fresh[name] = start + definition.end(group)
        seen |= names.keys()
        start += len(line)
