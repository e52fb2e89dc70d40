"""Law 1, causality: the gradient of logit t with respect to input u > t is exactly zero, at every
t, not only a chunk's last.

The table of all gradients says more than that: which earlier inputs each logit depends on, and
through what.
"""

import numpy as np
import pytest

from rmat_jax.modules import block
from tests.models import DEFAULT, QUEUE, influence, name, tiny

pytestmark = pytest.mark.usefixtures("float64")
T, C = 24, 8
t, u = np.indices((T, T))
WIDE = {"local.sliding": True, "local.window": 2 * C}
OPTIONS = [
    {},
    {"local.sliding": True, "memory.keeps": "inputs", "rope": "global"},
    {"memory.read": "joint", "memory.gate": "slot"},
    {"local.sliding": True, "memory.gate": "none", "branches": ("local", "memory")},
    {"memory.gate": "none", "rope": "none"},
    QUEUE,
    DEFAULT,
]
CASES = [(options, True) for options in OPTIONS] + [({}, False), (DEFAULT, False)]


@pytest.mark.parametrize(
    ("options", "closed"), CASES, ids=lambda x: name(x) if isinstance(x, dict) else f"closed={x}"
)
def test_a_logit_depends_on_all_earlier_inputs_and_on_no_later_one(options, closed):
    """Across chunk borders the dependence runs through the memory, which holds a part of every
    token.
    """
    table = influence(tiny(**options), T, closed=closed)
    reached = (t // C > u // C) | ((t >= u) & ("full" in tiny(**options).branches))
    assert (table[u > t] == 0).all()
    assert (table[reached] > 0).all()


def test_without_memory_a_logit_depends_on_its_chunk_only():
    np.testing.assert_array_equal(
        influence(tiny(branches=("full", "local")), T) > 0, (u <= t) & (u // C == t // C)
    )


def test_block_windows_keep_to_their_block():
    np.testing.assert_array_equal(
        influence(tiny(branches=("local",)), T) > 0, (u <= t) & (u // 4 == t // 4)
    )


def test_sliding_windows_reach_back_over_borders():
    """W - 1 tokens a layer: the recurrence of a Transformer-XL."""
    table = influence(tiny(branches=("local",), **{"local.sliding": True}), T)
    np.testing.assert_array_equal(table > 0, (u <= t) & (t - u <= 2 * 3))


@pytest.mark.parametrize("branch", ["full", "local"])
def test_control_without_its_mask_each_branch_sees_the_future(monkeypatch, branch):
    visible = block.visible

    def sees_all(config, which, positions_BS, documents_BS, keys):
        if which == branch:
            config, positions_BS = tiny(**WIDE), positions_BS + C
        return visible(config, which, positions_BS, documents_BS, keys)

    monkeypatch.setattr(block, "visible", sees_all)
    config = tiny(rope_base=9_999.0, attention="obvious", **{"local.sliding": True})
    table = influence(config, T)
    inside = (u > t) & (u // C == t // C)
    assert (table[inside] > 0).all()
    assert (table[(u > t) & ~inside] == 0).all()
