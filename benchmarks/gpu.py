"""What training reaches on one GPU: FLOPs used, tokens a second beside full attention, and the time
outside matrix products.

    python benchmarks/gpu.py --out=runs/gpu

In bfloat16, with random weights and tokens. At about 150 million and 1 billion parameters it times
our training step at several lengths beside the same code with full attention, and traces one of our
steps. Attention is cuDNN's. It takes a few minutes and, at 1 billion parameters, 60 GB.
"""

import argparse
import collections
import dataclasses
import gzip
import json
from pathlib import Path

import jax

from rmat_jax.bench.attention import bench_attention
from rmat_jax.bench.train import bench_train, in_jax
from rmat_jax.chips import chip_of
from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError

LENGTHS = (4096, 32_768)
# parts of the names of kernels that multiply matrices, attention's among them
PRODUCTS = ("gemm", "cutlass", "nvjet", "xmma", "cudnn", "flash", "wgmma", "dot")


def models() -> dict[str, RMATConfig]:
    """By size."""
    shared = {
        "vocab_size": 32_768,
        "chunk_len": 512,
        "dtype": "bfloat16",
        "tie_embeddings": True,
        "remat": "block",
    }
    return {
        "150M": RMATConfig(width=1024, num_layers=12, num_heads=16, **shared),
        "1B": RMATConfig(width=2048, num_layers=20, num_heads=32, **shared),
    }


def outside_products(config: RMATConfig, length: int, folder: Path) -> dict[str, float]:
    """Milliseconds of a step by kind of kernel, from a trace."""
    _, step = in_jax("ours", config, 1, length)
    step()
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        step()
    (file,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))
    events = events["traceEvents"] if isinstance(events, dict) else events
    names = {
        (e["pid"], e.get("tid")): e["args"]["name"]
        for e in events
        if e.get("name") == "thread_name"
    }
    spent: collections.Counter = collections.Counter()
    for event in events:
        stream = names.get((event.get("pid"), event.get("tid")), "")
        if event.get("ph") == "X" and "Stream" in stream:
            product = any(part in event["name"].lower() for part in PRODUCTS)
            spent["products" if product else "others"] += event["dur"] / 1e3
    return dict(spent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder for tables and numbers")
    args = parser.parse_args()
    chip = chip_of(jax.devices()[0].device_kind)
    if jax.default_backend() != "gpu" or chip is None:
        raise UserError(f"this takes a known GPU, not {jax.devices()[0].device_kind}")
    args.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, config in models().items():
        report = bench_train(
            config, LENGTHS, (1,), 5, ["ours", "ours, a chunk at a time", "full attention"]
        )
        print(f"\n{name}\n\n{report.text()}")
        found[name] = json.loads(report.json())
        found[name]["mfu"] = {
            f"{row.model}, {row.tokens}": row.flops / sorted(row.samples_s)[2] / chip.flops
            for row in report.rows
        }
        print("MFU", {key: f"{value:.1%}" for key, value in found[name]["mfu"].items()})
        spent = outside_products(config, LENGTHS[0], args.out / f"trace-{name}")
        found[name]["milliseconds_of_a_step"] = spent
        print("milliseconds of a step", spent)
    attention = bench_attention(dataclasses.replace(models()["150M"]), LENGTHS)
    print(f"\n{attention.text()}")
    found["attention"] = json.loads(attention.json())
    (args.out / "gpu.json").write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
