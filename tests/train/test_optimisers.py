"""What every optimiser keeps to: layers are apart, devices divide its state, a resumed run is the
same run, and the averaged weights are those that are used.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import muon, schedule_free_adamw, schedule_free_eval_params

from rmat_jax.config import OPTIMISERS, Config, MeshConfig, OptimConfig
from rmat_jax.errors import UserError
from rmat_jax.flags import changed
from rmat_jax.runs import load_run
from rmat_jax.train import averages, loop, optim, parallel, sharding
from rmat_jax.train.checkpoint import digests
from rmat_jax.train.metrics import read_metrics
from rmat_jax.train.optim import decayed, make_optimizer
from tests.laws.test_mesh import make_config
from tests.models import DEFAULT, make_params, tiny
from tests.train.test_loop import load
from tests.train.test_resume import saved

OTHERS = [name for name in OPTIMISERS if name != "adamw"]
PARAMS = make_params(tiny(dtype="float32", width=16, **DEFAULT))


@pytest.fixture(autouse=True)
def factored(monkeypatch):
    """Adafactor has factors for small matrices, too."""
    monkeypatch.setattr(optim, "FACTORED", 8)


def config_of(name, **more) -> Config:
    optim = OptimConfig(
        name=name, learning_rate=0.1, warmup_steps=0, schedule="constant", clip_norm=1e9, **more
    )
    return Config(steps=100, optim=optim)


def gradients(step, params=PARAMS):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), params)


def run(optimizer, params, change=lambda grads: grads, steps=3):
    """The parameters after some steps, and the state."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(change(gradients(step)), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def close(actual, expected, tolerance=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), actual, expected
    )


def layer(tree, index):
    return {"layers": jax.tree.map(lambda x: x[index : index + 1], tree["layers"])}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_layer_of_a_stack_learns_as_if_it_were_alone(name):
    optimizer = make_optimizer(config_of(name))
    stacked, _ = run(optimizer, PARAMS)
    for index in range(2):
        alone, _ = run(optimizer, layer(PARAMS, index), lambda g, index=index: layer(g, index))
        close(alone, layer(stacked, index))
        # the control
        with pytest.raises(AssertionError):
            close(alone, layer(stacked, 1 - index))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_they_are_those_of_optax(name):
    """Without decay, on the matrix of one layer, where all say the same."""
    c = config_of(name, weight_decay=0.0).optim
    rate, betas = c.learning_rate, (c.beta1, c.beta2)
    theirs = {
        "adamw": lambda: optax.adam(rate, *betas),
        "muon": lambda: muon(rate, consistent_rms=0.2),
        "adafactor": lambda: optax.adafactor(rate, 8, multiply_by_parameter_scale=False),
        "lion": lambda: optax.lion(rate, *betas, weight_decay=0.0),
        "schedule_free": lambda: schedule_free_adamw(rate, None, *betas),
    }[name]()

    def matrix(tree):
        return tree["layers"]["mlp"]["inner"]["kernel"][0]

    def stack(tree):
        return {"layers": {"mlp": {"inner": {"kernel": matrix(tree)[None]}}}}

    expected = run(theirs, matrix(PARAMS), matrix)[0]
    for mine in (name, OPTIMISERS[OPTIMISERS.index(name) - 1]):
        ours = make_optimizer(config_of(mine, weight_decay=0.0))
        actual = matrix(run(ours, stack(PARAMS), stack)[0])
        # the control is another one
        assert np.allclose(actual, expected, rtol=0, atol=2e-5) == (mine == name)


@pytest.mark.parametrize("name", OTHERS)
def test_decay_is_of_the_same_weights(name):
    """Without gradients, and per step by rate times decay."""
    optimizer = make_optimizer(config_of(name))
    after, state = run(optimizer, PARAMS, lambda g: jax.tree.map(jnp.zeros_like, g), steps=1)
    if name == "schedule_free":
        after = state[1].z
    expected = jax.tree.map(lambda w, d: w * (1 - 0.1 * 0.1 * d), PARAMS, decayed(PARAMS))
    close(after, expected, 1e-6)
    with pytest.raises(AssertionError):
        close(after, PARAMS, 1e-6)


def test_muon_makes_kernels_orthogonal_and_leaves_the_rest_to_adam():
    params, _ = run(make_optimizer(config_of("muon", weight_decay=0.0)), PARAMS, steps=1)
    adam, _ = run(make_optimizer(config_of("adamw", weight_decay=0.0)), PARAMS, steps=1)
    kernels = []

    def check(path, new, old, of_adam):
        if path[-1].key != "kernel":
            return close(new, of_adam)
        kernels.append(path)
        size = 0.1 * 0.2 * np.sqrt(max(new.shape[-2:]))
        values = np.linalg.svd(np.asarray(new - old), compute_uv=False) / size
        assert (values > 0.3).all() and (values < 1.3).all(), values
        # the control
        assert np.linalg.svd(np.asarray(of_adam - old), compute_uv=False).max() / size > 1.3

    jax.tree_util.tree_map_with_path(check, params, PARAMS, adam)
    assert len(kernels) == 7


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OTHERS)
def test_on_a_mesh_it_is_the_same_and_its_state_is_divided(name, monkeypatch):
    """In float64, where only a wrong program differs."""
    monkeypatch.setattr(optim, "FACTORED", 32)
    config = make_config(MeshConfig(data=2, fsdp=2, tensor=2), dtype="float64")
    config = dataclasses.replace(config, optim=config_of(name, ema=0.0).optim)
    optimizer, mesh = make_optimizer(config), sharding.make_mesh(config.mesh)
    abstract = parallel.abstract_state(config, optimizer, mesh)
    placed = jax.tree.map(lambda x: x.sharding, abstract)
    params = jax.tree.map(
        lambda x: np.random.default_rng(x.size).normal(size=x.shape), abstract.params
    )

    def two_steps(params, opt_state):
        for step in range(2):
            updates, opt_state = optimizer.update(gradients(step, params), opt_state, params)
            params = optax.apply_updates(params, updates)
        return params, opt_state

    expected = jax.jit(two_steps)(params, optimizer.init(params))
    divided = (placed.params, placed.opt_state)
    inputs = jax.device_put((params, optimizer.init(params)), divided)
    actual = jax.jit(two_steps, in_shardings=divided, out_shardings=divided)(*inputs)
    close(jax.device_get(actual), jax.device_get(expected), 1e-10)
    held = sum(x.addressable_shards[3].data.nbytes for x in jax.tree.leaves(actual[1]))
    whole = sum(x.nbytes for x in jax.tree.leaves(actual[1]))
    # what a device has of matrices is a quarter; vectors and Adafactor's factors are whole
    big = sum(x.nbytes for x in jax.tree.leaves(actual[1]) if x.size >= 512)
    assert held <= whole - 0.7 * big
    assert name == "adafactor" or whole < 1.4 * big


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("name=muon", "ema=0.5"), marks=pytest.mark.slow),
        ("name=schedule_free", "schedule=constant"),
        pytest.param(("name=adafactor",), marks=pytest.mark.slow),
        pytest.param(("name=lion", "ema=0.5"), marks=pytest.mark.slow),
    ],
)
def test_it_resumes_bit_for_bit_and_its_average_is_what_is_used(flags, text, tmp_path):
    config = load(
        text,
        *(f"--config.optim.{flag}" for flag in flags),
        *("--config.log.eval_every=2", "--config.log.sample_tokens=0"),
    )
    for folder, stops in (("whole", [2]), ("parts", [1, 2])):
        for until in stops:
            loop.run(config, tmp_path / folder, until=until)
    _, state, _ = saved(config, tmp_path / "whole")
    assert digests(state) == digests(saved(config, tmp_path / "parts")[1])
    if config.optim.name == "schedule_free":
        expected = schedule_free_eval_params(state.opt_state[1], state.params)
    else:
        expected = state.ema or state.params
    params = load_run(tmp_path / "whole")[1]
    close(params, expected, 1e-6)
    used, trained = (
        loop.evaluate_heldout(config, of, loop.make_data(config, tmp_path / "whole").heldout, None)
        for of in (params, state.params)
    )
    (record,) = (r for r in read_metrics(tmp_path / "whole") if r["split"] == "heldout")
    assert record["bits_per_token"] == pytest.approx(used.bits_per_token, abs=1e-5)
    # the control
    averaged = config.optim.name == "schedule_free" or config.optim.ema
    assert (abs(record["bits_per_token"] - trained.bits_per_token) > 1e-4) == bool(averaged)


def test_the_moving_average():
    c, start, w = config_of("adamw", ema=0.75).optim, {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    average = averages.begin(c, start)
    assert average["w"] is not start["w"]
    # young: (1 + n) / (10 + n); then `ema`
    for updates, keep in ((1, 2 / 11), (20, 0.7), (100, 0.75)):
        moved = averages.move(c, average, w, jnp.int32(updates))
        np.testing.assert_allclose(moved["w"], 1 - keep, rtol=1e-6)
    assert averages.begin(config_of("adamw").optim, start) is None


def test_what_an_optimiser_does_not_have_cannot_be_set(text):
    assert OptimConfig(name="adafactor").beta1 is None
    assert (OptimConfig().beta2, OptimConfig(name="lion").beta2) == (0.95, 0.99)
    lion = changed(Config(), {"optim.name": "lion"})
    assert lion.optim.beta2 == 0.99 and changed(lion, {"optim.name": "adamw"}) == Config()
    assert load(text, "--config.optim.name=lion").optim.beta2 == 0.99
    assert load(text, "--config.optim.name=adafactor").optim.beta2 is None
    for flags, message in (
        (("name=adafactor", "beta1=0.9"), "beta1=0.9 has no effect with optim.name=adafactor"),
        (("name=schedule_free",), "schedule=cosine falls, and .*; give optim.schedule=constant"),
        (("name=schedule_free", "schedule=constant", "ema=0.9"), "ema=0.9 averages what"),
        (("name=schedule_free", "schedule=constant", "beta1=0"), "beta1=0.0 must be positive"),
        (("name=sgd",), "optim.name=sgd is not one of adamw, muon, adafactor, lion, schedule_fre"),
        (("ema=1",), "optim.ema=1.0 must lie in"),
    ):
        with pytest.raises(UserError, match=message):
            load(text, *(f"--config.optim.{flag}" for flag in flags))
