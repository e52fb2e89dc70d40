"""Trains every variant with every seed, and writes a report."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rmat_jax import progress
from rmat_jax.ablate.report import write_report
from rmat_jax.ablate.runs import Run, finish
from rmat_jax.ablate.variants import BASE, Variant, changed, same_parameters
from rmat_jax.config import Config, to_dict
from rmat_jax.errors import UserError
from rmat_jax.files import make_folder


def ablate(
    config: Config,
    out: Path,
    variants: Sequence[Variant],
    seeds: Sequence[int] = (0,),
    *,
    equal: bool = True,
    jobs: int = 1,
    command: str = "",
) -> int:
    """Trains the base and each variant with each seed, and writes a report whenever a run ends.

    A seed is that of the parameters and of the order of documents. The report is `out/report.md`,
    `out/results.json` and figures. A finished run is not trained again; a stopped run goes on where
    it was.

    Args:
        config: the base.
        out: the folder for the report and a workdir for each run.
        variants: the variants to train besides the base.
        seeds: one seed or more.
        equal: give every variant as many parameters as the base, see `same_parameters`.
        jobs: the number of runs at a time, which share the cores.
        command: the command, for the report.

    Returns:
        The exit code: 0, 1 if a run failed, or 128 + the signal that stopped it.

    Raises:
        UserError: bad input, before anything is trained.
    """
    variants = [Variant(BASE, {}), *variants]
    names = [variant.name for variant in variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two variants are named {twice[0]!r}; give each its own name")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(
            f"seeds={','.join(map(str, seeds))} must be different numbers from 0 on, at least one"
        )
    if jobs < 1:
        raise UserError(f"jobs={jobs} must be at least 1")
    runs = []
    # all variants with one seed come first, so that the table is soon complete, if not yet exact
    for seed in seeds:
        for variant in variants:
            try:
                made = changed(config, variant.changes)
                made = same_parameters(made, config.model) if equal else made
                if {"seed", "data.seed"} & set(variant.changes):
                    raise UserError("seeds are the same for all variants; give them with --seeds")
                if equal and "model.mlp_width" in variant.changes:
                    raise UserError("equal parameters undo model.mlp_width; use --parameters=free")
            except UserError as error:
                raise UserError(f"variant {variant.name!r}: {error}") from error
            made = dataclasses.replace(
                made, seed=seed, data=dataclasses.replace(made.data, seed=seed)
            )
            runs.append(Run(variant.name, seed, made, Path(out) / _folder(variant.name, made)))

    def say(text: str) -> None:
        progress.say(f"ablate: {text}")
        write_report(Path(out), config, variants, runs, command)

    make_folder(Path(out))
    code = finish(runs, Path(out) / "shared", jobs, say)
    write_report(Path(out), config, variants, runs, command)
    return code or int(any((run.result() or {"error": "none"})["error"] for run in runs))


def _folder(name: str, config: Config) -> str:
    """Names the folder of a run. Other configs have other names, so a changed grid finds the runs
    that it has in common with the last one.
    """
    digest = hashlib.sha256(
        json.dumps(to_dict(config) | {"log": None, "mesh": None}).encode()
    ).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', name)}-{config.seed}-{digest}"
