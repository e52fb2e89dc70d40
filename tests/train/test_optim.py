"""The optimiser: which parameters decay, the schedule's corners, clipping."""

import jax
import numpy as np
import pytest

from rmat_jax.config import Config, OptimConfig
from rmat_jax.flags import changed
from rmat_jax.train.optim import decay_begins, decayed, make_optimizer, make_schedule
from tests.models import make_params, tiny

PARAMS = make_params(tiny(dtype="float32", tie_embeddings=False))
CONFIG = Config(
    steps=100,
    optim=OptimConfig(learning_rate=0.5, warmup_steps=10, weight_decay=0.1, clip_norm=1.0),
)

DECAYED = {
    "embed/embedding",
    "output",
    "layers/query/kernel",
    "layers/key/kernel",
    "layers/value/kernel",
    "layers/output/kernel",
    "layers/mlp/inner/kernel",
    "layers/mlp/outer/kernel",
    "layers/memory/key/kernel",
    "layers/memory/value/kernel",
}
KEPT = {
    "final_norm/scale",
    "final_norm/bias",
    "layers/fusion",
    *(
        f"layers/{norm}/{part}"
        for norm in ("attention_norm", "mlp_norm")
        for part in ("scale", "bias")
    ),
    *(
        f"layers/memory/{norm}/{part}"
        for norm in ("read_norm", "write_norm")
        for part in ("scale", "bias")
    ),
    *(f"layers/mlp/{layer}/bias" for layer in ("inner", "outer")),
    *(f"layers/memory/gate/{name}" for name in ("Wz", "Uz", "Wr", "Ur", "Wc", "Uc", "bz", "br")),
}


def by_path(tree):
    return {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_matrices_decay_and_norms_biases_gates_and_fusion_do_not():
    marks = by_path(decayed(PARAMS))
    assert {path for path, decays in marks.items() if decays} == DECAYED
    assert {path for path, decays in marks.items() if not decays} == KEPT


def test_without_a_gradient_only_decayed_parameters_move():
    optimizer, zeros = make_optimizer(CONFIG), jax.tree.map(np.zeros_like, PARAMS)
    state = optimizer.init(PARAMS)
    # the first step's rate is zero
    for _ in range(2):
        updates, state = jax.jit(optimizer.update)(zeros, state, PARAMS)
    for path, update in by_path(updates).items():
        expected = -make_schedule(CONFIG)(1) * 0.1 * by_path(PARAMS)[path] if path in DECAYED else 0
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0), (5, 0.25), (10, 0.5), (55, 0.275), (100, 0.05), (200, 0.05)]
)
def test_warm_up_then_cosine(step, rate):
    np.testing.assert_allclose(make_schedule(CONFIG)(step), rate, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {0: 0, 5: 0.25, 10: 0.5, 99: 0.5, 1000: 0.5}),
        ("wsd", {0: 0, 5: 0.25, 10: 0.5, 90: 0.5, 95: 0.275, 100: 0.05, 200: 0.05}),
    ],
)
def test_other_schedules(schedule, rates):
    config = changed(CONFIG, {"optim.schedule": schedule})
    for step, rate in rates.items():
        np.testing.assert_allclose(make_schedule(config)(step), rate, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_steps_may_change_as_long_as_the_rates_are_the_same(name):
    config = changed(CONFIG, {"optim.schedule": name})
    longer, end = changed(config, {"steps": 150}), decay_begins(config)
    one, other = (
        np.array([make_schedule(c)(step) for step in range(100)]) for c in (config, longer)
    )
    assert end == {"cosine": 10, "wsd": 90, "constant": 100}[name]
    np.testing.assert_array_equal(one[: end + 1], other[: end + 1])
    # the control
    assert name == "constant" or one[end + 1] != other[end + 1]


def test_gradients_are_clipped_together():
    """Whatever their size, above the limit only their direction counts; below it they are left
    alone.
    """
    optimizer = make_optimizer(CONFIG)

    def second_moment(size):
        gradient = jax.tree.map(lambda x: np.full_like(x, size), PARAMS)
        _, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
        return np.sqrt(
            sum(leaf.sum() for leaf in jax.tree.leaves(state[1][0].nu)) / (1 - CONFIG.optim.beta2)
        )

    np.testing.assert_allclose(second_moment(10.0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(second_moment(1000.0), 1.0, rtol=1e-5)
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    np.testing.assert_allclose(second_moment(1e-3), 1e-3 * np.sqrt(count), rtol=1e-5)
