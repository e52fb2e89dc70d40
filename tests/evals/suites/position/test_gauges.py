"""Gauges read what the model does: the mixture of its branches, and the gates where there is
something to keep.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.config import Memory
from rmat_jax.errors import UserError
from rmat_jax.evals.suites.position import figures, suite
from rmat_jax.evals.suites.position.gauges import fusion_weights, gate_openness
from rmat_jax.model import RMAT


@pytest.fixture(scope="module")
def one_document(batches):
    """Eight chunks of one document in each lane."""
    return [batch | {"documents": np.zeros_like(batch["documents"])} for batch in batches]


def with_gate(params, **values):
    gate = params["layers"]["memory"]["gate"]
    gate = gate | {
        name: np.broadcast_to(value, gate[name].shape).astype(np.float32)
        for name, value in values.items()
    }
    memory = params["layers"]["memory"] | {"gate": gate}
    return params | {"layers": params["layers"] | {"memory": memory}}


def test_fusion_weights_are_shares_of_the_branches(config, params):
    fusion = np.log(np.array([[1, 1, 2], [6, 3, 1]], np.float32)) + 5
    changed = params | {"layers": params["layers"] | {"fusion": fusion}}
    np.testing.assert_allclose(
        fusion_weights(config, changed), [[0.25, 0.25, 0.5], [0.6, 0.3, 0.1]], rtol=1e-6
    )


def test_openness_of_constant_gates(config, params, one_document):
    bias = np.array([[0.0], [-2.0]])
    openness = gate_openness(config, with_gate(params, Wz=0, Uz=0, bz=bias), one_document)
    expected = 1 / (1 + np.exp(-bias[:, 0]))
    np.testing.assert_allclose(openness.mean_L, expected, rtol=1e-6)
    np.testing.assert_allclose(openness.low_L, expected, atol=0.005)
    np.testing.assert_allclose(openness.high_L, expected, atol=0.005)
    # Three chunks fill the queue of six slots; then two in each of three lanes are written over, in
    # five chunks.
    assert openness.writes == 2 * 3 * 5


@pytest.mark.parametrize(("gate", "weights"), [("slot", ("wz", "uz")), ("gru", ("Wz", "Uz"))])
def test_the_report_draws_where_a_gate_started(
    monkeypatch, config, one_document, tmp_path, gate, weights
):
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model,
            memory=dataclasses.replace(config.model.memory, gate=gate, gate_bias=-1.5),
        ),
    )
    params = jax.jit(RMAT(config.model).init)(jax.random.key(1), jnp.zeros((1, 8), jnp.int32))
    params = with_gate(params["params"], **dict.fromkeys(weights, 0))
    openness = gate_openness(config, params, one_document)
    # each slot of the queue was written over in each of three lanes, five times
    assert openness.writes == 2 * 3 * 5
    drawn = []
    monkeypatch.setattr(figures, "gates", lambda path, openness, start: drawn.append(start))
    suite._gates(tmp_path, types.SimpleNamespace(openness=openness), config)
    np.testing.assert_allclose(openness.mean_L, drawn * 2, rtol=1e-6)


def test_openness_is_the_mean_of_what_the_gates_did(config, params, lanes, one_document):
    _, seen = RMAT(config.model).apply(
        {"params": params},
        lanes["tokens"],
        capture_intermediates=lambda _, name: name == "openness",
        mutable=["intermediates"],
    )
    z_NLBKD = np.asarray(seen["intermediates"]["layers"]["memory"]["gate"]["openness"][0])
    openness = gate_openness(config, params, one_document)
    for layer in range(2):
        z = z_NLBKD[3:, layer]
        assert openness.mean_L[layer] == pytest.approx(z.mean(), rel=1e-4)
        assert openness.low_L[layer] == pytest.approx(np.quantile(z, 0.1), abs=0.01)
        assert openness.high_L[layer] == pytest.approx(np.quantile(z, 0.9), abs=0.01)
    # the control: empty slots would change it
    empty_L, full_L = (z.mean((0, 2, 3, 4)) for z in np.split(z_NLBKD, [3]))
    assert abs(empty_L - full_L).min() > 1e-3


def test_short_documents_have_no_slot_to_keep(config, params, one_document, batches):
    batch = one_document[0]
    openness = gate_openness(config, params, [batch])
    assert openness.writes == 0
    assert np.isnan(openness.mean_L).all()
    # By lane: no document of lane 0 is long enough. That of lane 1 begins in the second half of the
    # second chunk, so that one slot, and then two a chunk, are written over from the fifth chunk
    # on; in lane 2 two from the fourth.
    assert gate_openness(config, params, batches).writes == 0 + (1 + 3 * 2) + 5 * 2


def test_padding_does_not_count(config, params, one_document):
    openness = gate_openness(config, params, one_document)
    padding = one_document[-1] | {"targets": np.full((3, 16), -1, np.int32)}
    padded = gate_openness(config, params, [*one_document, padding])
    assert padded.writes == openness.writes
    np.testing.assert_allclose(padded.mean_L, openness.mean_L, rtol=1e-6)
    # The control: questions asked later make the same chunks count.
    again = gate_openness(config, params, [*one_document, padding, one_document[-1]])
    assert again.writes == openness.writes + 2 * 3 * 4


@pytest.mark.parametrize(
    "change",
    [
        {"memory": Memory(slots=6, writes=2, gate="none")},
        {"branches": ("full", "local"), "memory": None},
    ],
)
def test_a_model_without_gates_is_an_error(config, params, batches, change):
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, **change))
    with pytest.raises(UserError, match="no gate"):
        gate_openness(other, params, batches)
