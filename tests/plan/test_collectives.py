"""Exchanged bytes from a compiled program's text: programs compiled here for eight CPU devices, and
lines as TPUs have them.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from rmat_jax.plan.collectives import KINDS, Collective, bytes_sent, find

# numbers on one device
LENGTH = 1024
BYTES = 4 * LENGTH


def compiled(body) -> str:
    """The text of `body(x)` on 2 x 4 devices, each with LENGTH numbers of float32."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.shard_map(
        body, mesh=mesh, in_specs=P(("a", "b")), out_specs=P(("a", "b")), check_vma=False
    )
    return (
        jax.jit(spread).lower(jax.ShapeDtypeStruct((8 * LENGTH,), jnp.float32)).compile().as_text()
    )


def repeated(body, length):
    def run(x):
        return jax.lax.scan(lambda x, _: (body(x), None), x, None, length=length)[0]

    return run


def add_up(x, axes="b"):
    # of a sum of equals the compiler would make a product
    return jnp.sin(jax.lax.psum(x, axes))


def gather(x):
    return jnp.sin(jax.lax.all_gather(x, "b", tiled=True)[:LENGTH])


def scatter(x):
    return jnp.tile(jax.lax.psum_scatter(jnp.sin(x), "b", tiled=True), 4)


def exchange(x):
    return jax.lax.all_to_all(jnp.sin(x), "b", 0, 0, tiled=True)


def shift(x):
    return jax.lax.ppermute(jnp.sin(x), "b", [(i, (i + 1) % 4) for i in range(4)])


# bytes that a device sends, by the definition
EXPECTED = {
    "all-reduce": (add_up, 2 * 3 / 4 * BYTES),
    "all-gather": (gather, 3 / 4 * 4 * BYTES),
    "reduce-scatter": (scatter, 3 / 4 * BYTES),
    "all-to-all": (exchange, 3 / 4 * BYTES),
    "collective-permute": (shift, BYTES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind):
    body, expected = EXPECTED[kind]
    assert bytes_sent(compiled(body)).kinds == dict.fromkeys(KINDS, 0.0) | {kind: expected}


@pytest.mark.parametrize("outer, inner", [(3, 5), (3, 1), (1, 5)])
def test_loops_multiply(outer, inner):
    """Each length shows in the total, so that a loop left out would."""
    text = compiled(repeated(lambda x: add_up(repeated(add_up, inner)(x)), outer))
    assert bytes_sent(text).kinds["all-reduce"] == outer * (inner + 1) * 2 * 3 / 4 * BYTES


@pytest.mark.parametrize("axes, group", [("a", 2), ("b", 4), (("a", "b"), 8)])
def test_the_group_is_of_those_who_talk(axes, group):
    text = compiled(functools.partial(add_up, axes=axes))
    assert find(text) == [Collective("all-reduce", BYTES, group, 1)]
    sent = bytes_sent(text, {"a": 2, "b": 4})
    assert sent.axes == {" x ".join(axes): sent.kinds["all-reduce"]}
    # control: the axes in another order lie elsewhere
    assert len(axes) == 2 or bytes_sent(text, {"b": 4, "a": 2}).axes != sent.axes


def test_a_group_of_one_sends_nothing():
    mesh = jax.make_mesh((8, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    body = jax.shard_map(
        lambda x: jax.lax.psum(x, "b"), mesh=mesh, in_specs=P("a"), out_specs=P("a")
    )
    assert find(jax.jit(body).lower(jnp.zeros(8)).compile().as_text()) == []


def test_tuples_are_added_up():
    def body(x):
        one, other = jax.lax.psum((jnp.sin(x), jnp.cos(x).astype(jnp.bfloat16)), "b")
        return one + other

    assert sum(bytes_sent(compiled(body)).kinds.values()) in (
        2 * 3 / 4 * (BYTES + BYTES / 2),
        # the CPU's compiler adds bfloat16 up as float32
        2 * 3 / 4 * 2 * BYTES,
    )


def program(*lines: str, entry: str = "") -> str:
    return "\n".join(
        [
            "HloModule step, num_partitions=8",
            *lines,
            "ENTRY %main (p: f32[8]) -> f32[8] {",
            entry,
            "}",
        ]
    )


RING = "channel_id=7, replica_groups=[2,4]<=[8]"
CHAIN = 'frontend_attributes={chain_id="3"}'
STAGES = [
    line
    for stage in "abc"
    for line in (
        f"%stage_{stage} (p: f32[2,4]) -> f32[2,16] {{",
        f"  ROOT %all-gather.{stage} = f32[2,16]{{1,0:T(8,128)S(1)}} all-gather(%p), {RING}, "
        f"dimensions={{1}}, {CHAIN}",
        "}",
    )
]
CALLS = "\n".join(
    f"  %fusion.{stage} = f32[2,16] fusion(%p), kind=kCustom, calls=%stage_{stage}"
    for stage in "abc"
)


def loop(body: str, length: int, step: int = 1) -> list[str]:
    """A loop as a TPU program has it, whose counter is the second thing that it carries."""
    return [
        "%body (p: (f32[8], s32[])) -> (f32[8], s32[]) {",
        "  %counter = s32[]{:T(128)} get-tuple-element(%p), index=1",
        f"  %step = s32[]{{:T(128)}} constant({step})",
        "  %next = s32[]{:T(128)} add(%counter, %step)",
        "  %copied = s32[]{:T(128)} copy(%next), backend_config={}",
        body,
        "  ROOT %result = (f32[8], s32[]) tuple(%x, %copied)",
        "}",
        "%condition (p: (f32[8], s32[])) -> pred[] {",
        f"  %length = s32[]{{:T(128)}} constant({length}), metadata={{}}",
        "  %counter = s32[]{:T(128)} get-tuple-element(%p), index=1",
        "  ROOT %compare = pred[]{:T(128)} compare(%counter, %length), direction=LT",
        "}",
    ]


WHILE = """  %start = s32[]{:T(128)} constant(0)
  %state = (f32[8], s32[]) tuple(%p, %start)
  %while.1 = (f32[8], s32[]) while(%state), condition=%condition, body=%body"""


def test_the_stages_of_one_collective_are_one():
    whole = Collective("all-gather", 2 * 16 * 4, 4, 1)
    assert find(program(*STAGES, entry=CALLS)) == [whole]
    others = [line.replace(', frontend_attributes={chain_id="3"}', "") for line in STAGES]
    assert find(program(*others, entry=CALLS)) == [whole] * 3


def test_a_computation_that_is_called_twice_runs_twice():
    lines = [
        "%called (p: f32[8]) -> f32[8] {",
        f"  ROOT %all-reduce.1 = f32[8]{{0}} all-reduce(%p), {RING}, to_apply=%add",
        "}",
    ]
    call = "  %call.{} = f32[8] call(%p), to_apply=%called"
    one = Collective("all-reduce", 32, 4, 1)
    assert find(program(*lines, entry=call.format(1))) == [one]
    assert find(program(*lines, entry=f"{call.format(1)}\n{call.format(2)}")) == [one, one]


@pytest.mark.parametrize("length, step, runs", [(12, 1, 12), (8, 2, 4), (7, 2, 4)])
def test_a_loop_without_a_note_counts(length, step, runs):
    """The loops into which the TPU's compiler makes a product beside its communication go two steps
    at a time.
    """
    assert find(program(*STAGES, *loop(CALLS, length, step), entry=WHILE)) == [
        Collective("all-gather", 128, 4, runs)
    ]


def test_a_loop_with_a_note():
    text = program(*STAGES, *loop(CALLS, 12), entry=WHILE)
    noted = text.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert find(noted) == [Collective("all-gather", 128, 4, 5)]


@pytest.mark.parametrize(
    "old, new",
    [("direction=LT", "direction=NE"), (" add(", " multiply("), ("constant(0)", "parameter(0)")],
)
def test_a_loop_that_counts_otherwise_is_refused(old, new):
    text = program(*STAGES, *loop(CALLS, 12), entry=WHILE)
    with pytest.raises(ValueError, match="how often does the loop while.1 run"):
        find(text.replace(old, new))


def test_a_chain_in_two_places_is_two():
    text = program(*STAGES, *loop(CALLS, 12), entry=f"{CALLS}\n{WHILE}")
    assert sorted(c.runs for c in find(text)) == [1, 12]


def test_an_all_reduce_of_which_a_part_is_kept_is_a_reduce_scatter():
    lines = [
        "%all-reduce-scatter.3.clone (p: bf16[64]) -> bf16[16] {",
        f"  %all-reduce.5 = bf16[64]{{0}} all-reduce(%p), {RING}, to_apply=%add",
        "  ROOT %dynamic-slice.5 = bf16[16]{0} dynamic-slice(%all-reduce.5, %i), "
        "dynamic_slice_sizes={16}",
        "}",
    ]
    call = "  %fusion.5 = bf16[16] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3.clone"
    assert find(program(*lines, entry=call)) == [Collective("reduce-scatter", 128, 4, 1)]
    plain = [line.replace("all-reduce-scatter", "other") for line in lines]
    assert find(program(*plain, entry=call.replace("all-reduce-scatter", "other"))) == [
        Collective("all-reduce", 128, 4, 1)
    ]


@pytest.mark.parametrize(
    "groups, size, axes",
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3, "y"),
        ("replica_groups={{0,4},{1,5}}", 2, "x"),
        ("replica_groups=[2,4]<=[8]", 4, "y"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2, "x"),
        ("replica_groups={}", 8, "xy"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4, "y"),
        ("replica_groups=mesh['w'=1,'x'=2,'y'=4] {'x','y'}", 8, "xy"),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", 2, "x"),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", 4, "y"),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", 2, "x"),
    ],
)
def test_groups_in_each_notation(groups, size, axes):
    entry = f"  %all-reduce.1 = f32[8]{{0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add"
    assert find(program(entry=entry), {"x": 2, "y": 4}) == [
        Collective("all-reduce", 32, size, 1, axes=tuple(axes))
    ]


def test_groups_in_an_unknown_notation_are_refused():
    entry = (
        "  %all-reduce.1 = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups=those over there"
    )
    with pytest.raises(ValueError, match="notation"):
        find(program(entry=entry))


@pytest.mark.parametrize(
    "line, size",
    [
        ("(f32[8]{0}, f32[32]{0}) all-gather-start(%p)", 128),
        ("((f32[8]{0}, bf16[8]{0}), (f32[32]{0}, bf16[32]{0})) all-gather-start(%p, %q)", 192),
        ("f32[8]{0} all-reduce-start(%p)", 32),
        ("((f32[32]{0}), f32[8]{0}, u32[]{:S(2)}) reduce-scatter-start(%p)", 128),
        ("f32[8]{0} reduce-scatter(%p)", 128),
        ("(f32[8]{0}, f32[8]{0}) all-to-all(%p, %q)", 64),
    ],
)
def test_a_start_counts_and_its_end_does_not(line, size):
    kind = line.partition("(%")[0].rsplit(" ")[-1]
    entry = f"  %x.1 = {line}, {RING}\n  %x.2 = f32[8] {kind.removesuffix('-start')}-done(%x.1)"
    found = find(program(entry=entry))
    assert [(c.kind, c.size) for c in found] == [(kind.removesuffix("-start"), size)]


def test_a_permutation_sends_its_operand():
    pairs = "source_target_pairs={{0,1},{1,0}}"
    entry = (
        f"  %x.1 = (f32[8]{{0}}, f32[8]{{0}}, u32[], u32[]) collective-permute-start(%p), "
        f"channel_id=1, {pairs}"
    )
    # two of eight devices send
    assert [c.sent for c in find(program(entry=entry))] == [32 * 2 / 8]
    assert find(program(entry=entry.replace("{{0,1},{1,0}}", "{{0,0},{1,1}}"))) == []


def test_what_never_runs_does_not_count():
    assert find(program(*STAGES, entry="  ROOT %copy = f32[8] copy(%p)")) == []
    assert bytes_sent(program()) == (dict.fromkeys(KINDS, 0.0), {})
