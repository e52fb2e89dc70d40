"""Bytes that a chip sends in a train step: parameters gathered once a step, against a compiler that
divides the whole program.

    JAX_PLATFORMS=cpu python benchmarks/gather_once.py --config=configs/pg19_150m.py \\
        --topology=v5e:4x4
    JAX_PLATFORMS=cpu python benchmarks/gather_once.py --config=configs/pg19_150m.py \\
        --topology=v5e:4x4 --config.mesh.fsdp=4 --config.mesh.tensor=4

Both are the project's train step with the same mesh and shardings of what goes in and out; the
second is jitted without `sharding.spread`. Nothing runs: both are compiled for the slice, which
takes minutes and libtpu.
"""

import functools
import sys

import jax
import jax.numpy as jnp

from rmat_jax import flags
from rmat_jax.chips import GIB
from rmat_jax.plan import collectives, compiled
from rmat_jax.plan.topology import parse_topology
from rmat_jax.train import parallel, sharding
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.step import train_step


def main() -> None:
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--topology", required=True, help="of TPUs")
    args, overrides = parser.parse_known_args()
    config, topology = flags.load_config(args.config, overrides), parse_topology(args.topology)
    mesh, optimizer = (
        compiled.make_mesh(config, topology, compiled.tpu_devices(topology)),
        make_optimizer(config),
    )
    state = parallel.abstract_state(config, optimizer, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    rows = sharding.batch_sharding(mesh)
    tokens_BT = jax.ShapeDtypeStruct(
        (config.batch_size, config.segment_len), jnp.int32, sharding=rows
    )
    batch = dict.fromkeys(("tokens", "targets", "documents"), tokens_BT)
    divided = jax.jit(
        functools.partial(train_step, config, optimizer),
        in_shardings=(shardings, rows),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    print(f"{args.config} on {topology}, mesh {dict(mesh.shape)}; GB that a chip sends in a step")
    print("| | " + " | ".join(collectives.KINDS) + " | all | peak, GiB |")
    print("|---|" + "---|" * (len(collectives.KINDS) + 2))
    steps = {
        "gathered once a step": parallel.make_train_step(config, optimizer, mesh),
        "the compiler divides": divided,
    }
    for name, step in steps.items():
        program = compiled.compile_step(step.trace(state, batch), compiled.held(state, mesh), mesh)
        sent = [program.sent.kinds[kind] / 1e9 for kind in collectives.KINDS]
        cells = " | ".join(
            f"{gigabytes:.2f}" for gigabytes in [*sent, sum(sent), program.peak / GIB]
        )
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    sys.exit(flags.run(main))
