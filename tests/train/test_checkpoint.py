"""Checkpoints: what comes back is what was saved, bit for bit, or an older step, or an error; never
something else.
"""

import collections
import contextlib
import ctypes
import dataclasses
import errno
import json
import logging
import pathlib
import resource
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rmat_jax import config
from rmat_jax.config import Config
from rmat_jax.errors import UserError
from rmat_jax.train import checkpoint, failures
from rmat_jax.train.checkpoint import (
    Checkpoints,
    check_same_config,
    differences,
    digests,
    restore_params,
)

ROOT = pathlib.Path(__file__).parents[2]
Moments = collections.namedtuple("Moments", "count mu skipped")


@jax.jit
def make_state(seed):
    """Every kind of leaf. The 64 KiB of random bits fill a file of their own."""
    key = jax.random.key(seed)
    weights = {
        "w": jax.random.normal(key, (64, 48)),
        "layers": {"b": jax.random.normal(key, (3, 5), jnp.bfloat16)},
    }
    return {
        "params": weights,
        "opt": (Moments(jnp.int32(seed), jax.tree.map(lambda x: -x, weights), None), ()),
        "bits": jax.random.bits(key, (128, 128)),
        "key": key,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 2),
        "memory": [None, jax.random.bernoulli(key, shape=(7,)), jnp.zeros((2, 0, 4))],
    }


ABSTRACT = jax.eval_shape(make_state, 0)


def same_bits(one, other):
    """Whether two trees have the same containers, dtypes and bytes."""

    def raw(x):
        return np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    same = all(
        x.dtype == y.dtype and x.shape == y.shape and raw(x).tobytes() == raw(y).tobytes()
        for x, y in pairs
    )
    return same and jax.tree.structure(one) == jax.tree.structure(other)


def save_steps(folder, *steps):
    with Checkpoints(folder, keep=max(len(steps), 1)) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), Config(), {"lane": step})
    return pathlib.Path(folder)


def restore(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(ABSTRACT)


def biggest_file(folder):
    """The file of a step that holds `bits`."""
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(file, position, bit=0):
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)


def orbax_alone(folder, step):
    """What Orbax restores when nobody looks at digests."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    item = {"bits": jax.ShapeDtypeStruct((128, 128), jnp.uint32, sharding=device)}
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
    return ocp.PyTreeCheckpointHandler().restore(folder / str(step) / "state", args=args)["bits"]


def with_values(dtype, values):
    x = np.zeros((32, 64), np.float32)
    for index, value in values.items():
        x[index] = value
    return jnp.asarray(x.astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.int8, jnp.bool_])
def test_the_digest_sees_each_changed_element_and_each_swap(dtype):
    one = {(0, 0): 1}
    others = [{}, {(0, 1): 1}, {(1, 0): 1}, {(31, 63): 1}, one | {(0, 1): 1}, one | {(31, 63): 1}]
    assert len({digests(with_values(dtype, values))[""] for values in [one, *others]}) == 7


def test_the_digest_sees_a_swap_that_simple_sums_do_not():
    one, two = (
        with_values(np.float32, {(0, 0): 1, (16, 0): 2}),
        with_values(np.float32, {(0, 0): 2, (16, 0): 1}),
    )
    odd = np.arange(1, 4096, 2, dtype=np.uint32)
    weighted = [
        np.sum(np.asarray(x).view(np.uint32).ravel() * odd, dtype=np.uint32) for x in (one, two)
    ]
    # the control: low bits of round numbers are zero, and so is their product
    assert weighted[0] == weighted[1]
    assert digests(one) != digests(two)


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    state = make_state(7)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(ABSTRACT) is None and checkpoints.saved_config() is None
        checkpoints.save(7, state, Config(steps=300), {"lane": [3, 0.1], "name": "ä"})
        step, restored, meta = checkpoints.restore(ABSTRACT)
        assert (step, meta) == (7, {"lane": [3, 0.1], "name": "ä"})
        assert same_bits(restored, state) and digests(restored) == digests(state)
        assert config.from_saved(Config, checkpoints.saved_config(), "it") == Config(steps=300)
        key = restored["key"]
        assert float(jax.random.uniform(key)) == float(jax.random.uniform(jax.random.key(7)))
    # the control
    assert not same_bits(make_state(8), state)


def test_64_bits_come_back_or_are_refused(tmp_path):
    with jax.enable_x64(True):
        state = {
            "params": {
                "w": jnp.linspace(0, 1, 5, dtype=jnp.float64),
                "i": jnp.arange(3, dtype=jnp.int64),
            }
        }
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, state, Config())
            assert same_bits(checkpoints.restore(state)[1], state)
        assert same_bits(restore_params(tmp_path)[0], state["params"])
    with pytest.raises(UserError, match="step 1 of .* holds 64-bit arrays; set JAX_ENABLE_X64=1"):
        # not taken for damage
        restore_params(tmp_path)


def test_leaves_that_do_not_fit_are_named(tmp_path):
    save_steps(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        for path, wrong, message in [
            (
                "bits",
                jax.ShapeDtypeStruct((4, 128), jnp.uint32),
                r"bits is uint32\[4, 128\] here, uint32\[128, 128\] in",
            ),
            (
                "bits",
                jax.ShapeDtypeStruct((128, 128), jnp.int32),
                r"bits is int32\[128, 128\] here",
            ),
            (
                "key",
                jax.ShapeDtypeStruct((), ABSTRACT["keys"].dtype),
                r"key is key<rbg>\[\] here, key<fry>\[\] in",
            ),
            ("key", None, r"key is absent here, key<fry>\[\] in step 1"),
            (
                "more",
                jax.ShapeDtypeStruct((2,), jnp.int32),
                r"more is int32\[2\] here, absent in step 1",
            ),
        ]:
            with pytest.raises(UserError, match=message):
                checkpoints.restore(ABSTRACT | {path: wrong})
        # not taken for damage
        assert checkpoints.restore(ABSTRACT)[0] == 1


def test_a_flipped_bit_falls_back_where_orbax_would_not_notice(tmp_path, capfd):
    folder = save_steps(tmp_path, 1, 2)
    file = biggest_file(folder / "2")
    flip(file, file.stat().st_size // 2)
    silent = np.asarray(orbax_alone(folder, 2)) != np.asarray(make_state(2)["bits"])
    # the control: one wrong element, no error
    assert silent.sum() == 1
    step, state, _ = restore(folder)
    assert step == 1 and same_bits(state, make_state(1))
    warning = capfd.readouterr().err
    assert (
        warning
        == f"warning: step 2 of {folder} is damaged, left out: the values of bits are not those "
        "that were saved\n"
    )


def test_flips_anywhere_never_give_wrong_values(tmp_path, capfd):
    folder = save_steps(tmp_path / "good", 1, 2)
    files = sorted(f.relative_to(folder) for f in (folder / "2").rglob("*") if f.is_file())
    random = np.random.default_rng(0)
    outcomes = collections.Counter()
    for i in range(3 * len(files)):
        copy = shutil.copytree(folder, tmp_path / str(i))
        file = copy / files[i % len(files)]
        flip(file, random.integers(file.stat().st_size), random.integers(8))
        try:
            step, state, _ = restore(copy)
        except UserError as error:
            # the one bit whose flip is refused instead
            assert "format" in str(error)
            continue
        assert same_bits(state, make_state(step))
        outcomes[step] += 1
        assert capfd.readouterr().err.count("\n") == (step == 1)
        shutil.rmtree(copy)
    # some flips matter, some hit what nobody reads
    assert outcomes[1] and outcomes[2]


@pytest.mark.parametrize("harm", ["truncated", "missing", "empty"])
@pytest.mark.parametrize("part", ["bits", "json", "tree", "manifest"])
def test_a_broken_file_costs_one_line_and_one_step(tmp_path, capfd, part, harm):
    folder = save_steps(tmp_path, 3, 5)
    names = {"json": "meta/metadata", "tree": "state/_METADATA", "manifest": "state/manifest.ocdbt"}
    file = folder / "5" / names[part] if part in names else biggest_file(folder / "5")
    file.unlink() if harm == "missing" else file.write_bytes(
        file.read_bytes()[: 40 if harm == "truncated" else 0]
    )
    with Checkpoints(folder) as checkpoints:
        step, state, meta = checkpoints.restore(ABSTRACT)
        # Orbax can do without
        if (part, harm) == ("tree", "missing"):
            assert step == 5
        assert same_bits(state, make_state(step)) and meta == {"lane": step}
        if step == 3:
            expected = json.loads(json.dumps(config.to_saved(Config())))
            assert checkpoints.saved_config() == expected
            err = capfd.readouterr().err
            assert (
                err.startswith(f"warning: step 5 of {folder} is damaged, left out: ")
                and err.count("\n") == 1
            )
            # Which leaf is named may vary: small ones can share a file.
            assert part != "bits" or any(f'"{name}/' in err for name in digests(state))
            # The run goes on from 3, and its next save takes the damaged step's place; the good one
            # stays.
            checkpoints.save(4, make_state(4), Config())
            checkpoints.wait()
            assert {f.name for f in folder.iterdir()} == {"3", "4"}


def test_all_steps_damaged_is_an_error_not_a_fresh_start(tmp_path, capfd):
    folder = save_steps(tmp_path, 1, 2)
    for step in "12":
        flip(biggest_file(folder / step), 9000)
    with Checkpoints(folder) as checkpoints:
        # also when asked again
        for _ in range(2):
            with pytest.raises(UserError, match=r"damaged, all of step 2, 1; bring back a copy"):
                checkpoints.restore(ABSTRACT)
    assert capfd.readouterr().err.count("\n") == 2


def test_a_copied_step_is_not_taken_for_another(tmp_path, capfd):
    folder = save_steps(tmp_path, 1, 2)
    shutil.copytree(folder / "1", folder / "30")
    assert restore(folder)[0] == 2
    assert "step 30 of" in (told := capfd.readouterr().err) and "it is a copy of step 1" in told


def test_what_cannot_be_read_is_not_damaged(tmp_path, monkeypatch):
    folder = save_steps(tmp_path, 1, 2)
    read = checkpoint._read_body

    def denied(where, step):
        if step == 2:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(where, step)

    monkeypatch.setattr(checkpoint, "_read_body", denied)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(UserError, match=r"step 2 of .* cannot be read: .*Permission denied"):
            checkpoints.restore(ABSTRACT)
        checkpoints.save(3, make_state(3), Config())
    monkeypatch.undo()
    # the control of the test above: a damaged step is deleted
    assert {file.name for file in folder.iterdir()} == {"2", "3"}


def test_json_is_sealed_and_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    folder = save_steps(tmp_path, 1, 2)
    file = folder / "2" / "meta" / "metadata"
    # valid JSON, wrong position
    file.write_text(file.read_text().replace('"lane": 2', '"lane": 3'))
    assert restore(folder)[2] == {"lane": 1}
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore(ABSTRACT)
        checkpoints.save(3, make_state(3), Config())
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"step 3 of .* has format 2, this version of rmat_jax reads up to 1"
    ):
        restore(folder)


def test_the_newest_two_stay_and_steps_only_grow(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 10):
            checkpoints.save(step, make_state(step), Config())
        # the one just saved: nothing to do
        checkpoints.save(10, make_state(0), Config())
        checkpoints.wait()
        assert {f.name for f in tmp_path.iterdir()} == {"2", "10"}
        assert checkpoints.restore(ABSTRACT)[0] == 10
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="has step 10, so step 9 is not new"),
    ):
        checkpoints.save(9, make_state(9), Config())
    assert same_bits(restore(tmp_path)[1], make_state(10))
    with pytest.raises(UserError, match="keep=0 must be at least 1"):
        Checkpoints(tmp_path, keep=0)
    file = tmp_path / "2" / "meta" / "metadata"
    for taken in (file, file / "below"):
        with pytest.raises(
            UserError, match="cannot hold checkpoints: .*; choose another --workdir"
        ):
            Checkpoints(taken)


@pytest.mark.parametrize(
    "losses, planned, stay",
    [
        # a run that diverges keeps its last good step
        ([2.0, 1.5, 7.0, 9.0, 9.0], "", {2, 4, 5}),
        # controls: in a run that learns, and without losses, the newest alone
        ([2.0, 1.5, 1.4, 1.2, 1.1], "", {4, 5}),
        ([None] * 5, "", {4, 5}),
        # interrupted three times behind step 2, to which it may have to go back
        ([None] * 5, "12", {2, 4, 5}),
    ],
)
def test_the_best_step_and_the_newest_planned_one_stay(losses, planned, stay, tmp_path):
    for step, loss in enumerate(losses, 1):
        # each by a process of its own, as far as the class can tell
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            meta = {"loss": loss, "planned": str(step) in planned}
            checkpoints.save(step, make_state(step), Config(), meta)
    assert {int(file.name) for file in tmp_path.iterdir()} == stay
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(ABSTRACT, below=5)
    assert (found and found[0]) == (2 if planned else None)


@pytest.mark.parametrize("name", ["lr[1]", "a\\b", "\udcff"])
def test_a_path_that_cannot_be_read_again_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="cannot hold checkpoints that can be .*rename that folder"):
        Checkpoints(tmp_path / name / "checkpoints")
    save_steps(tmp_path / "good", 1)
    (tmp_path / "good").rename(tmp_path / name)
    # nor is what lies there called damaged
    with pytest.raises(UserError, match="rename that folder"):
        restore_params(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "a ä [")
    assert restore_params(tmp_path / "a ä [").step == 1


def test_the_first_step_is_read_back_at_once(tmp_path, monkeypatch):
    """What was written and cannot be read ends the run before it relies on it."""
    steps = []
    read = checkpoint._read_leaves
    monkeypatch.setattr(checkpoint, "PART_BYTES", 1 << 14)
    monkeypatch.setattr(checkpoint, "_read_leaves", lambda *a: steps.append(a[1]) or read(*a))
    with Checkpoints(tmp_path / "good") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), Config())
    # several parts, and no other step
    assert set(steps) == {1} and len(steps) > 2

    def other(folder, step, saved, wanted):
        leaves = read(folder, step, saved, wanted)
        return leaves | {n: x + 1 for n, x in leaves.items() if n == "params/w"}

    monkeypatch.setattr(checkpoint, "_read_leaves", other)
    with (
        pytest.raises(UserError, match="1 was saved and cannot be read again: .* of params/w are"),
        Checkpoints(tmp_path / "bad") as checkpoints,
    ):
        checkpoints.save(1, make_state(1), Config())


def big_state(seed):
    return {"bits": [jax.random.bits(jax.random.key(seed + i), (1 << 20,)) for i in range(4)]}


def test_donating_the_state_during_the_save_does_no_harm(tmp_path):
    step_donated = jax.jit(lambda state: jax.tree.map(lambda x: x * 5 + 1, state), donate_argnums=0)
    state = step_donated(big_state(0))
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(10):
            expected = digests(state)
            checkpoints.save(step, state, Config())
            # the next steps overwrite whatever they are given
            for _ in range(3):
                state = step_donated(state)
            jax.block_until_ready(state)
            restored = checkpoints.restore(state)
            assert restored[0] == step and digests(restored[1]) == expected


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere a save has copied the state when it returns"
)
def test_the_donation_test_can_fail(tmp_path, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        # until one save is still reading when its memory changes
        for step in range(20):
            state = big_state(step)
            checkpoints.save(step, state, Config())
            # what donation would do if JAX did not mind the views
            for x in state["bits"]:
                ctypes.memset(x.unsafe_buffer_pointer(), 0, x.nbytes)
            # if that was step 0, no older one is left
            with contextlib.suppress(UserError):
                checkpoints.restore(state)
            if "the values of bits/" in capfd.readouterr().err:
                return
    pytest.fail("overwriting the buffers during a save did not change what was written")


def test_a_failed_background_save_is_not_lost(tmp_path, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = big_state(0)
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(1, state, Config())
    checkpoints.wait()
    try:
        for step, then in [
            (2, checkpoints.wait),
            (3, lambda: checkpoints.save(4, state, Config())),
        ]:
            # no file may grow beyond 64 KiB
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
            # starts, and returns
            checkpoints.save(step, state, Config())
            with pytest.raises(
                UserError, match=rf"step {step} is not saved: .*File too large.*; make room"
            ) as caught:
                then()
            assert "\n" not in str(caught.value)
            # told once
            checkpoints.wait()
            # the older step is intact
            assert checkpoints.restore(state)[0] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # room was made: the same step can be saved
    checkpoints.save(3, state, Config())
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state)[0] == 3
    # no tracebacks from background threads
    assert capfd.readouterr().err == ""


def test_an_error_at_the_end_of_the_block_is_raised(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(UserError, match="step 1 is not saved"),
            Checkpoints(tmp_path) as checkpoints,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
            checkpoints.save(1, big_state(0), Config())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


KILLED = """
import logging, os, signal, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import AxisType, NamedSharding, PartitionSpec
logging.basicConfig(level=logging.INFO)  # even so, a normal save and restore print nothing
logging.getLogger("jax").setLevel(logging.WARNING)
from rmat_jax.train.checkpoint import Checkpoints, digests
from rmat_jax.config import Config

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
make = jax.jit(
    lambda s, n: jax.random.bits(jax.random.key(s), (4096, n)),
    static_argnums=1,
    out_shardings=sharding,
)
with Checkpoints(sys.argv[1]) as checkpoints:
    keys = jax.device_put(jax.random.split(jax.random.key(1), 8), sharding)
    state = {"x": make(1, 16), "keys": keys}
    checkpoints.save(1, state, Config())
    restored = checkpoints.restore(state)[1]
    assert restored["x"].sharding == sharding
    assert restored["keys"].sharding == state["keys"].sharding
    checkpoints.save(2, state, Config())
    checkpoints.wait()
    print(digests(state), flush=True)
    checkpoints.save(3, {"x": make(3, 4096)}, Config())  # 64 MiB: not done by the time that
    while len(os.listdir(sys.argv[1])) < 3:  # it has begun
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_saving_on_four_devices_resumes_on_one(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == -9 and run.stderr == ""
    left = {f.name for f in tmp_path.iterdir()}
    # half-written
    assert left > {"1", "2"} and "3" not in left
    abstract = {
        "x": jax.ShapeDtypeStruct((4096, 16), jnp.uint32),
        "keys": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8)),
    }
    with Checkpoints(tmp_path) as checkpoints:
        step, state, _ = checkpoints.restore(abstract)
        assert step == 2 and run.stdout == f"{digests(state)}\n"
        assert state["x"].sharding.device_set == {jax.devices()[0]}
        assert (state["x"] == jax.random.bits(jax.random.key(1), (4096, 16))).all()
        checkpoints.save(4, state, Config())
    # and the half-written one is gone
    assert {f.name for f in tmp_path.iterdir()} == {"2", "4"}


def test_parameters_alone(tmp_path, capfd):
    folder = save_steps(tmp_path, 1, 2)
    # in `bits`, which is not a parameter and must not be read. Orbax may put other leaves into the
    # same file, so the place is looked up: random bits are stored as they are.
    some_bits = np.asarray(make_state(2)["bits"]).tobytes()[9000:9032]
    file = biggest_file(folder / "2")
    flip(file, file.read_bytes().index(some_bits))
    params, values, step, _ = restore_params(folder)
    assert step == 2 and same_bits(params, make_state(2)["params"])
    assert config.from_saved(Config, values, "it") == Config()
    assert same_bits(restore_params(str(folder), step=1)[0], make_state(1)["params"])
    assert capfd.readouterr().err == ""
    # the control: with all leaves the damage shows
    assert restore(folder)[0] == 1
    shutil.rmtree(folder / "2" / "state")
    assert restore_params(folder)[2] == 1
    with pytest.raises(UserError, match="has no step 7, only 1, 2; train first"):
        restore_params(folder, step=7)
    with pytest.raises(UserError, match="damaged, all of step 2"):
        restore_params(folder, step=2)
    with pytest.raises(
        UserError, match="nowhere has no checkpoint; train first, or give the --workdir"
    ):
        restore_params(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_another_config_is_shown_key_by_key(tmp_path):
    saved = json.loads(json.dumps(config.to_dict(Config())))
    check_same_config(saved, config.to_dict(Config()))
    other = Config(
        model=config.RMATConfig(width=128, mlp_width=1024),
        data=config.DataConfig(pattern="a b", path="may lie elsewhere"),
        # may change
        log=config.LogConfig(every=1),
        # this too
        mesh=config.MeshConfig(fsdp=4),
    )
    with pytest.raises(UserError) as caught:
        check_same_config(saved, config.to_dict(other))
    assert str(caught.value) == (
        "this workdir was trained with another config: model.width was 256, is 128; "
        "data.pattern was '*', is 'a b'; choose another --workdir, "
        "or set back --config.model.width=256 '--config.data.pattern=*'"
    )
    found = differences(
        saved, config.to_dict(dataclasses.replace(Config(), log=other.log, mesh=other.mesh))
    )
    assert found == [("log.every", 20, 1), ("mesh.fsdp", 1, 4)] or found == [
        ("mesh.fsdp", 1, 4),
        ("log.every", 20, 1),
    ]
    for one, two, message in [
        ({"a": 1}, {}, r"a was 1, is '\(absent\)'; choose another --workdir$"),
        ({}, {"a": 1}, "is 1"),
    ]:
        with pytest.raises(UserError, match=message):
            check_same_config(one, two)


def test_names_must_differ():
    with pytest.raises(UserError, match="2 leaves share 1 names"):
        digests({"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)})


def test_other_log_lines_still_come_through(caplog):
    logging.getLogger("absl").warning("from elsewhere")
    assert "from elsewhere" in caplog.text


@pytest.mark.parametrize("module, shown", [("orbax/checkpoint/path.py", False), ("mine.py", True)])
def test_what_orbax_leaves_behind_after_a_failure_is_not_told_again(module, shown, caplog):
    """A future that nobody waited for says where its error came from in its traceback alone."""
    failures.quieten()
    code = compile("raise OSError(28, 'No space left on device')", f"/site/{module}", "exec")
    try:
        exec(code)
    except OSError as error:
        logging.getLogger("asyncio").error("Future exception was never retrieved", exc_info=error)
    assert ("never retrieved" in caplog.text) == shown
