"""The fast half of the attacks of benchmarks/faults.py: damaged and forged files, bad commands."""

import collections
import random

import pytest

from benchmarks import faults


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return faults.Made(tmp_path_factory.mktemp("faults")).make()


@pytest.mark.parametrize(("attack", "count"), [("files", 250), ("commands", 40)])
def test_no_attack_ends_badly(attack, count, made, tmp_path, capfd):
    attacker = faults.ATTACKS[attack](made, tmp_path)
    cases = [attacker(random.Random(f"test {attack} {number}")) for number in range(count)]
    assert [case for case in cases if case.end in faults.BAD] == []
    ends = collections.Counter(case.end for case in cases)
    # the control: there was something to tell
    assert ends["told"] > count / 4


def test_control_a_fault_would_be_counted(made, tmp_path, monkeypatch):
    files = faults.Files(made, tmp_path)
    # a reader that takes what it finds
    kinds = {"corpus": (files.kinds["corpus"][0], lambda folder: folder.stat().st_ino)}
    monkeypatch.setattr(files, "kinds", kinds)
    assert files.damaged(random.Random(0)).end == "wrong"

    def broken(folder):
        raise KeyError("x")

    kinds["corpus"] = (kinds["corpus"][0], broken)
    assert files.damaged(random.Random(0)).end == "traceback"
