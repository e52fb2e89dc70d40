"""The gate = its equations; closed it keeps the slot, open it forgets it."""

import jax
import numpy as np
import pytest

from rmat_jax.model import RMAT
from rmat_jax.modules.memory import Gate
from tests.models import make_tokens, tiny

pytestmark = pytest.mark.usefixtures("float64")
D = 8
rng = np.random.default_rng(0)
PARAMS = {name: rng.normal(size=(D, D)) for name in ("Wz", "Uz", "Wr", "Ur", "Wc", "Uc")}
PARAMS |= {name: rng.normal(size=D) for name in ("bz", "br")}
s, e = rng.normal(size=(2, 3, 2, D))


def gate(form="gru", **changes):
    return np.asarray(Gate(tiny(gate_form=form)).apply({"params": PARAMS | changes}, s, e))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def candidate(p):
    r = sigmoid(s @ p["Wr"] + e @ p["Ur"] + p["br"])
    return np.tanh(s @ p["Wc"] + (r * e) @ p["Uc"])


def test_equations():
    z = sigmoid(s @ PARAMS["Wz"] + e @ PARAMS["Uz"] + PARAMS["bz"])
    np.testing.assert_allclose(gate(), (1 - z) * e + z * candidate(PARAMS), rtol=0, atol=1e-12)


def test_a_blending_gate_takes_the_new_entry_as_it_is():
    z = sigmoid(s @ PARAMS["Wz"] + e @ PARAMS["Uz"] + PARAMS["bz"])
    np.testing.assert_allclose(gate("blend"), (1 - z) * e + z * s, rtol=0, atol=1e-12)


def test_a_gate_of_a_whole_slot_is_one_number():
    params = PARAMS | {"wz": PARAMS["Wz"][:, :1], "uz": PARAMS["Uz"][:, :1], "bz": PARAMS["bz"][:1]}
    # one column: the same for all channels
    z = sigmoid(s @ params["wz"] + e @ params["uz"] + params["bz"])
    new = np.asarray(Gate(tiny(gate_scope="slot")).apply({"params": params}, s, e))
    np.testing.assert_allclose(new, (1 - z) * e + z * candidate(params), rtol=0, atol=1e-12)
    np.testing.assert_allclose(new[..., 0], gate()[..., 0], rtol=0, atol=1e-12)
    assert np.abs(new - gate()).max() > 1e-2


def test_closed_it_keeps_open_it_overwrites():
    np.testing.assert_array_equal(gate(bz=np.full(D, -1e9)), e)
    np.testing.assert_allclose(gate(bz=np.full(D, 1e9)), candidate(PARAMS), rtol=0, atol=1e-12)


def test_reset_hides_the_slot_from_the_candidate():
    hidden = gate(bz=np.full(D, 1e9), br=np.full(D, -1e9))
    np.testing.assert_allclose(hidden, np.tanh(s @ PARAMS["Wc"]), rtol=0, atol=1e-12)


def test_it_starts_as_the_config_says():
    """The update gate's bias starts at `gate_bias`, the reset gate's at zero, fusion at equal
    shares.
    """
    config = tiny(gate_bias=-3.0)
    layers = jax.jit(RMAT(config).init)(jax.random.key(0), make_tokens(config, 1, 1))["params"][
        "layers"
    ]
    np.testing.assert_array_equal(layers["memory"]["gate"]["bz"], -3.0)
    np.testing.assert_array_equal(layers["memory"]["gate"]["br"], 0.0)
    np.testing.assert_array_equal(layers["fusion"], 0.0)
    # each layer draws its own
    assert np.abs(layers["query"]["kernel"][0] - layers["query"]["kernel"][1]).min() > 0


def test_a_clipped_gate_keeps_a_slot_for_ever():
    """Where the sigmoid's tail is below 1/12 nothing is written at all; the plain gate always
    writes a little.
    """

    def clipped(bias):
        params = PARAMS | {"Wz": np.zeros((D, D)), "Uz": np.zeros((D, D)), "bz": np.full(D, bias)}
        return [
            np.asarray(Gate(tiny(gate_curve=curve)).apply({"params": params}, s, e))
            for curve in ("clipped", "sigmoid")
        ]

    # sigmoid(-2.5) = 0.076
    shut, leaking = clipped(-2.5)
    np.testing.assert_array_equal(shut, e)
    assert np.abs(leaking - e).max() > 1e-3
    open_, _ = clipped(2.5)
    np.testing.assert_allclose(open_, candidate(PARAMS), rtol=0, atol=1e-12)


def test_noise_of_training_is_inside_the_sigmoid_and_each_rows_own():
    config = tiny(gate_form="blend", gate_scope="slot", gate_noise=0.7)
    rows, zero = 3000, np.zeros((D, 1))
    params = {"wz": zero, "uz": zero, "bz": np.full(1, -1.0)}
    s, e = np.ones((rows, 2, D)), np.zeros((rows, 2, D))

    def logits(seed=None, config=config, rows=rows):
        rngs = None if seed is None else {"dropout": jax.random.key(seed)}
        z = np.asarray(Gate(config).apply({"params": params}, s[:rows], e[:rows], rngs=rngs))
        # one for the whole slot
        assert (z == z[..., :1]).all()
        return np.log(z / (1 - z))[..., 0]

    # without a key, as when it is used
    np.testing.assert_allclose(logits(), -1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        logits(0, tiny(gate_form="blend", gate_scope="slot")), -1, rtol=0, atol=1e-12
    )
    drawn = logits(0)
    # 6,000 draws: standard errors of 0.009 and 0.006
    assert abs(drawn.mean() + 1) < 0.04 and abs(drawn.std() - 0.7) < 0.03
    assert len(np.unique(drawn.round(9))) == drawn.size and (logits(1) != drawn).all()
    # whoever else is in the batch
    np.testing.assert_array_equal(logits(0, rows=5), drawn[:5])
