"""Does a run that is stopped and killed at random instants end where the uninterrupted run ends, bit for bit?

    python benchmarks/reliability.py --out=runs/reliability

Two processes of two CPU devices each train a small model. One run is left alone. Others get SIGTERM, or kill -9, at random
instants of their whole life (start-up, compilation, steps, evaluation, saving), in one of the processes or in both, and are
started again by the same command until they are done. The digests of everything that the last checkpoints hold must be equal.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = {
    "model.width": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.chunk_len": 16,
    "model.window_len": 8,
    "model.window": "sliding",
    "model.memory_slots": 8,
    "model.memory_writes": 4,
    "model.dropout": 0.1,
    "batch_size": 16,
    "chunks_per_step": 2,
    "accumulation": 2,
    "optim.warmup_steps": 2,
    "eval_tokens": 256,
    "log.every": 1,
    "log.sample_tokens": 0,
}
SURVIVOR_SECONDS = 10.0  # that the other process gets to end by itself


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(workdir: Path, port: int, index: int, processes: int, devices: int, *more: str) -> subprocess.Popen:
    """One process of `train.py` on virtual CPU devices; what it prints is added to `workdir`.INDEX.log."""
    command = [sys.executable, "train.py", f"--config={ROOT / 'configs/quickstart.py'}", f"--workdir={workdir}", *more]
    command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}", f"--process_id={index}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    environment["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0"  # tiny programs: what counts is to compile them soon
    )
    environment["XDG_CACHE_HOME"] = str(workdir.parent / "cache")
    with open(f"{workdir}.{index}.log", "a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)


def start(workdir: Path, processes: int, devices: int, *more: str) -> list[subprocess.Popen]:
    """All processes of a run, which meet on this machine."""
    port = free_port()
    return [launch(workdir, port, index, processes, devices, *more) for index in range(processes)]


def overrides(text: Path, **values: object) -> list[str]:
    """Flags of the small model on `text`."""
    return [f"--config.{key}={value}" for key, value in (SMALL | {"data.path": text} | values).items()]


def write_text(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(30):
        (folder / f"{i}.txt").write_text("".join(f"{i} says {j * i % 17}.\n" for j in range(40 + i)))
    return folder


def final_digests(workdir: Path) -> dict[str, int]:
    """Of the newest checkpoint, by leaf, as they were when it was saved."""
    newest = max(
        (path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
    )
    body = json.loads((newest / "meta" / "metadata").read_text())["body"]
    return {name: leaf["digest"] for name, leaf in body["leaves"].items()} | {"step": body["step"]}


def interrupted(
    workdir: Path, flags: list[str], number: signal.Signals, times: int, lifetime: float, seed: int
) -> dict:
    """One run, interrupted `times` times at instants within the `lifetime` of the uninterrupted one, then let to its end."""
    rng, ended = random.Random(seed), collections.Counter()
    for count in range(times):
        started = start(workdir, 2, 2, *flags)
        instant, victims = rng.uniform(0, lifetime), rng.choice([[0], [1], [0, 1]])
        time.sleep(instant)
        for index in victims:
            if started[index].poll() is None:
                started[index].send_signal(number)
        limit = time.monotonic() + 120
        while all(p.poll() is None for p in started) and time.monotonic() < limit:
            time.sleep(0.1)
        limit = min(limit, time.monotonic() + SURVIVOR_SECONDS)
        while any(p.poll() is None for p in started) and time.monotonic() < limit:
            time.sleep(0.1)
        codes = [p.poll() for p in started]
        for p in started:  # as a launcher does when one of its processes has died
            if p.poll() is None:
                p.kill()
                p.wait()
        ended[str(codes)] += 1
        print(f"{number.name} {count + 1}/{times} at {instant:.1f} s to {victims}: exit codes {codes}", flush=True)
    codes = [p.wait() for p in start(workdir, 2, 2, *flags)]
    if any(codes):
        sys.exit(f"the last start ended with {codes}; see {workdir}.0.log")
    return dict(ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reliability"), help="is emptied; default %(default)s")
    parser.add_argument("--terms", type=int, default=10, help="SIGTERMs; default %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="kill -9s; default %(default)s")
    parser.add_argument("--steps", type=int, default=60, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the instants; default %(default)s")
    args = parser.parse_args()
    out = args.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    text = write_text(out / "text")
    flags = overrides(text, steps=args.steps, **{"log.save_every": 10, "log.eval_every": 30})

    for name in ("warm-up", "uninterrupted"):  # the first one fills the compilation cache
        begun = time.monotonic()
        codes = [p.wait() for p in start(out / name, 2, 2, *flags)]
        lifetime = time.monotonic() - begun
        print(f"{name}: {lifetime:.0f} s, exit codes {codes}", flush=True)
    expected = final_digests(out / "uninterrupted")

    rows = []
    for number, times in ((signal.SIGTERM, args.terms), (signal.SIGKILL, args.kills)):
        ended = interrupted(out / number.name, flags, number, times, lifetime, args.seed)
        equal = final_digests(out / number.name) == expected
        rows.append((number.name, times, equal, ended))
    control = out / "another seed"
    codes = [p.wait() for p in start(control, 2, 2, *flags, "--config.seed=1")]
    differ = final_digests(control) != expected

    print(f"\n| signal | instants | all {len(expected)} digests of the end equal | exit codes of the two processes |")
    print("|---|---|---|---|")
    for name, times, equal, ended in rows:
        print(
            f"| {name} | {times} | {'yes' if equal else 'NO'} | {', '.join(f'{n} x {c}' for c, n in ended.items())} |"
        )
    print(f"\nAnother seed ends in other digests: {'yes' if differ else 'NO'}")
    sys.exit(not (all(equal for _, _, equal, _ in rows) and differ))


if __name__ == "__main__":
    main()
