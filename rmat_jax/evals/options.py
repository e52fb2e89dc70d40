"""The options of the suites of `evaluate`. This module needs no JAX."""

import dataclasses

from rmat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of all suites, each of which uses some.

    Only the suite of the same name needs a file whose default is None.

    Raises:
        UserError: a value breaks its rule.
    """

    # a file or folder of long texts; None: the run's own held-out documents
    text: str | None = None
    # a file or folder of programs, for `code`; None: the run's own held-out documents
    code: str | None = None
    # the longest reach, in tokens, at which `length`, `recall`, `babi` and `ruler` measure
    max_tokens: int = 65_536
    # the most questions, dialogues, ... of a suite or of a cell in its table
    examples: int = 100
    # the seed of all random choices
    seed: int = 0
    # a folder of bAbI's files, qa1_*_test.txt, ..., or of BABILong's, qa1/4k.json, ...
    babi: str | None = None
    # a file or folder of RULER's prompts; None: they are made
    ruler: str | None = None
    # a file of JSON lines, or tfds:NAME
    qa: str | None = None
    # a file of JSON lines, or tfds:NAME
    summary: str | None = None
    # a file or folder of dialogues, or tfds:NAME
    dialogue: str | None = None

    def __post_init__(self):
        for name in ("max_tokens", "examples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative")
