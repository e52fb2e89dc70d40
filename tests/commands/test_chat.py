"""`chat`: what a line and each command do to the session."""

import io
import json
import signal

import pytest

from rmat_jax import flags
from rmat_jax.commands.chat import Talk, chat
from rmat_jax.errors import UserError
from rmat_jax.infer.sampling import Sampling
from rmat_jax.interop.trained import load_trained
from rmat_jax.runs import load_engine
from rmat_jax.train import loop
from tests.train.test_resume import CONFIG, small_flags

RULES = {"max_new_tokens": 12, "temperature": 5.0}


@pytest.fixture(scope="module")
def engine(workdir):
    with load_engine(workdir, rows=1) as engine:
        yield engine


def begin(engine, **more):
    return Talk(engine, Sampling(**RULES | more), io.StringIO())


def written(talk):
    """What was written since the last call."""
    text = talk._out.getvalue()
    talk._out.seek(0)
    talk._out.truncate()
    return text


def test_it_writes_what_a_session_would(engine):
    talk, session = begin(engine), engine.open()
    for number, line in enumerate(("one", "two")):
        talk.hear(line)
        session.read(line + "\n")
        assert written(talk) == "".join(session.write(**RULES, seed=number)) + "\n"
    assert talk.session.tokens == session.tokens
    # the control: what was said before counts
    other = begin(engine)
    other._texts = 1
    other.hear("two")
    session = engine.open("one\ntwo\n")
    assert written(other) != "".join(session.write(**RULES, seed=1)) + "\n"


def test_undo_goes_back_and_says_when_it_cannot(engine):
    talk = begin(engine)
    talk.hear("one")
    stood, texts = talk.session.tokens, talk._texts
    written(talk)
    talk.hear("two")
    first = written(talk)
    talk.hear("/undo")
    assert talk.session.tokens == stood
    talk._texts = texts
    talk.hear("two")
    assert written(talk) == first
    talk.hear("/undo")
    talk.hear("/undo")
    # that a document begins is all that it has read
    assert talk.session.tokens == 1
    with pytest.raises(UserError, match="nothing to take back"):
        talk.hear("/undo")


def test_a_place_is_gone_on_from_more_than_once(engine):
    talk, found = begin(engine), []
    talk.hear("one")
    talk.hear("/keep here")
    for _ in range(2):
        talk.hear("two")
        talk.hear("/go here")
        talk._texts = 5
        written(talk)
        talk.hear("/again")
        found.append(written(talk))
    assert found[0] == found[1]
    with pytest.raises(UserError, match="nothing is kept as 'there'; there is here"):
        talk.hear("/go there")


def test_a_talk_goes_on_from_its_file(workdir, tmp_path, capsys):
    file, out = tmp_path / "talk.safetensors", io.StringIO()
    assert chat(workdir, file, ["one\n", "/quit\n", "never\n"], out, **RULES) == 0
    assert file.exists() and "/help lists the commands" in capsys.readouterr().err
    lines = ["/help\n", f"/save {tmp_path / 'b.safetensors'}\n", "/what\n", "/undo\n"]
    assert chat(workdir, file, lines, out, **RULES) == 0
    told = capsys.readouterr().err
    assert "going on from" in told and "/keep NAME" in told and "b.safetensors has read" in told
    assert "error: /what is no command; /help lists them" in told
    # a name that is missing, and a file that is none
    lines = ["/load\n", f"/load {tmp_path / 'none'}\n", "/undo now\n", "two\n"]
    assert chat(workdir, None, lines, out, **RULES) == 0
    told = capsys.readouterr().err
    assert "error: /load takes a name" in told and "none does not exist" in told
    assert "error: /undo takes nothing behind it" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_text_and_sigterm_the_talk(workdir, tmp_path, number):
    class Interrupting(io.StringIO):
        def write(self, text):
            if not self.getvalue():
                signal.raise_signal(number)
            return super().write(text)

    out, file = Interrupting(), tmp_path / "talk.safetensors"
    code = chat(workdir, file, ["one\n", "two\n"], out, **RULES | {"max_new_tokens": 1500})
    assert code == (0 if number == signal.SIGINT else 128 + number)
    assert file.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_line_is_waited_for_loses_nothing(workdir, tmp_path, number):
    def lines():
        yield "one\n"
        signal.raise_signal(number)
        yield "two\n"

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    file, out = tmp_path / "talk.safetensors", io.StringIO()
    assert chat(workdir, file, lines(), out, **RULES) == 128 + number
    assert {n: signal.getsignal(n) for n in before} == before
    with load_engine(workdir, rows=1) as engine:
        talk = begin(engine)
        talk.hear("one")
        assert engine.load(file).tokens == talk.session.tokens > 1
        assert written(talk) == out.getvalue()


def test_a_name_that_is_no_path_does_not_end_the_talk(engine):
    talk = begin(engine)
    for name in ("http://here/talk", "~nobody-of-that-name/talk", "x" * 300):
        for command in ("/save", "/load"):
            with pytest.raises(UserError, match="copy the folder|in full|shorten"):
                talk.hear(f"{command} {name}")


def test_a_model_of_dialogues_reads_their_template_and_is_scored_on_answers(
    workdir, tmp_path, capsys
):
    record = {"prompt": "How are you?", "completion": "Fine."}
    (tmp_path / "a.jsonl").write_text((json.dumps(record) + "\n") * 300)
    given = [*small_flags(tmp_path / "a.jsonl"), "--config.data.format=messages"]
    more = ["--config.steps=2", "--config.optim.warmup_steps=0", "--config.eval_tokens=1024"]
    # what no answer is read of is said before the training
    with pytest.raises(UserError, match="eval_tokens=256 ends before the first answer; raise it"):
        loop.run(flags.load_config(CONFIG, given), tmp_path / "none")
    assert loop.run(flags.load_config(CONFIG, [*given, *more]), tmp_path / "run") == 0
    told = capsys.readouterr().out
    assert "of answers), " in told and "held-out answers, " in told and " a token)" in told
    # the control
    assert load_trained(tmp_path / "run").config.data.answers_only
    assert not load_trained(workdir).config.data.answers_only
    file = tmp_path / "talk.safetensors"
    assert chat(tmp_path / "run", file, ["one\n", "two\n"], io.StringIO(), **RULES) == 0
    with load_engine(tmp_path / "run", rows=1) as engine:
        session = engine.open("<|user|>\none\n<|assistant|>\n")
        for seed, text in enumerate(("\n<|user|>\ntwo\n<|assistant|>\n", "")):
            list(session.write(**RULES, seed=seed))
            session.read(text)
        assert engine.load(file).tokens == session.tokens
