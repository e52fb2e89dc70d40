"""The suites of questions on a real, if tiny, model: they measure what one pass over the whole text
would.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from rmat_jax.config import DataConfig
from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT
from rmat_jax.evals.report import plain
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.answers.ask import ask
from rmat_jax.evals.suites.answers.qa import prompt, qa
from rmat_jax.evals.suites.answers.questions import Asked, Item
from rmat_jax.evals.suites.answers.summary import summary
from rmat_jax.evals.suites.babi.suite import babi
from rmat_jax.evals.suites.ruler.suite import ruler
from rmat_jax.model import RMAT
from tests.evals import tiny


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return dataclasses.replace(tiny.subject(chunk_len=8), workdir=tmp_path_factory.mktemp("run"))


@functools.partial(jax.jit, static_argnums=0)
def logprobs(model, params, tokens):
    return jax.nn.log_softmax(model.apply({"params": params}, tokens)[0])


def bits(subject, text, asked):
    """Of the last `asked` bytes, in one pass."""
    tokens = np.concatenate([[256], np.frombuffer(text, np.uint8)]).astype(np.int32)
    padded = np.pad(tokens, (0, 192 - len(tokens)))[None]
    found = np.asarray(logprobs(RMAT(subject.config.model), subject.params, padded)[0], np.float64)
    return -found[np.arange(len(tokens) - 1), tokens[1:]][-asked:].sum() / np.log(2)


def test_answers_cost_what_one_pass_says(subject):
    questions = (Asked("What?", ("A short answer", "b")), Asked("A longer question, why?", ("c",)))
    items = [Item(("Some text. " * 9,), questions), Item(("Other words",), questions[:1])]
    answers = ask(subject, items, prompt=prompt, room=lambda asked: 5, stop=("\n",), name="test")
    assert len(answers) == 3
    for answer in answers:
        after = prompt(answer.asked).encode() + b" " + answer.asked.references[0].encode()
        read = items[answer.document].text.encode() + after
        assert answer.bits[KEPT] == pytest.approx(bits(subject, read, answer.num_bytes), rel=1e-4)
        assert answer.bits[ALONE] == pytest.approx(bits(subject, after, answer.num_bytes), rel=1e-4)
        assert all(len(text) <= 5 for text in answer.written.values())
    long = [answer for answer in answers if answer.document == 0]
    # the control
    assert all(abs(answer.bits[EMPTIED] - answer.bits[KEPT]) > 1e-3 for answer in long)


def test_every_suite_runs(subject, tmp_path):
    (tmp_path / "qa1_test.txt").write_text(
        "1 John is in the hall.\n2 Where is John?\thall\t1\n"
        "1 John is in the yard.\n2 Where is John?\tyard\t1\n"
    )
    (tmp_path / "text.txt").write_text("It rained. Nobody came.\n" * 9)
    record = {
        "document": "John is in the hall. " * 9,
        "question": "Where is John?",
        "answer": "hall",
        "summary": "In.",
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    prompt = {"input": "In Rome.\n" * 9 + "Where? In", "outputs": ["Rome"], "length": 16}
    (tmp_path / "vt.jsonl").write_text(json.dumps(prompt) + "\n")
    files = {name: str(tmp_path / "a.jsonl") for name in ("qa", "summary")}
    options = Options(
        babi=str(tmp_path),
        ruler=str(tmp_path / "vt.jsonl"),
        text=str(tmp_path / "text.txt"),
        max_tokens=16,
        examples=2,
        **files,
    )
    for suite, figures in [(babi, 2), (ruler, 1), (qa, 1), (summary, 1)]:
        section = suite(subject, options, tmp_path)
        assert section.text.count(".png)") == figures
        assert all(
            f"({file.name})" in section.text for file in tmp_path.glob(f"{suite.__name__}*.png")
        )
        assert "\n" not in section.headline
        json.dumps(plain(section.values), allow_nan=False)
    assert "cannot be told from one of the documents" in section.text


def test_a_model_that_knows_no_text_is_an_error(subject, tmp_path):
    data = DataConfig(synthetic="recall")
    other = dataclasses.replace(subject, config=dataclasses.replace(subject.config, data=data))
    (tmp_path / "a.jsonl").write_text(
        '{"context": "Text.", "question": "Who?", "answer": "She."}\n'
    )
    with pytest.raises(UserError, match="no text and no tokenizer"):
        qa(other, Options(qa=str(tmp_path / "a.jsonl")), tmp_path)
