"""Law 1, causality: the gradient of logit t with respect to input u > t is exactly zero, at every
t, not only a chunk's last.

The table of all gradients says more than that: which earlier inputs each logit depends on, and
through what.
"""

import numpy as np
import pytest

from rmat_jax.ops import attention
from tests.models import DEFAULT, influence, name, tiny

pytestmark = pytest.mark.usefixtures("float64")
T, C = 24, 8
t, u = np.indices((T, T))
OPTIONS = [
    {"window": "block", "gate": "evicted", "memory_pool": "mean"},
    {"window": "sliding", "gate": "evicted", "memory_pool": "attention", "rope": "global"},
    {"window": "block", "gate": "newest", "memory_pool": "attention", "memory_age": "rotary"},
    {"window": "sliding", "gate": "newest", "memory_pool": "mean"},
    {"window": "sliding", "gate": "none", "memory_pool": "mean", "streams": ("local", "memory")},
    {"window": "block", "gate": "none", "memory_pool": "attention", "rope": "none"},
    DEFAULT,
]
CASES = [(options, False) for options in OPTIONS] + [(options, True) for options in OPTIONS[:2]]


@pytest.mark.parametrize(
    ("options", "closed"), CASES, ids=lambda x: name(x) if isinstance(x, dict) else f"closed={x}"
)
def test_a_logit_depends_on_all_earlier_inputs_and_on_no_later_one(options, closed):
    """Across chunk borders the dependence runs through the memory, which holds a part of every
    token.
    """
    table = influence(tiny(**options), T, closed=closed)
    reached = (t // C > u // C) | ((t >= u) & ("full" in tiny(**options).streams))
    assert (table[u > t] == 0).all()
    assert (table[reached] > 0).all()


def test_without_memory_a_logit_depends_on_its_chunk_only():
    np.testing.assert_array_equal(
        influence(tiny(streams=("full", "local")), T) > 0, (u <= t) & (u // C == t // C)
    )


def test_block_windows_keep_to_their_block():
    np.testing.assert_array_equal(
        influence(tiny(streams=("local",)), T) > 0, (u <= t) & (u // 4 == t // 4)
    )


def test_sliding_windows_reach_back_over_borders():
    """W - 1 tokens a layer: the recurrence of a Transformer-XL."""
    table = influence(tiny(streams=("local",), window="sliding"), T)
    np.testing.assert_array_equal(table > 0, (u <= t) & (t - u <= 2 * 3))


@pytest.mark.parametrize("stream", ["full", "local"])
def test_control_without_its_mask_each_stream_sees_the_future(monkeypatch, stream):
    visible = attention.visible

    def sees_all(which, positions_BS, documents_BS, keys, window_len, window):
        positions_BS = positions_BS + C if which == stream else positions_BS
        return visible(which, positions_BS, documents_BS, keys, 2 * C, window)

    monkeypatch.setattr(attention, "visible", sees_all)
    table = influence(tiny(window="sliding"), T)
    inside = (u > t) & (u // C == t // C)
    assert (table[inside] > 0).all()
    assert (table[(u > t) & ~inside] == 0).all()
