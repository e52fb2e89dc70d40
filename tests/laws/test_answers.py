"""Trained on dialogues, the gradient is that of the answers alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmat_jax.config import Config, OptimConfig
from rmat_jax.data.corpus import build_corpus
from rmat_jax.data.lanes import Lanes
from rmat_jax.data.messages import render
from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state
from rmat_jax.train.step import totals
from tests.models import DEFAULT, make_params, tiny

pytestmark = pytest.mark.usefixtures("float64")
END, B, C, N = 256, 2, 8, 8
MODEL = tiny(**DEFAULT, vocab_size=257, num_layers=1)
SAID = [(f"what is {i}?", "one" * (i % 3 + 1), "and?", f"{i}!") for i in range(12)]


def by_hand(said):
    """The tokens of a dialogue, what follows each, and whether that is an answer's."""
    tokens, labels, answer = [END], [], []
    for role, text in zip(("user", "assistant") * 2, said, strict=True):
        head, mine = f"<|{role}|>\n".encode(), text.encode()
        tokens += head + mine + b"\n"
        labels += head + mine
        answer += [False] * len(head) + [role == "assistant"] * len(mine)
        # the answer's end; or the line break, which is asked for by nobody
        labels.append(END)
        answer.append(role == "assistant")
    return tokens, [*labels, END], [*answer, False]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A batch of the lanes, and what its answers are by hand: labels and their weights, [B, T]."""
    dialogues = [
        render(zip(("user", "assistant") * 2, (t.encode() for t in said), strict=True))
        for said in SAID
    ]
    corpus = build_corpus(
        lambda: iter(dialogues), ByteTokenizer(), tmp_path_factory.mktemp("c"), "train", "s"
    )
    batch = Lanes(corpus, B, N * C, seed=0)[0]
    labels, weights = np.zeros((B, N * C), int), np.zeros((B, N * C))
    known = [by_hand(said) for said in SAID]
    for row in range(B):
        for document in np.unique(batch["documents"][row]):
            places = np.flatnonzero(batch["documents"][row] == document)
            read = batch["tokens"][row, places].tolist()
            (found,) = [k for k in known if k[0][: len(read)] == read]
            labels[row, places], weights[row, places] = found[1][: len(read)], found[2][: len(read)]
    assert 0 < weights.sum() < weights.size
    return batch, labels, weights


@pytest.fixture(scope="module")
def reference(batch):
    """The gradient of the mean loss under some labels and weights, written plainly."""
    tokens, documents = batch[0]["tokens"], batch[0]["documents"]

    @jax.jit
    def gradient(params, labels, weights):
        def loss(params):
            logits, _ = RMAT(dataclasses.replace(MODEL, chunks_at_once=1)).apply(
                {"params": params}, tokens, initial_state(MODEL, B), documents
            )
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return (each * weights).sum()

        return jax.grad(loss)(params)

    return gradient


def close(a, b):
    return all(
        jax.tree.leaves(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-9, atol=1e-12), a, b))
    )


@pytest.mark.parametrize(("at_once", "accumulation"), [(1, 1), (4, 1), (8, 2)])
def test_the_gradient_is_that_of_the_answers(batch, reference, at_once, accumulation):
    read, labels, weights = batch
    config = Config(
        model=dataclasses.replace(MODEL, chunks_at_once=at_once),
        batch_size=B,
        chunks_per_step=N,
        accumulation=accumulation,
        optim=OptimConfig(warmup_steps=0),
    )
    params = make_params(MODEL)
    found, _ = jax.jit(totals, static_argnums=0)(
        config,
        params,
        initial_state(MODEL, B),
        {name: jnp.asarray(read[name]) for name in ("tokens", "targets", "documents")},
        jax.random.key(0),
    )
    assert found.scored == weights.sum()
    assert close(found.grads, reference(params, labels, weights))
    # labels of prompts count for nothing, one of an answer does
    others = np.where(weights == 0, (labels + 7) % 257, labels)
    assert close(found.grads, reference(params, others, weights))
    row, place = np.argwhere(weights)[0]
    others[row, place] += 1
    assert not close(found.grads, reference(params, others, weights))
    # nor is it the gradient of all tokens
    assert not close(found.grads, reference(params, labels, np.ones_like(weights)))
