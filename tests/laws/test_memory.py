"""Laws 8 and 10: the memory matters to every chunk but the first, works as a gated queue, and never
grows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.config import RMATConfig
from rmat_jax.infer import open_chunk
from rmat_jax.modules.state import State, initial_state
from tests.models import (
    DEFAULT,
    OPTIONS,
    QUEUE,
    covering,
    make_documents,
    make_params,
    make_tokens,
    name,
    open_reader,
    reader,
    stream,
    tiny,
)

pytestmark = pytest.mark.usefixtures("float64")
B, C, T = 2, 8, 32
GATES = covering(
    **{key: OPTIONS[key] for key in ("memory.gate", "memory.keeps", "memory.read", "memory.writes")}
)


def by_chunk(config, between):
    calls = [(C, None)] * (T // C)
    tokens = make_tokens(config, B, T)
    return stream(
        config,
        make_params(config),
        tokens,
        None,
        calls,
        initial_state(config, B),
        between,
    )[0]


@pytest.mark.parametrize("options", GATES, ids=name)
def test_cutting_the_memory_changes_every_chunk_but_the_first(options):
    config = tiny(**options)
    change = np.abs(by_chunk(config, State.forget) - by_chunk(config, lambda state: state)).max(-1)
    assert (change[:, :C] == 0).all()
    assert (change[:, C:] > 1e-6).all()


def test_control_without_a_memory_there_is_nothing_to_cut():
    config = tiny(**{"branches": ("full", "local"), "local.sliding": True})
    np.testing.assert_array_equal(
        by_chunk(config, State.forget), by_chunk(config, lambda state: state)
    )


def written_over(config, chunks):
    """[chunks + 1, M]: for each border, the slots' first components in the first layer; the ages
    beside them.
    """
    tokens, params = make_tokens(config, 1, chunks * C), make_params(config)
    states = [initial_state(config, 1)]
    for part in np.split(tokens, chunks, axis=1):
        states.append(reader(config)(params, part, states[-1])[1])
    return np.stack([s.memory_LBMD()[0, 0, :, 0] for s in states]), np.stack(
        [s.ages_BM[0] for s in states]
    )


def test_first_in_first_out():
    """Six slots, two written a chunk: the oldest leave at the front, the newest stand last,
    unwritten ones are zero.
    """
    slots, ages = written_over(tiny(**{"memory.gate": "none"}), 4)
    new, older, oldest = [1, 1], [2, 2, 1, 1], [3, 3, 2, 2, 1, 1]
    expected = [[0] * 6, [0] * 4 + new, [0] * 2 + older, oldest, oldest]
    np.testing.assert_array_equal(ages, expected)
    np.testing.assert_array_equal(slots[1:, :4], slots[:-1, 2:])
    np.testing.assert_array_equal(slots == 0, ages == 0)
    # every write is another
    assert len(np.unique(slots[1:, 4:])) == 8


@pytest.mark.parametrize("gate", ["gru", "slot", "none"])
def test_only_a_gate_lets_a_slot_outlive_the_queue(gate):
    """Four slots, two written a chunk: after two chunks none of the first is left, except for what
    the gate kept of them.

    The share of the memory is cut to zero, so that nothing is written because it was read.
    """
    config = tiny(**{"memory.gate": gate, "memory.slots": 4})
    params, tokens = make_params(config), make_tokens(config, 1, 2 * C)
    blind = params["layers"] | {"fusion": np.array([[0.0, 0.0, -np.inf]] * config.num_layers)}
    state = initial_state(config, 1)

    def left(slots):
        start = state.replace(slots_LBMD=slots, ages_BM=jnp.ones_like(state.ages_BM))
        return reader(config)(params | {"layers": blind}, tokens, start)[1].memory_LBMD()

    slots = jnp.full_like(state.slots_LBMD, 0.5)
    outlived = np.abs(left(slots.at[:, :, -1].set(-0.5)) - left(slots))[:, 0].max(-1) > 0
    expected = [0, 0, 0, int(gate != "none")]
    np.testing.assert_array_equal(outlived, [expected] * config.num_layers)


def test_a_slot_gate_can_shut_for_ever():
    """Shut, it keeps a slot to the last bit; the GRU cell never does."""
    for gate, kept in (("slot", True), ("gru", False)):
        config = tiny(**{"memory.gate": gate, "memory.slots": 2})
        params = make_params(config)
        shut = params["layers"]["memory"]["gate"] | {
            "bz": -30.0 * jnp.ones_like(params["layers"]["memory"]["gate"]["bz"])
        }
        memory = params["layers"]["memory"] | {"gate": shut}
        params = params | {"layers": params["layers"] | {"memory": memory}}
        state = initial_state(config, 1)
        state = state.replace(
            slots_LBMD=jnp.full_like(state.slots_LBMD, 0.5), ages_BM=jnp.ones_like(state.ages_BM)
        )
        _, after = reader(config)(params, make_tokens(config, 1, 4 * C), state)
        assert (np.asarray(after.slots_LBMD) == 0.5).all() == kept


def test_a_queue_of_every_token_that_the_layer_reads_is_full_attention():
    """Four chunks, read with a queue of three chunks' tokens, cost what one chunk of all their
    tokens does.
    """
    queue = QUEUE | {"memory.slots": 3 * C, "token_shift": False}
    config, whole = tiny(**queue), tiny(branches=("full",), chunk_len=T)
    params, tokens = make_params(whole), make_tokens(whole, B, T)
    documents = np.tile(make_documents([3], T), (B, 1))
    expected = reader(whole)(params, tokens, None, documents)[0]

    def error(config, bias=0.0):
        layers = params["layers"] | {
            "memory_bias": np.full((config.num_layers, config.num_heads), bias)
        }
        return np.abs(
            reader(config)(params | {"layers": layers}, tokens, None, documents)[0] - expected
        ).max()

    assert error(config) < 1e-12
    assert error(config, bias=-0.1) > 1e-6
    for other in ({"memory.writes": C // 2}, {"memory.slots": 2 * C}, {"chunk_len": C // 2}):
        assert error(tiny(**queue | {"memory.writes": None} | other)) > 1e-6


def test_unwritten_slots_are_invisible():
    """Whatever lies in a slot of age zero is neither read nor gated against."""
    config = tiny()
    params, tokens = make_params(config), make_tokens(config, B, 2 * C)
    documents = np.tile(make_documents([3], 2 * C), (B, 1))
    empty = initial_state(config, B)
    rubbish = empty.replace(slots_LBMD=jnp.full_like(empty.slots_LBMD, 7.0))
    for owners in (None, documents):
        clean, after = reader(config)(params, tokens, empty, owners)
        dirty, after_dirty = reader(config)(params, tokens, rubbish, owners)
        np.testing.assert_array_equal(dirty, clean)
        np.testing.assert_array_equal(after_dirty.memory_LBMD(), after.memory_LBMD())
    marked = rubbish.replace(ages_BM=jnp.ones_like(rubbish.ages_BM))
    assert (
        np.abs(
            reader(config)(params, tokens, marked)[0] - reader(config)(params, tokens, empty)[0]
        ).max()
        > 1e-6
    )


def test_the_state_is_as_large_after_10_tokens_as_after_10_000():
    config = tiny(**DEFAULT)
    params, fresh = make_params(config), open_chunk.initial_state(config, 1)
    sizes = []
    for length in (10, 10_000):
        _, state = open_reader(config)(params, make_tokens(config, 1, length), fresh)
        sizes.append(state.num_bytes())
        shapes = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (state, fresh))
        assert next(shapes) == next(shapes)
    assert sizes[0] == sizes[1] == fresh.num_bytes()


def test_the_default_has_every_mechanism_of_the_title_on():
    """Cutting any of them changes the logits."""
    config = RMATConfig()
    assert config.branches == ("full", "local", "memory")
    assert config.local.sliding and config.memory.gate == "slot"
    assert (config.memory.keeps, config.memory.read) == ("inputs", "joint")
    config = tiny(**DEFAULT)
    params, tokens = make_params(config), make_tokens(config, B, T)
    logits, state = reader(config)(params, tokens)
    gate = params["layers"]["memory"]["gate"]
    still = {"gate": jax.tree.map(jnp.zeros_like, gate)}
    alone = params["layers"] | {"fusion": np.array([[0.0, -np.inf]] * config.num_layers)}
    for cut in (params["layers"] | {"memory": still}, alone):
        other, _ = reader(config)(params | {"layers": cut}, tokens)
        assert np.abs(other - logits)[:, 3 * C :].max() > 1e-6
