"""Does a run that is stopped and killed at random instants end where the uninterrupted run ends,
bit for bit?

    python benchmarks/reliability.py --out=runs/reliability

Two processes of two CPU devices each train a small model. One run is left alone. Others get
SIGTERM, or kill -9, at random instants of their whole life (start-up, compilation, steps,
evaluation, saving), in one of the processes or in both, and are started again by the same command
until they are done. The digests of everything that the last checkpoints hold must be equal.
"""

import argparse
import collections
import importlib.metadata
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from rmat_jax.train.metrics import read_metrics

ROOT = Path(__file__).parent.parent
SMALL = {
    "model.width": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.chunk_len": 16,
    "model.local.window": 8,
    "model.memory.slots": 8,
    "model.memory.writes": 4,
    "model.dropout": 0.1,
    "batch_size": 16,
    "chunks_per_step": 2,
    "accumulation": 2,
    "optim.warmup_steps": 2,
    "eval_tokens": 256,
    "log.every": 1,
    "log.sample_tokens": 0,
}
# tiny programs: what counts is to compile them soon
XLA_FLAGS = "--xla_backend_optimization_level=0"
# later ones abort on a flag that they no longer know
if importlib.metadata.version("jaxlib") < "0.11":
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# that the other process gets to end by itself
SURVIVOR_SECONDS = 10.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(
    workdir: Path, port: int, index: int, processes: int, devices: int, *more: str
) -> subprocess.Popen:
    """One process of `train.py` on virtual CPU devices; what it prints is added to
    `workdir`.INDEX.log.
    """
    command = [
        sys.executable,
        "train.py",
        f"--config={ROOT / 'configs/quickstart.py'}",
        f"--workdir={workdir}",
        *more,
    ]
    command += [
        f"--coordinator=127.0.0.1:{port}",
        f"--num_processes={processes}",
        f"--process_id={index}",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    environment["XLA_FLAGS"] = XLA_FLAGS
    environment["XDG_CACHE_HOME"] = str(workdir.parent / "cache")
    with open(f"{workdir}.{index}.log", "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)


def start(workdir: Path, processes: int, devices: int, *more: str) -> list[subprocess.Popen]:
    """All processes of a run, which meet on this machine."""
    port = free_port()
    return [launch(workdir, port, index, processes, devices, *more) for index in range(processes)]


def overrides(text: Path, **values: object) -> list[str]:
    """Flags of the small model on `text`."""
    return [
        f"--config.{key}={value}" for key, value in (SMALL | {"data.path": text} | values).items()
    ]


def write_text(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(30):
        (folder / f"{i}.txt").write_text(
            "".join(f"{i} says {j * i % 17}.\n" for j in range(40 + i))
        )
    return folder


def final_digests(workdir: Path) -> dict[str, int]:
    """Of the newest checkpoint, by leaf, as they were when it was saved."""
    newest = max(
        (path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()),
        key=lambda p: int(p.name),
    )
    body = json.loads((newest / "meta" / "metadata").read_text())["body"]
    return {name: leaf["digest"] for name, leaf in body["leaves"].items()} | {"step": body["step"]}


def steps_done(workdir: Path) -> int:
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def finish(workdir: Path, flags: list[str]) -> dict[str, int]:
    """Starts a run once more and lets it to its end; the digests there."""
    codes = [p.wait() for p in start(workdir, 2, 2, *flags)]
    if any(codes):
        sys.exit(f"a run that was let to its end ended with {codes}; see {workdir}.0.log")
    return final_digests(workdir)


def interrupted(
    workdir: Path, flags: list[str], number: signal.Signals, times: int, longest: float, seed: int
) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Runs that are started again and again and interrupted at random instants, `times` times in
    all.

    Args:
        workdir: the runs' folders are called so and numbered.
        longest: seconds after its start at which a run is interrupted at the latest. One that is
            done by then is not interrupted; the next one begins.

    Returns:
        The digests at the end of each run; how often the two processes ended with which exit codes.
    """
    rng, ends, ended = random.Random(seed), [], collections.Counter()
    while ended.total() < times:
        run = Path(f"{workdir}-{len(ends) + 1}")
        started = start(run, 2, 2, *flags)
        instant, victims = rng.uniform(0, longest), rng.choice([[0], [1], [0, 1]])
        time.sleep(instant)
        if all(p.poll() == 0 for p in started):
            ends.append(final_digests(run))
            continue
        if any(p.poll() for p in started):
            sys.exit(f"a run ended by itself with {[p.poll() for p in started]}; see {run}.0.log")
        for index in victims:
            started[index].send_signal(number)
        limit = time.monotonic() + 120
        while all(p.poll() is None for p in started) and time.monotonic() < limit:
            time.sleep(0.1)
        limit = min(limit, time.monotonic() + SURVIVOR_SECONDS)
        while any(p.poll() is None for p in started) and time.monotonic() < limit:
            time.sleep(0.1)
        codes = [p.poll() for p in started]
        # as a launcher does when one of its processes has died
        for p in started:
            if p.poll() is None:
                p.kill()
                p.wait()
        ended[str(codes)] += 1
        at = (
            f"{ended.total()}/{times} at {instant:.1f} s to {victims}, run {len(ends) + 1}, step "
            f"{steps_done(run)}"
        )
        print(f"{number.name} {at}: exit codes {codes}", flush=True)
    return [*ends, finish(run, flags)], dict(ended)


def uninterrupted(workdir: Path, flags: list[str]) -> tuple[float, float]:
    """Seconds to the first step, and to the end."""
    begun, first = time.monotonic(), None
    started = start(workdir, 2, 2, *flags)
    while any(p.poll() is None for p in started):
        time.sleep(0.1)
        if first is None and steps_done(workdir):
            first = time.monotonic() - begun
    if any(p.returncode for p in started):
        sys.exit(
            f"an uninterrupted run ended with {[p.returncode for p in started]}; see "
            f"{workdir}.0.log"
        )
    return first, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/reliability"), help="is emptied; default %(default)s"
    )
    parser.add_argument("--terms", type=int, default=10, help="SIGTERMs; default %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="kill -9s; default %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the instants; default %(default)s")
    args = parser.parse_args()
    out = args.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    text = write_text(out / "text")
    flags = overrides(text, steps=args.steps, **{"log.save_every": 10, "log.eval_every": 50})

    # the first one fills the compilation cache
    for name in ("warm-up", "uninterrupted"):
        first, last = uninterrupted(out / name, flags)
        print(f"{name}: first step after {first:.0f} s, end after {last:.0f} s", flush=True)
    expected = final_digests(out / "uninterrupted")

    rows = []
    for number, times in ((signal.SIGTERM, args.terms), (signal.SIGKILL, args.kills)):
        # A start that is interrupted at any time up to first + x trains for x^2 / 2 (first + x)
        # seconds on average. All of them together shall get through most of a run.
        each = 0.8 * (last - first) / times
        longest = first + each + math.sqrt(each**2 + 2 * each * first)
        ends, ended = interrupted(out / number.name, flags, number, times, longest, args.seed)
        rows.append((number.name, times, sum(end == expected for end in ends), len(ends), ended))
    control = out / "another seed"
    uninterrupted(control, [*flags, "--config.seed=1"])
    differ = final_digests(control) != expected

    print(
        f"\n| signal | instants | runs whose {len(expected)} digests are equal | exit codes of "
        "the two processes |"
    )
    print("|---|---|---|---|")
    for name, times, equal, runs, ended in rows:
        codes = ", ".join(f"{count} x {codes}" for codes, count in ended.items())
        print(f"| {name} | {times} | {equal} of {runs} | {codes} |")
    print(f"\nAnother seed ends in other digests: {'yes' if differ else 'NO'}")
    sys.exit(not (all(equal == runs for _, _, equal, runs, _ in rows) and differ))


if __name__ == "__main__":
    main()
