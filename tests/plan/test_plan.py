"""`plan`: what it says of programs compiled here for eight CPU devices, of GPUs by arithmetic, its
advice, bad input.
"""

import dataclasses
import importlib.util
import json

import jax
import pytest

from benchmarks.backprop_memory import bytes_kept_a_chunk
from rmat_jax import commands, flags
from rmat_jax.config import Config, Local, MeshConfig, OptimConfig, to_dict
from rmat_jax.errors import UserError
from rmat_jax.flags import changed
from rmat_jax.plan import arithmetic, compiled, plan
from rmat_jax.plan.compiled import Held, Program
from rmat_jax.plan.plan import alternatives
from rmat_jax.plan.topology import parse_topology
from tests.models import tiny

MODEL = tiny(
    dtype="float32",
    width=16,
    num_heads=4,
    mlp_width=32,
    vocab_size=32,
    **{"local.sliding": True},
)


def experiment(**changes) -> Config:
    values = {"mesh": MeshConfig(data=2, fsdp=2, tensor=2), "batch_size": 8, "chunks_per_step": 4}
    return Config(**({"model": MODEL, "optim": OptimConfig(warmup_steps=1)} | values | changes))


@pytest.fixture
def eight(monkeypatch):
    """The eight CPU devices stand in for a TPU slice of eight chips."""
    monkeypatch.setattr(compiled, "tpu_devices", lambda topology: jax.devices())


@pytest.fixture
def uncompiled(monkeypatch, eight):
    """Nothing is compiled: a program takes ten times its parameters, and there are `limit` bytes, a
    list of one.
    """
    limit = [10**10]

    def say(traced, held, mesh):
        return Program(10 * held.params, limit[0] if 10 * held.params > limit[0] else 0, None, 1.0)

    monkeypatch.setattr(compiled, "compile_step", say)
    return limit


def test_a_compiled_step_in_numbers_and_text(eight):
    """And what goes along data and fsdp is exchanged once a step, along tensor once a chunk."""
    lines = []
    config = experiment()
    report = plan(config, "v5e:2x4", progress=lines.append)
    assert len(lines) == 1 and "compiling the train step for 8 x TPU v5e" in lines[0]
    assert (
        report.fits
        and report.mesh == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
        and not report.alternatives
    )
    held = report.held
    assert sum([held.params, held.optimizer, held.memory, report.temporaries]) == report.peak
    assert held.gathered == held.grads > held.params and held.optimizer > 2 * held.params
    values = json.loads(report.json())
    assert values["bytes"]["peak"] == report.peak and values["config"] == json.loads(
        json.dumps(to_dict(config))
    )
    assert values["compiled"] and values["compile_seconds"] > 0
    text = report.text()
    assert "FITS" in text and f"{report.tokens:,} tokens" in text and "ARITHMETIC" not in text

    def sent(mesh, chunks):
        return plan(experiment(mesh=mesh, chunks_per_step=chunks), "v5e:2x4").sent.kinds

    spread = MeshConfig(data=2, fsdp=4)
    once = sent(spread, 2)
    assert once == sent(spread, 6) and once["all-gather"] > 0 and once["all-reduce"] > 0
    more = sum(sent(config.mesh, 8).values()) - sum(report.sent.kinds.values())
    assert more > 0.4 * sum(report.sent.kinds.values())
    # the axes share the same bytes, and each has some
    along = values["bytes_sent_along"]
    assert {axis for axes in along for axis in axes.split(" x ")} == {"data", "fsdp", "tensor"}
    assert sum(along.values()) == pytest.approx(sum(values["bytes_sent_a_step"].values()))
    assert "along tensor" in text and "along context" not in text


def test_one_device_holds_all_and_sends_nothing():
    one = plan(experiment(mesh=MeshConfig()), "gpu:h100:1")
    assert sum(one.sent.kinds.values()) == 0 and one.held.gathered == 0
    assert one.held.params == one.held.grads


def test_what_does_not_fit_is_advised(uncompiled):
    """The compiler's refusal is a verdict, and what to change is tried."""
    assert plan(experiment(), "v5e:2x4").alternatives == ()
    uncompiled[0] = 1000
    report = plan(experiment(), "v5e:2x4")
    assert not report.fits and report.limit == 1000 and len(report.alternatives) == 6
    assert {a.overrides.get("mesh.fsdp"): a.peak / report.peak for a in report.alternatives}[
        4
    ] < 0.7
    assert "DOES NOT FIT" in report.text() and "--config.model.remat=chunk+block" in report.text()
    assert json.loads(report.json())["communication_seconds"] is None


def test_alternatives_are_valid_and_others():
    config = experiment(mesh=MeshConfig(data=2, fsdp=2, tensor=1), chunks_per_step=3, batch_size=4)
    found = alternatives(config, {"data": 2, "fsdp": 2, "context": 1, "tensor": 1})
    assert [overrides for overrides, _ in found] == [
        {"model.remat": "chunk+block"},
        {"mesh.fsdp": 4, "mesh.data": 1},
        {"mesh.fsdp": 1, "mesh.tensor": 2},
        {"mesh.fsdp": 1, "mesh.context": 2},
        {"accumulation": 2},
        {"batch_size": 2},
    ]
    assert all(changed != config for _, changed in found)
    assert found[0][1] == dataclasses.replace(
        config, model=dataclasses.replace(MODEL, remat="chunk+block")
    )
    # where a lane's products are divided, its time may be
    divided = experiment(mesh=MeshConfig(data=2, fsdp=1, tensor=4))
    found = alternatives(divided, {"data": 2, "fsdp": 1, "context": 1, "tensor": 4})
    assert {"mesh.tensor": 2, "mesh.context": 2} in [overrides for overrides, _ in found]


def test_an_alternative_that_the_experiment_refuses_is_left_out(uncompiled):
    """A device with one lane cannot read it in two parts, nor can half the lanes be spread."""
    report = plan(experiment(batch_size=4), "v5e:2x4", advise=True)
    tried = [set(a.overrides) for a in report.alternatives]
    assert (
        {"chunks_per_step"} in tried
        and {"accumulation"} not in tried
        and {"batch_size"} not in tried
    )


@pytest.mark.parametrize("sizes", [{}, {"local.sliding": False}, {"memory.read": "joint"}])
def test_what_is_kept_of_a_chunk(sizes):
    """With remat "chunk" a further chunk costs the state that is carried and its tokens, and
    nothing else.
    """
    sizes = {"chunk_len": 64, "local.window": 16, "memory.slots": 64} | sizes
    sizes = {f"model.{key}": value for key, value in sizes.items()}
    config = changed(Config(model=MODEL), sizes | {"model.remat": "chunk"}).model
    more = arithmetic.kept(config, 2, 5) - arithmetic.kept(config, 2, 4)
    assert more == pytest.approx(bytes_kept_a_chunk(config, 2), rel=0.05)
    # control
    without = dataclasses.replace(config, remat="none")
    assert arithmetic.kept(without, 2, 5) - arithmetic.kept(without, 2, 4) > 10 * more


HELD = Held(params=100, optimizer=200, memory=40, gathered=800, grads=800)


def test_remat_takes_less_memory():
    def temporaries(remat, **changes):
        config = experiment(
            model=dataclasses.replace(MODEL, remat=remat), chunks_per_step=16, **changes
        )
        mesh = {"data": 2, "fsdp": 2, "context": 1, "tensor": 1}
        return arithmetic.temporaries(config, mesh, HELD)

    none, block, chunk, both = map(temporaries, ("none", "block", "chunk", "chunk+block"))
    assert none > chunk > both and none > block > both
    assert both > temporaries("chunk+block", accumulation=2) - HELD.grads


def test_arithmetic_by_hand():
    """Along fsdp parameters are gathered and gradients divided, along data added up; along tensor
    each block's two sums; along context what a lane carries, forward and backward.
    """
    config = experiment()

    def sent(data, fsdp, tensor, context=1):
        mesh = {"data": data, "fsdp": fsdp, "tensor": tensor, "context": context}
        return {k: v for k, v in arithmetic.bytes_sent(config, mesh, HELD).kinds.items() if v}

    assert sent(1, 1, 1) == {}
    assert sent(1, 4, 1) == {"all-gather": 3 / 4 * 800, "reduce-scatter": 3 / 4 * 800}
    assert sent(4, 1, 1) == {"all-reduce": 2 * 3 / 4 * 800}
    # of what fsdp has divided
    assert sent(2, 4, 1)["all-reduce"] == 2 * 1 / 2 * 800 / 4
    forward_and_backward, block_sums, lanes = 2, 2, 8
    numbers = (
        forward_and_backward
        * block_sums
        * MODEL.num_layers
        * lanes
        * config.segment_len
        * MODEL.width
    )
    assert sent(1, 1, 2) == {"all-reduce": 2 * 1 / 2 * numbers * 4}
    # the state is what the last device knows, and each hands on a state and gets its gradient
    assert sent(1, 1, 1, 4) == {
        "all-reduce": 2 * 3 / 4 * (800 + 40),
        "collective-permute": 3 / 4 * 40 * forward_and_backward,
    }


def test_arithmetic_says_so():
    """And seconds are at the chip's peak."""
    report = plan(experiment(), "gpu:h100:8")
    assert "ARITHMETIC, nothing was compiled" in report.text()
    assert report.compute_seconds == pytest.approx(report.flops / 8 / 989e12)
    assert report.communication_seconds == pytest.approx(sum(report.sent.kinds.values()) / 450e9)


@pytest.mark.parametrize(
    "message, sizes",
    [
        (
            "... Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded ...",
            (20.5 * 2**30, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (31.95G) exceeds "
            "available HBM (15.75G).",
            (31.95 * 2**30 + 1000, 15.75 * 2**30),
        ),
        ("INTERNAL: something else", (0, 0)),
    ],
)
def test_the_compilers_refusals(message, sizes):
    assert compiled.parse_exhausted(message, 1000) == pytest.approx(sizes, abs=1)


@pytest.mark.parametrize(
    "mesh, topology, says",
    [
        (
            MeshConfig(data=2, fsdp=2, tensor=2),
            "v5e:4x4",
            "is 8 devices, --topology=v5e:4x4 has 16",
        ),
        (MeshConfig(fsdp=3), "gpu:h100:8", "make the product 8"),
        (MeshConfig(fsdp=16), "gpu:h100:16", "batch_size=8 must be a multiple of"),
        (MeshConfig(tensor=8), "gpu:h100:8", "must divide model.num_heads=4"),
        (MeshConfig(parallelism="pmap"), "gpu:h100:8", "use mesh.parallelism=jit"),
    ],
)
def test_a_mesh_that_does_not_fit(mesh, topology, says):
    with pytest.raises(UserError) as error:
        plan(experiment(mesh=mesh), topology)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    # the command sets them; put back after the test
    for name in ("JAX_PLATFORMS", "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.setenv(name, "")
    file = tmp_path / "small.py"
    lines = [f"    config.model.update({to_dict(MODEL)!r})"]
    body = [
        "from rmat_jax import flags",
        "def get_config():",
        "    config = flags.defaults()",
        *lines,
    ]
    file.write_text("\n".join([*body, "    config.batch_size = 8", "    return config"]))
    return file


def test_the_command(config_file, tmp_path, capsys):
    out = tmp_path / "plan.json"
    command = ["plan", f"--config={config_file}", "--topology=gpu:h100:8", "--config.mesh.fsdp=8"]
    assert commands.main([*command, f"--json={out}"]) == 0
    printed = capsys.readouterr().out
    values = json.loads(out.read_text())
    assert values["mesh"] == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    assert "gpu:h100:8: 8 x h100" in printed and f"written: {out}" in printed


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--topology=v7:4x4"], "known are v4, v5e, v5p, v6e"),
        (["--topology=gpu:v100:8"], "known are a100-40"),
        (["--topology=v5e:2x2"], "pip install 'rmat_jax[tpu]'"),
        (["--topology=gpu:h100:8", "--config.mesh.fdsp=8"], "mesh.fsdp"),
        (["--topology=gpu:h100:8", "--topolgy=x"], "unknown argument"),
        (["--topology=gpu:h100:8", "--json=not/there/plan.json"], "there is no folder"),
        ([], "--topology"),
    ],
)
def test_bad_input_is_one_line(arguments, says, config_file, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name)
    )
    assert flags.run(lambda: commands.main(["plan", f"--config={config_file}", *arguments])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_other_commands_still_refuse_what_they_do_not_know(capsys):
    assert (
        flags.run(lambda: commands.main(["score", "--workdir=x", "file.txt", "--config.seed=1"]))
        == 2
    )
    assert "--config.seed=1" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'jax[tpu]'",
)
@pytest.mark.parametrize(
    "topology, mesh", [("v5e:2x2", MeshConfig(fsdp=4)), ("v5e:2x2", MeshConfig(fsdp=2, tensor=2))]
)
def test_a_step_for_a_tpu(topology, mesh):
    model = dataclasses.replace(
        MODEL,
        width=256,
        mlp_width=512,
        vocab_size=512,
        chunk_len=128,
        local=Local(window=32),
        memory=dataclasses.replace(MODEL.memory, slots=32, writes=8),
    )
    report = plan(experiment(model=model, mesh=mesh), topology)
    assert report.fits and report.compile_seconds > 0
    assert report.held == plan(experiment(model=model, mesh=mesh), "gpu:h100:4").held
    held = report.held
    # Whole parameters are gathered and gradients added up, in float32 or narrower, and in no more
    # than twice the traffic.
    gathered = 3 / 4 * held.gathered if mesh.tensor == 1 else 1 / 2 * held.gathered
    sent = report.sent.kinds
    assert gathered / 2 <= sent["all-gather"]
    sums = sum(sent.values()) - sent["all-gather"]
    assert sums >= gathered
    if mesh.tensor == 1:
        assert sent["all-gather"] <= gathered * 1.01 and sums <= 2 * gathered * 1.01


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'jax[tpu]'",
)
@pytest.mark.parametrize(
    "name", ["v5e:1x1", "v5e:4x4", "v5e:16x16", "v6e:2x4", "v4:2x2x2", "v5p:2x2x1", "v5p:4x4x8"]
)
def test_a_chip_is_a_device(name):
    topology = parse_topology(name)
    assert len(compiled.tpu_devices(topology)) == topology.count
