"""`rmat config`: every key of the config has a meaning, and shows the value that it has."""

import re

import pytest

from rmat_jax import commands, config, flags, keys
from rmat_jax.config import PAPER, Config, Local, RMATConfig
from rmat_jax.errors import UserError


def listed(values=None) -> dict[str, keys.Key]:
    return {key.name: key for section in keys.sections(values) for key in section.keys}


def test_every_key_that_can_be_typed_is_listed():
    assert listed().keys() == set(flags._dotted(flags.defaults().to_dict()))


def riddles(meanings: dict[str, str]) -> list[str]:
    """The keys without a sentence, which begins with a capital or a word in quotes, and ends."""
    whole = re.compile(r"(\[\w\] )?([A-Z\"]).{7,}\.", re.DOTALL)
    return [name for name, meaning in meanings.items() if not whole.fullmatch(meaning)]


def test_every_key_has_a_meaning_in_sentences():
    assert not riddles({name: key.meaning for name, key in listed().items()})


def test_control_a_riddle_is_found():
    meanings = {"a": "of the first", "b": "", "c": "[C] The tokens of a chunk."}
    assert riddles(meanings) == ["a", "b"]


def test_a_meaning_is_the_comment_above_its_field(monkeypatch):
    source = (
        "class Local:\n    # a\n    # b\n    window: int = 1\n\n    # not this\n\n    sliding = 2\n"
    )
    monkeypatch.setattr(keys.inspect, "getsource", lambda module: source)
    keys._meanings.cache_clear()
    try:
        assert keys._meanings()["Local"] == {"window": "a b"}
    finally:
        keys._meanings.cache_clear()


def test_values_are_those_of_the_config():
    values = Config(model=RMATConfig(branches=("local",), local=Local(window=128)))
    found = listed(values)
    assert found["model.local.window"].value == 128
    assert found["model.mlp_width"].value == 1024
    # what is off has no keys
    assert "model.memory.slots" not in found
    assert listed(Config(model=PAPER))["model.memory.gate"].value == "gru"


def test_the_command_prints_defaults_and_a_config(capsys):
    commands.main(["config"])
    text = capsys.readouterr().out
    assert "  model.memory.slots=512  (follows other keys)\n" in text
    assert f"model.local: {config.Local.__doc__}" in text
    commands.main(["config", "--config=paper", "--config.model.memory.slots=256"])
    text = capsys.readouterr().out
    assert "  model.memory.slots=256\n" in text and "  model.memory.gate=gru\n" in text
    assert max(map(len, text.splitlines())) <= 100
    with pytest.raises(UserError, match="changes nothing without a config"):
        commands.main(["config", "--config.steps=3"])


def test_the_table_escapes_what_would_end_a_cell():
    rows = [line for line in keys.table().splitlines() if re.match(r"\| `\w", line)]
    assert len(rows) == len(listed())
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
