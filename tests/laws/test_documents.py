"""Law 3, packed documents never see each other: what stands before or after a document in its lane
changes nothing for it.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmat_jax.infer.open_chunk import initial_state
from rmat_jax.modules import block
from rmat_jax.modules.documents import NOBODY
from tests.models import (
    DEFAULT,
    assert_same,
    facts,
    influence,
    make_documents,
    make_params,
    make_tokens,
    name,
    open_reader,
    reader,
    tiny,
)

pytestmark = pytest.mark.usefixtures("float64")
T, C = 24, 8
t, u = np.indices((T, T))
# Three begin in the first chunk; the last of these ends in the second, when the queue is its own;
# the fourth reads on.
DOCUMENTS = make_documents([3, 2, 6], T)
OPTIONS = [
    {},
    {"local.sliding": True, "memory.read": "joint", "memory.gate": "slot", "rope": "global"},
    {"local.sliding": True, "memory.gate": "none"},
    {"branches": ("full", "local"), "local.sliding": True},
    DEFAULT,
]


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("options", [*OPTIONS[:2], DEFAULT], ids=name)
def test_a_logit_depends_on_the_earlier_inputs_of_its_document_and_on_nothing_else(options, closed):
    table = influence(tiny(**options), T, DOCUMENTS, closed=closed)
    np.testing.assert_array_equal(table > 0, (u <= t) & (DOCUMENTS[u] == DOCUMENTS[t]))


def test_control_as_one_document_they_see_each_other():
    table = influence(tiny(**OPTIONS[0]), T)
    assert (table[(u <= t) & (DOCUMENTS[u] != DOCUMENTS[t])] > 0).all()


@pytest.mark.parametrize("branch", ["full", "local", "memory"])
def test_control_each_branch_needs_its_mask(monkeypatch, branch):
    visible = block.visible

    def sees_all(config, which, positions_BS, documents_BS, keys):
        # each place that some document fills belongs to the reader's
        if which == branch:
            filled_BJ = keys.documents_BJ != NOBODY
            documents_BS = jnp.zeros_like(documents_BS)
            keys = keys._replace(documents_BJ=jnp.where(filled_BJ, 0, NOBODY))
        return visible(config, which, positions_BS, documents_BS, keys)

    monkeypatch.setattr(block, "visible", sees_all)
    config = tiny(rope_base=9_998.0, attention="obvious", **{"local.sliding": True})
    table = influence(config, T, DOCUMENTS)
    assert table[(u <= t) & (DOCUMENTS[u] != DOCUMENTS[t])].max() > 0


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@settings(max_examples=15, derandomize=True, deadline=None)
@given(cuts=st.sets(st.integers(1, T), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_document_in_its_lane_is_the_document_alone(options, cuts, seed):
    """Read alone, from a fresh state at its offset in the chunk, a document has the same logits and
    leaves the same state.

    Row i of one batch holds the lane up to the end of document i, row i of the other holds document
    i only.
    """
    config, rows = tiny(**options), 8
    params, lane = make_params(config), make_tokens(config, 1, T, seed)[0]
    starts = [0, *sorted(cuts - {T})]
    ends = [*starts[1:], T]
    # rows that read nothing
    unused = [0] * (rows - len(starts))
    starts, ends = np.array(starts + unused, np.int32), np.array(ends + unused, np.int32)
    documents = make_documents(list(np.diff(np.unique([0, *starts, T]))), T)

    index = np.arange(T)[None]
    packed, after = open_reader(config)(
        params,
        np.tile(lane, (rows, 1)),
        initial_state(config, rows),
        np.tile(documents, (rows, 1)),
        ends,
    )
    here = np.minimum(starts[:, None] + index, T - 1)
    fresh = initial_state(config, rows).replace(position_B=starts % C)
    alone, after_alone = open_reader(config)(
        params, lane[here], fresh, documents[here], ends - starts
    )

    for row in range(len(cuts - {T}) + 1):
        length = ends[row] - starts[row]
        np.testing.assert_allclose(
            packed[row, starts[row] : ends[row]], alone[row, :length], rtol=0, atol=1e-12
        )
    assert_same(facts(config, after), facts(config, after_alone), 1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_other_documents_may_hold_anything(options):
    """New tokens in all other documents leave a document's logits as they are, to the last bit."""
    config = tiny(**options)
    params, tokens = make_params(config), make_tokens(config, 1, T)
    before, _ = reader(config)(params, tokens, None, DOCUMENTS[None])
    for document in np.unique(DOCUMENTS):
        mine = document == DOCUMENTS
        others = np.where(mine, tokens, (tokens + 1) % config.vocab_size)
        after, _ = reader(config)(params, others, None, DOCUMENTS[None])
        np.testing.assert_array_equal(after[0, mine], before[0, mine])
        assert (np.abs(after - before)[0, ~mine].max(-1) > 0).all()
