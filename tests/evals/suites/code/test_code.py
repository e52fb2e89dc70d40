"""Names are found where they stand, and lines cost what they cost in one reading."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_TEXTS
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.code import suite
from rmat_jax.evals.suites.code.completions import measure
from rmat_jax.evals.suites.code.definitions import uses
from rmat_jax.evals.suites.code.lines import decoys, find
from rmat_jax.evals.suites.code.suite import code
from rmat_jax.model import RMAT
from tests.evals.tiny import subject

PROGRAM = b'''"""A docstring with helper_name in it."""
import os

TABLE = {}
limit: int = 3

def opened(path):
    return path

class Reader:
    def lines(self):
        # TABLE is only mentioned
        return opened(os.sep)

def unused():
    x == TABLE or limit
    Reader(opened)
    limit = 4
    return limit
'''


def test_uses_of_a_file_written_by_hand():
    found = [
        (PROGRAM[use.line : use.end], PROGRAM[use.name : use.name_end]) for use in uses(PROGRAM)
    ]
    # TABLE was mentioned since; opened stands in Reader's line a second time; limit is assigned
    # inside a function: a use.
    assert found == [
        (b"        return opened(os.sep)", b"opened"),
        (b"    x == TABLE or limit", b"limit"),
        (b"    Reader(opened)", b"Reader"),
    ]
    for use in uses(PROGRAM):
        name = PROGRAM[use.name : use.name_end]
        assert PROGRAM[: use.defined].endswith(name)
        # nothing nearer to copy
        assert name not in PROGRAM[use.defined : use.line]
        assert PROGRAM[use.line - 1 : use.line] == b"\n"


@pytest.mark.parametrize(
    "line, name",
    [
        (b"export async function load_all(a) {", b"load_all"),
        (b"pub fn walk_tree(x: i32) -> i32 {", b"walk_tree"),
        (b"  const answer = 42;", b"answer"),
        (b"struct Place {", b"Place"),
        (b"func Serve() error {", b"Serve"),
    ],
)
def test_other_languages_define_names_too(line, name):
    text = b"first\n" + line + b"\nmore\n  call(" + name + b")\n"
    (use,) = uses(text)
    assert text[use.name : use.name_end] == name
    mentioned = text.replace(b"more", name + b"!")
    assert [mentioned[use.line : use.end] for use in uses(mentioned)] == [
        name + b"!"
        # the call is no longer the first
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for number, (long, short) in enumerate(
        [("gather_everything", "count_it"), ("write_them_all", "lose_it")]
    ):
        noise = "".join(f"    v{n} = {n * n}\n" for n in range(8 * (number + 1)))
        text = f"def {long}(x):\n{noise}\ndef {short}(y):\n    return 1\n\n{noise}\n"
        (folder / f"{number}.py").write_text(
            text + f"if go:\n    {long}(2)\n{noise}    {short}(3)  \n"
        )
    return folder


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    one = dataclasses.replace(subject(), workdir=tmp_path_factory.mktemp("run"))
    found = find(one, Options(code=str(folder)))
    return one, found, measure(one, found)


def text_of(folder, line):
    """The file that a line is of, found by its name."""
    name = line.before[-1:] + line.name
    return next(
        text for text in (file.read_bytes() for file in folder.iterdir()) if b"def " + name in text
    )


def test_lines_stand_where_the_file_has_them(folder, measured):
    _, found, _ = measured
    assert len(found) == 4 and len({line.file for line in found}) == 2
    for first, second in (found[:2], found[2:]):
        text = text_of(folder, first)
        assert first.file == second.file
        assert text.startswith(
            first.context + b"\n" + first.before + first.name + first.after.rstrip()
        )
        joined = first.context + second.context + b"\n" + second.before + second.name + second.after
        # the first line's own text is in the second's context
        assert text.rstrip() + b"\n" == joined
        assert second.after == b"(3)\n" and second.before in (b"    c", b"    l")
        name = first.before[-1:] + first.name
        at = text.index(b"def " + name) + len(b"def " + name)
        # a byte is a token
        assert first.distance == len(first.context) + 1 - at
        assert not first.in_chunk and first.distance > 100


def test_a_definition_in_the_open_chunk_is_told_apart(tmp_path):
    (tmp_path / "a.py").write_text(
        "\ndef somewhere(x):\n    return 1\n\nsomewhere(2)\n" + "\n" * 40
    )
    for chunk_len, inside in ((64, True), (16, False)):
        one = dataclasses.replace(subject(chunk_len=chunk_len), workdir=tmp_path)
        (line,) = find(one, Options(code=str(tmp_path / "a.py")))
        assert line.in_chunk is inside and line.distance == len("(x):\n    return 1\n\n")


def test_lines_cost_what_one_reading_says(measured):
    one, found, done = measured
    model = RMAT(one.config.model)
    score = jax.jit(lambda x, y: model.apply({"params": one.params}, x, y, method=RMAT.score)[0])
    text = b""
    for place, line in enumerate(found):
        text = (text if place and found[place - 1].file == line.file else b"") + line.context
        tokens = np.frombuffer(text + b"\n" + line.before + line.name + line.after, np.uint8)
        tokens = np.concatenate([[256], tokens])[None].astype(np.int32)
        length = tokens.shape[1] - 1
        # one program for all
        tokens = np.pad(tokens, ((0, 0), (0, 801 - tokens.shape[1])))
        scores = score(tokens[:, :-1], tokens[:, 1:])
        bits, right = (
            np.asarray(x)[0, :length] for x in (scores.loss_BT / np.log(2), scores.correct_BT)
        )
        start = len(text) + 1
        name = slice(start + len(line.before), start + len(line.before) + len(line.name))
        assert done.names.bits[KEPT][place] == pytest.approx(bits[name].sum(), rel=1e-4)
        assert done.lines.bits[KEPT][place] == pytest.approx(bits[start:].sum(), rel=1e-4)
        assert done.name_right[KEPT][place] == right[name].all()
        assert abs(done.lines.bits[EMPTIED][place] - done.lines.bits[KEPT][place]) > 1e-3
        assert abs(done.lines.bits[ALONE][place] - done.lines.bits[KEPT][place]) > 1e-3
    assert done.names.sizes.tolist() == [len(line.name) for line in found]


def test_decoys_are_names_that_the_file_has_not_had(folder, measured, tmp_path):
    one, found, done = measured
    for line, decoy in zip(found, decoys(found), strict=True):
        assert decoy not in text_of(folder, line) and decoy in [
            x.before[-1:] + x.name for x in found
        ]
    assert done.has_decoy.tolist() == [True] * 4 and len(done.decoys.sizes) == 4
    for number, own in enumerate(("write_them_all", "lose_it_again")):
        # both files have the first, which is no decoy for either
        names = "gather_everything", own
        lines = "".join(f"def {name}(x):\n    return 1\n\n" for name in names)
        (tmp_path / f"{number}.py").write_text(
            lines + "# nothing\n" * 4 + f"{names[0]}(2)\n{names[1]}(3)\n"
        )
    shared = find(one, Options(code=str(tmp_path)))
    mine, others = shared[:2], shared[2:]
    if b"lose_it_again" in mine[0].context:
        mine, others = others, mine
    assert decoys(mine + others) == [b"lose_it_again"] * 2 + [b"write_them_all"] * 2
    # one file alone, which has had both
    assert decoys(mine) == [b"", b""]


def test_lines_without_a_decoy_are_left_out_of_the_control(folder, measured, tmp_path):
    one, found, done = measured
    where = np.array([True, False, True, True])
    some = dataclasses.replace(done, decoys=done.decoys.at(where), has_decoy=where)
    assert suite._decoy(some) != suite._decoy(done)
    named = dataclasses.replace(some, names=some.names.at(where), has_decoy=np.ones(3, bool))
    assert suite._decoy(some) == suite._decoy(named)


def test_the_section_is_whole(folder, measured, tmp_path):
    section = code(measured[0], Options(code=str(folder)), tmp_path)
    assert (tmp_path / "code.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads(json.dumps(section.values))
    assert values["lines"] == 4 and values["files"] == 2
    rates = values["kinds"]["the name, definition beyond the chunk"]["bits_per_byte"]
    assert (
        f"**{rates[OF_TEXTS[KEPT]]:.3f} bits per byte**, "
        f"{rates[OF_TEXTS[EMPTIED]]:.3f} with the memory emptied" in section.headline
    )
    assert "The control" in section.text


@pytest.mark.parametrize("fewest, is_told", [(2, True), (1, False)])
def test_lines_that_no_group_has_are_told(folder, measured, tmp_path, monkeypatch, fewest, is_told):
    monkeypatch.setattr(suite, "MIN_LINES", fewest)
    more = shutil.copytree(folder, tmp_path / "more")
    far = "def remembered():\n    return 1\n" + "# nothing\n" * 200 + "remembered()\n"
    (more / "far.py").write_text(far)
    section = code(measured[0], Options(code=str(more)), tmp_path)
    told = re.findall(r"(\d+) lines at distances with fewer", section.text)
    assert bool(told) == is_told
    grouped = sum(group["texts"] for group in section.values["by_distance"].values())
    assert grouped + sum(map(int, told)) == section.values["lines"]


def test_a_cell_has_as_many_lines_as_it_may(folder, measured):
    assert len(find(measured[0], Options(code=str(folder), examples=1))) < 4


def test_text_without_definitions_is_said(measured, tmp_path):
    (tmp_path / "prose.txt").write_text("There is nothing here.\n" * 20)
    with pytest.raises(UserError, match="no line that uses a name defined 16 tokens before"):
        find(measured[0], Options(code=str(tmp_path)))
