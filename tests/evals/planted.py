"""A model that is known through and through: an engine that looks things up."""

import re
from types import SimpleNamespace

import numpy as np

from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.infer.scoring import Cost


class PlantedSession:
    """What was read, and what of it is still remembered."""

    is_behind = False

    def __init__(self, engine, text=b"", known=b"", tokens=0):
        self.engine, self.text, self.known, self.tokens = engine, text, known, tokens

    def read(self, prompt):
        tokens = self.engine.encode(prompt)
        self.text += self.engine.tokenizer.decode(tokens)
        self.known += self.engine.tokenizer.decode(tokens)
        self.tokens += len(tokens)

    def fork(self, *, forget=False):
        return PlantedSession(self.engine, self.text, b"" if forget else self.known, self.tokens)

    def write(self, *, max_new_tokens, temperature, stop=()):
        assert temperature == 0
        return iter([self.engine.answer(self.known)[:max_new_tokens]])


class PlantedEngine:
    """Answers what `answer` makes of the text that it knows.

    That answer costs one nat, anything else three.
    """

    def __init__(self, answer, chunk_len=8, has_memory=True):
        self.tokenizer, self.answer = ByteTokenizer(), answer
        self.model = SimpleNamespace(config=SimpleNamespace(chunk_len=chunk_len, memory=has_memory))
        self.opened = []

    def encode(self, prompt):
        data = prompt.encode() if isinstance(prompt, str) else prompt
        return self.tokenizer.encode(data) if isinstance(data, bytes) else np.asarray(data)

    def open(self, prompt=b""):
        session = PlantedSession(self, tokens=1)
        session.read(prompt)
        self.opened.append(session)
        return session

    def costs(self, asked):
        found = []
        for session, text in asked:
            text = text.encode() if isinstance(text, str) else text
            right = text.strip() == self.answer(session.known).encode()
            nats = np.zeros(len(text))
            nats[0] = 1.0 if right else 3.0
            found.append(Cost(nats, np.full(len(text), right)))
        return found


def planted_subject(answer, texts=(), chunk_len=8, has_memory=True):
    """A subject with such an engine, which it makes once; its held-out documents are `texts`."""
    engine = PlantedEngine(answer, chunk_len, has_memory)
    source = SimpleNamespace(heldout=lambda: iter(texts))
    return SimpleNamespace(
        config=SimpleNamespace(model=engine.model.config),
        tokenizer=engine.tokenizer,
        engine=lambda rows: engine,
        data=SimpleNamespace(source=source),
        made=engine,
    )


def last_place(known: bytes) -> str:
    """Answers where the person of the last question went last; "garden" if that is not known."""
    asked = re.findall(rb"Where is (\w+)\?", known)
    if not asked:
        return "no"
    person = asked[-1]
    places = re.findall(rb"%s went to the (\w+)\." % person, known)
    return places[-1].decode() if places else "garden"
