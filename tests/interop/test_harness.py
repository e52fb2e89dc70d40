"""The lm-evaluation-harness asks, and the answers are those of `score` and of a session."""

import io
import math

import pytest

from rmat_jax.commands.score import score_files
from rmat_jax.runs import load_engine

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402

from rmat_jax.interop.harness import Harness, sampling  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
TEXTS = ["A line of text, and another.\n" * 9, "ä €", "Another text, with pairs.\n" * 4]


@pytest.fixture(scope="module")
def harness():
    """The model that the package has, which writes text."""
    return Harness(rows=2, batch_size=1)


def ask(kind, *arguments):
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def test_a_text_costs_what_score_says(harness, tmp_path):
    found = harness.loglikelihood_rolling(ask("loglikelihood_rolling", *((x,) for x in TEXTS)))
    for index, (text, cost) in enumerate(zip(TEXTS, found, strict=True)):
        (tmp_path / f"{index}").write_text(text)
        out = io.StringIO()
        score_files(None, [str(tmp_path / f"{index}")], out)
        bits, size = float(out.getvalue().split()[0]), len(text.encode())
        assert bits == pytest.approx(-cost / math.log(2) / size, abs=1e-4)
        words = len(text.split())
        assert math.exp(-cost / words) == pytest.approx(2 ** (bits * size / words), rel=1e-2)
    assert len(set(found)) == 3


def test_continuations_cost_what_they_cost_a_session(harness):
    asked = [("", "A"), ("A line", " of text"), ("A line", " ofx"), ("A ", "line"), ("B", "b")]
    found = harness.loglikelihood(ask("loglikelihood", *asked))
    engine = load_engine(rows=2)
    for (context, text), (cost, greedy) in zip(asked, found, strict=True):
        # a space at the end of the context goes with what follows it
        stem = context.rstrip()
        (expected,) = engine.costs([(engine.open(stem), context[len(stem) :] + text)])
        assert cost == pytest.approx(-expected.total, rel=1e-5)
        assert greedy == bool(expected.correct.all())
    assert len({cost for cost, _ in found}) == 5
    likeliest = "".join(engine.open("A line").write(max_new_tokens=2, temperature=0))
    (best,) = harness.loglikelihood(ask("loglikelihood", ("A line", likeliest)))
    assert best[1]


def test_texts_end_where_the_task_says(harness):
    engine = load_engine(rows=2)
    whole = ["".join(engine.open(x).write(max_new_tokens=12, temperature=0)) for x in TEXTS]
    how = {"until": [], "max_gen_toks": 12}
    assert harness.generate_until(ask("generate_until", *((x, how) for x in TEXTS))) == whole
    stop = {"until": [whole[0][4:6]], "max_gen_toks": 12}
    (found,) = harness.generate_until(ask("generate_until", (TEXTS[0], stop)))
    assert found == whole[0][: whole[0].index(whole[0][4:6])]


def test_a_task_that_samples_is_sampled():
    assert sampling({"until": "\n"}) == {"max_new_tokens": 256, "stop": ["\n"], "temperature": 0.0}
    rules = sampling({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_gen_toks": 3})
    assert rules == {"max_new_tokens": 3, "stop": [], "temperature": 0.5, "top_p": 0.9}
    assert sampling({"do_sample": False, "temperature": 0.5})["temperature"] == 0
