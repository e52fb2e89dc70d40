"""`bench stream`: what it writes, that state is flat where it should be, that the baseline is a
transformer, bad input.
"""

import json

import jax
import numpy as np
import pytest

from rmat_jax import commands
from rmat_jax.bench import gpt2, peers, profile, stream
from rmat_jax.config import to_dict
from rmat_jax.errors import UserError
from rmat_jax.infer import open_chunk
from rmat_jax.infer.open_chunk import stack_params, unstack_params
from rmat_jax.infer.streams import begin, prefill
from tests.models import QUEUE, make_params, tiny

CONFIG = tiny(dtype="float32")
CONTEXTS = (32, 64)


@pytest.fixture(autouse=True)
def no_gpt2(monkeypatch):
    monkeypatch.setattr(gpt2, "missing", lambda: "GPT-2 is left out")


@pytest.fixture(scope="module")
def small():
    """The flags and the config file of a tiny run."""
    return ["--contexts=64,32", "--tokens=9", "--rounds=2"]


@pytest.fixture
def config_file(tmp_path):
    lines = [f"    config.model.update({to_dict(CONFIG)!r})"]
    file = tmp_path / "tiny.py"
    file.write_text(
        "\n".join(
            [
                "from rmat_jax import flags",
                "def get_config():",
                "    config = flags.defaults()",
                *lines,
                "    return config",
            ]
        )
    )
    return file


def test_from_the_command_line_to_json_and_plot(small, config_file, tmp_path, capsys):
    json_file, plot_file = tmp_path / "out.json", tmp_path / "out.png"
    flags = [
        f"--json={json_file}",
        f"--plot={plot_file}",
        f"--config={config_file}",
        "--profile",
        *small,
    ]
    assert commands.main(["bench", "stream", *flags]) == 0
    printed = capsys.readouterr().out
    values = json.loads(json_file.read_text())
    assert plot_file.read_bytes().startswith(b"\x89PNG")
    assert values["model"]["width"] == CONFIG.width and values["contexts"] == [32, 64]
    assert (
        values["command"].startswith("python -m rmat_jax bench stream")
        and "--rounds=2" in values["command"]
    )
    assert (
        values["machine"]["threads"] >= 1
        and values["memory_bytes_per_second"] > 0
        and "jax" in values["versions"]
    )
    assert values["notes"] == ["GPT-2 is left out"] and "GPT-2 is left out" in printed

    rows = {(row["peer"], row["context"]): row for row in values["rows"]}
    assert set(rows) == {
        (peer, context) for peer in ("RMAT", "full attention") for context in CONTEXTS
    }
    for row in rows.values():
        assert len(row["samples_ms"]) == len(row["read_ms"]) == 2 and min(row["samples_ms"]) > 0
        assert (
            row["ms"]["q1"] <= row["ms"]["median"] <= row["ms"]["q3"] and row["bandwidth_share"] > 0
        )
        assert f"{row['state_bytes']:,}" in printed

    def state(peer):
        return [rows[peer, context]["state_bytes"] for context in CONTEXTS]

    assert state("RMAT") == [open_chunk.initial_state(CONFIG, 1).num_bytes()] * 2
    # the control: it grows by keys, values and a document id for each token
    short, long = state("full attention")
    assert long - short == 32 * 4 * (2 * CONFIG.num_layers * CONFIG.width + 1)

    traced = values["profile"]
    assert sum(part["us"] for part in traced["parts"].values()) <= traced["traced_us"]
    assert {profile.PRODUCTS, profile.ATTENTION_PRODUCTS, profile.NORMS, profile.LOOP} <= set(
        traced["parts"]
    )


def test_each_round_begins_with_another_model(monkeypatch):
    """Two rounds of two models at two contexts: the second begins in the middle."""
    order = []
    monkeypatch.setattr(
        stream, "sample", lambda peer: order.append((peer.name, peer.context)) or 1.0
    )
    monkeypatch.setattr(stream, "read_seconds", lambda size: 1.0)
    report = stream.stream(CONFIG, CONTEXTS, 9, 2)
    ready, first, second = order[:4], order[4:8], order[8:]
    assert first == ready and second == ready[2:] + ready[:2]
    assert all(row.ms == (1000, 1000, 1000) for row in report.rows)


def test_full_attention_is_one_pass_of_a_transformer():
    """A prompt that is really read, and the tokens after it, against the whole text read again for
    each token.
    """
    config, params, context = CONFIG, unstack_params(make_params(CONFIG)), 48
    peer = peers.FullAttention(config, params, context, 9, 0)
    prompt = np.random.default_rng(0).integers(config.vocab_size, size=(1, 30))
    peer.streams = prefill(peer.model, peer.params, begin(peer.model, 1), prompt)
    one_pass = jax.jit(
        lambda tokens_BT: peer.model.apply({"params": stack_params(peer.params)}, tokens_BT)[0]
    )
    text = np.zeros((1, context), int)
    text[:, :30] = prompt
    for place in range(30, 40):
        text[0, place] = np.asarray(one_pass(text))[0, place - 1].argmax()
    np.testing.assert_array_equal(peer.write(10), text[0, 30:40])
    other = text.copy()
    # the control: it sees its first token, five chunks of ours back
    other[0, 0] = (text[0, 0] + 1) % config.vocab_size
    assert abs(np.asarray(one_pass(other) - one_pass(text)))[0, 39].max() > 1e-3


def test_a_rewound_cache_writes_the_same_and_is_never_emptied():
    peer = peers.FullAttention(CONFIG, unstack_params(make_params(CONFIG)), 32, 9, 0)
    texts = []
    for _ in range(2):
        peer.rewind()
        texts.append(peer.write(peers.WARM_UP + 9))
        assert peer.streams.state.position_B == 31
    np.testing.assert_array_equal(*texts)


def test_what_one_token_needs():
    """Counted by hand for one layer without a memory, and what a memory adds."""
    plain = tiny(dtype="float32", branches=("full",), num_layers=1)
    c = plain
    layer = 4 * c.width**2 + 2 * c.width * c.mlp_width + c.mlp_width + c.width + 4 * c.width
    # output, one row of the embedding, the final norm
    tables = c.vocab_size * c.width + c.width + 2 * c.width
    assert peers.bytes_a_token(plain, unstack_params(make_params(plain)), 100) == (
        4 * (layer + tables),
        100,
    )
    with_memory = tiny(dtype="float32", branches=("full", "memory"), num_layers=1)
    weights, cache = peers.bytes_a_token(
        with_memory, unstack_params(make_params(with_memory)), 10_000
    )
    # gate, keys, values; two biases; the norm of the slots
    rare = 8 * c.width**2 + 2 * c.width + 2 * c.width
    norm, fusion = 2 * c.width, 2
    assert weights == pytest.approx(4 * (layer + tables + norm + fusion + rare / c.chunk_len))
    assert cache == pytest.approx(
        10_000 - 4 * with_memory.memory.slots * c.width * (1 - 1 / c.chunk_len)
    )

    # a queue of the layers' inputs without a gate has no weights of its own
    queue = tiny(dtype="float32", num_layers=1, **QUEUE | {"token_shift": False})
    weights, _ = peers.bytes_a_token(queue, unstack_params(make_params(queue)), 10_000)
    # a bias for each head
    assert weights == 4 * (layer + tables + c.num_heads)


HLO = """
  %fusion.1 = f32[8]{0} fusion(%p.1, %p.2), kind=kLoop, metadata={op_name="jit(f)/RMAT/while/body/layers_0/attention_norm/add"}
  %dot.1 = f32[1,8]{1,0} dot(%fusion.1, %p.3), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %dot.2 = f32[2,1,8]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}
  %window.1 = f32[1]{0} reduce-window(%fusion.1, %c), window={size=8}
  ROOT %while.1 = (f32[8]{0}, s32[]) while(%tuple.1), condition=%cond, body=%body, metadata={op_name="jit(f)/while"}
  %sort.1 = f32[11]{0} sort(%x), metadata={op_name="jit(f)/while/body/sort"}
  %exp.1 = f32[11]{0} exponential(%x), metadata={op_name="jit(f)/RMAT.last/while/body/layers_3/exp"}
"""


def test_operations_are_counted_to_parts():
    """One that lost its scope belongs where its input does."""
    ops = profile.read_hlo(HLO)
    assert list(ops) == ["fusion.1", "dot.1", "dot.2", "window.1", "while.1", "sort.1", "exp.1"]
    assert ops["while.1"].kind in profile.CONTROL
    parts = {name: profile.part_of(name, ops) for name in ops if name != "while.1"}
    assert parts == {
        "fusion.1": profile.NORMS,
        "dot.1": profile.PRODUCTS,
        "dot.2": profile.ATTENTION_PRODUCTS,
        "window.1": profile.NORMS,
        "sort.1": profile.LOOP,
        "exp.1": profile.ATTENTION,
    }


BAD = {
    "another benchmark": (["bench", "streams", "--json=x.json"], "'streams'.*stream"),
    "no file": (["bench", "stream"], "--json"),
    "contexts that are no numbers": (["--contexts=512,1k"], "'1k' must be a positive integer"),
    "a context of none": (["--contexts=0"], "'0' must be a positive integer"),
    "a negative context": (["--contexts=-5"], "'-5' must be a positive integer"),
    "a context without room": (
        ["--contexts=64", "--tokens=60"],
        "contexts=64 must be at least 66.*tokens=60",
    ),
    "no tokens": (["--tokens=0"], "tokens=0 must be at least 1"),
    "no rounds": (["--rounds=0"], "rounds=0 must be at least 1"),
    "rounds that are no number": (["--rounds=many"], "many"),
    "a folder that is not there": (["--json=nowhere/out.json"], "no folder nowhere; make it first"),
    "a plot's folder that is not there": (
        ["--plot=nowhere/out.png"],
        "no folder nowhere; make it first",
    ),
    "a plot of no kind": (["--plot=out"], "--plot=out must end in"),
    "a config that is not there": (["--config=configs/none.py"], "none.py"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_found_before_any_work(case, monkeypatch):
    arguments, message = BAD[case]
    monkeypatch.setattr(stream, "init_params", lambda *_: pytest.fail("work has begun"))
    if arguments[0] != "bench":
        arguments = ["bench", "stream", "--json=out.json", *arguments]
    with pytest.raises(UserError, match=message) as error:
        commands.main(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_both_caches_of_gpt2_write_the_same():
    """With random keys and values of the same seed; rewound, the same again."""
    pytest.importorskip("transformers")
    config = tiny(dtype="float32", vocab_size=257)
    texts = []
    for static in (False, True):
        peer = gpt2.GPT2(config, 64, 9, 0, static=static)
        for _ in range(2):
            peer.rewind()
            texts.append(peer.write(peers.WARM_UP + 9))
    assert len(set(texts[0])) > 1
    assert texts[0] == texts[1] == texts[2] == texts[3]
