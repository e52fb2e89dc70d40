"""Version 2 computes what version 1 did: logits, memory and gradients that commit 3a94fb7 dumped.

`tests/tools/dump_version1.py` wrote the files, from float64. This is version 2's half of it: which
options and which names mean the same.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rmat_jax.model import RMAT
from tests.models import DEFAULT, QUEUE, tiny

pytestmark = pytest.mark.usefixtures("float64")
FOLDER = Path(__file__).parent / "version1"
CHUNKS = 5
CASES = {
    "paper": {},
    "paper_sliding": {"local.sliding": True},
    "queue": QUEUE,
    "queue_slot_gate": QUEUE | {"memory.gate": "slot"},
    "hybrid": DEFAULT,
    "passkey": DEFAULT | {"memory.keeps": "outputs"},
    "no_memory": {"branches": ("full", "local"), "local.sliding": True, "token_shift": True},
}
# Rounding of float64 (1e-16) over some hundred terms, in another order; gradients sum many more.
LOGITS, GRADIENTS = 1e-12, 1e-10


def tree(tensors: dict[str, np.ndarray], kind: str) -> dict:
    """The parameters or gradients of a dump. A share of one branch alone was a parameter then."""
    out: dict = {}
    for name, x in tensors.items():
        part, *path = name.split("/")
        last = path.pop() if path else ""
        if part != kind or (last == "fusion" and x.shape[1] == 1):
            continue
        node = out
        for key in path:
            node = node.setdefault(key, {})
        node[last] = x
    return out


def replay(config, tensors):
    """`params -> loss, (logits, memory after each chunk)`, as the tool computes them."""
    model, documents = RMAT(config), jnp.asarray(tensors["documents"])

    def read(params):
        state, logits, memory = None, [], []
        for chunk in np.split(np.arange(documents.shape[1]), CHUNKS):
            out, state = model.apply(
                {"params": params}, tensors["tokens"][:, chunk], state, documents[:, chunk]
            )
            logits.append(out)
            if config.memory:
                memory.append(state.memory_LBMD())
        logits = jnp.concatenate(logits, axis=1)
        scores = jax.nn.log_softmax(logits)
        loss = -jnp.take_along_axis(scores, tensors["targets"][..., None], axis=-1).sum()
        if config.memory:
            loss += (tensors["memory_weights"] * memory[-1]).sum()
        return loss, (logits, jnp.stack(memory) if config.memory else None)

    return read


SLOW = {"paper_sliding", "queue", "passkey"}
MARKED = [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_the_same_function_as_version_1(case):
    config, tensors = tiny(**CASES[case]), load_file(FOLDER / f"{case}.safetensors")
    params = tree(tensors, "params")
    read = jax.jit(jax.value_and_grad(replay(config, tensors), has_aux=True))
    (loss, (logits, memory)), grads = read(params)
    np.testing.assert_allclose(logits, tensors["logits"], rtol=0, atol=LOGITS)
    np.testing.assert_allclose(loss, tensors["loss"], rtol=LOGITS)
    if config.memory:
        np.testing.assert_allclose(memory, tensors["memory"], rtol=0, atol=LOGITS)
    expected = tree(tensors, "grads")
    assert jax.tree.structure(grads) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=GRADIENTS), grads, expected
    )


def test_control_another_arrangement_is_another_function():
    tensors = load_file(FOLDER / "hybrid.safetensors")
    other = tiny(**DEFAULT | {"local.window": 3})
    _, (logits, _) = replay(other, tensors)(tree(tensors, "params"))
    assert np.abs(logits - tensors["logits"]).max() > 1e-3
