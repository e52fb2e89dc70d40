"""The gates = their equations; closed they keep the slot, open they forget it."""

import jax
import numpy as np
import pytest

from rmat_jax.model import RMAT
from rmat_jax.modules.memory import GRUGate, SlotGate
from tests.models import make_tokens, tiny

pytestmark = pytest.mark.usefixtures("float64")
D = 8
rng = np.random.default_rng(0)
GRU = {name: rng.normal(size=(D, D)) for name in ("Wz", "Uz", "Wr", "Ur", "Wc", "Uc")}
GRU |= {name: rng.normal(size=D) for name in ("bz", "br")}
SLOT = {"wz": rng.normal(size=(D, 1)), "uz": rng.normal(size=(D, 1)), "bz": rng.normal(size=1)}
s, e = rng.normal(size=(2, 3, 2, D))


def gru(**changes):
    return np.asarray(GRUGate(tiny()).apply({"params": GRU | changes}, s, e))


def slot(**changes):
    config = tiny(**{"memory.gate": "slot"})
    return np.asarray(SlotGate(config).apply({"params": SLOT | changes}, s, e))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def candidate(p):
    r = sigmoid(s @ p["Wr"] + e @ p["Ur"] + p["br"])
    return np.tanh(s @ p["Wc"] + (r * e) @ p["Uc"])


def test_the_gru_cell_is_its_equations():
    z = sigmoid(s @ GRU["Wz"] + e @ GRU["Uz"] + GRU["bz"])
    np.testing.assert_allclose(gru(), (1 - z) * e + z * candidate(GRU), rtol=0, atol=1e-12)


def test_the_slot_gate_is_its_equations():
    """One number for a whole slot; the new entry is taken as it is."""
    z = np.clip(1.2 * sigmoid(s @ SLOT["wz"] + e @ SLOT["uz"] + SLOT["bz"]) - 0.1, 0, 1)
    assert z.shape == (3, 2, 1)
    np.testing.assert_allclose(slot(), (1 - z) * e + z * s, rtol=0, atol=1e-12)


def test_closed_they_keep_open_they_overwrite():
    np.testing.assert_array_equal(gru(bz=np.full(D, -1e9)), e)
    np.testing.assert_allclose(gru(bz=np.full(D, 1e9)), candidate(GRU), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(slot(bz=np.full(1, -1e9)), e)
    np.testing.assert_array_equal(slot(bz=np.full(1, 1e9)), s)


def test_reset_hides_the_slot_from_the_candidate():
    hidden = gru(bz=np.full(D, 1e9), br=np.full(D, -1e9))
    np.testing.assert_allclose(hidden, np.tanh(s @ GRU["Wc"]), rtol=0, atol=1e-12)


def test_the_slot_gate_keeps_a_slot_for_ever():
    """Where the sigmoid is below 1/12 nothing is written; the GRU cell always writes some."""
    none = np.zeros((D, 1))
    # sigmoid(-2.5) = 0.076
    np.testing.assert_array_equal(slot(wz=none, uz=none, bz=np.full(1, -2.5)), e)
    leaking = gru(Wz=np.zeros((D, D)), Uz=np.zeros((D, D)), bz=np.full(D, -2.5))
    assert np.abs(leaking - e).max() > 1e-3


@pytest.mark.parametrize("gate", ["gru", "slot"])
def test_it_starts_as_the_config_says(gate):
    """The update gate's bias starts at `gate_bias`, the reset gate's at zero, fusion at equal
    shares.
    """
    config = tiny(**{"memory.gate": gate, "memory.gate_bias": -3.0})
    init = jax.jit(RMAT(config).init)
    layers = init(jax.random.key(0), make_tokens(config, 1, 1))["params"]["layers"]
    np.testing.assert_array_equal(layers["memory"]["gate"]["bz"], -3.0)
    np.testing.assert_array_equal(layers["memory"]["gate"].get("br", 0.0), 0.0)
    np.testing.assert_array_equal(layers["fusion"], 0.0)
    # each layer draws its own
    assert np.abs(layers["query"]["kernel"][0] - layers["query"]["kernel"][1]).min() > 0
