"""Plans a training step for accelerators that you do not have: its memory, FLOPs and exchanged
bytes, and what to change.

For a TPU slice the real train step is compiled by the real compiler, so memory and exchanged bytes
are those of the program. For GPUs both come from formulas, see `arithmetic.py`. FLOPs are counted
in the step's jaxpr for either. Seconds always come from the peaks of the data sheet. So they are
bounds that no run goes below, and they do not say how far computing and sending overlap.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable

from rmat_jax.chips import GIB
from rmat_jax.config import Config, to_dict
from rmat_jax.errors import UserError
from rmat_jax.flags import changed
from rmat_jax.flops import per_token
from rmat_jax.plan import arithmetic, compiled
from rmat_jax.plan.collectives import Sent
from rmat_jax.plan.compiled import Held
from rmat_jax.plan.cycles import CLOCKS, Estimate
from rmat_jax.plan.topology import Topology, parse_topology

# see arithmetic.py
ACCURACY = (
    "compared with TPU programs, peaks are 2% to 16% too low, and bytes sent up to 24% too low "
    "with mesh.tensor=1, 48% with more"
)
# seconds after which no more alternatives are tried
PATIENCE = 240.0


@dataclasses.dataclass(frozen=True)
class Alternative:
    """The same experiment with some keys changed."""

    overrides: dict[str, int | str]
    # bytes of one device
    peak: int
    fits: bool
    # a token, of all devices
    flops: int
    # the time that the measurement took
    seconds: float

    @property
    def flags(self) -> str:
        return " ".join(f"--config.{key}={value}" for key, value in self.overrides.items())


@dataclasses.dataclass(frozen=True)
class Report:
    """A step on one topology. Bytes and seconds are those of one device."""

    config: Config
    topology: Topology
    mesh: dict[str, int]
    held: Held
    peak: int
    # bytes that a program may use
    limit: int
    # FLOPs of a step on all devices together, with what is computed again
    flops: int
    # bytes sent in a step; None where the program does not fit
    sent: Sent | None
    # 0: nothing was compiled
    compile_seconds: float
    # only for a program that was compiled for a TPU
    estimate: Estimate | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    @property
    def tokens(self) -> int:
        """The tokens that one step reads."""
        return self.config.batch_size * self.config.segment_len

    @property
    def temporaries(self) -> int:
        """Bytes beyond those that stay from step to step: activations, gathered parameters,
        gradients, code, padding.
        """
        return self.peak - self.held.params - self.held.optimizer - self.held.memory

    @property
    def compute_seconds(self) -> float:
        """The time of a step's products at the bfloat16 peak, shared equally by all devices."""
        return self.flops / self.topology.count / self.topology.chip.flops

    @property
    def communication_seconds(self) -> float:
        """The time of a step's exchanges, over all links of the chip at once."""
        return sum(self.sent.kinds.values()) / self.topology.chip.bandwidth if self.sent else 0.0

    @property
    def estimated_seconds(self) -> float | None:
        """The time of a step by the compiler's cycles, without custom kernels."""
        if not self.estimate:
            return None
        return self.estimate.cycles / CLOCKS[self.topology.chip.name]

    def json(self) -> str:
        values = {
            "topology": str(self.topology),
            "chips": self.topology.count,
            "compiled": bool(self.topology.slice_name),
            "mesh": self.mesh,
            "tokens_a_step": self.tokens,
            "bytes": dataclasses.asdict(self.held)
            | {"temporaries": self.temporaries, "peak": self.peak, "limit": self.limit},
            "fits": self.fits,
            "flops_a_step": self.flops,
            "flops_a_step_and_device": self.flops / self.topology.count,
            "bytes_sent_a_step": self.sent and self.sent.kinds,
            "bytes_sent_along": self.sent and self.sent.axes,
            "compute_seconds": self.compute_seconds,
            "communication_seconds": self.communication_seconds if self.sent else None,
            "compile_seconds": self.compile_seconds,
            "estimate": self.estimate
            and {
                "seconds": self.estimated_seconds,
                "cycles": self.estimate.cycles,
                "kernels": self.estimate.kernels,
                "dearest": [dataclasses.asdict(o) for o in self.estimate.dearest()],
                "custom_kernels": [dataclasses.asdict(o) for o in self.estimate.custom],
            },
            "alternatives": [dataclasses.asdict(alternative) for alternative in self.alternatives],
            "config": to_dict(self.config),
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """The report for people."""
        return "\n".join([*self._title(), "", *self._memory(), "", *self._step(), *self._advice()])

    def _title(self) -> list[str]:
        c, chip = self.config, self.topology.chip
        mesh = " x ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        if not self.topology.slice_name:
            how = "ARITHMETIC, nothing was compiled: " + ACCURACY
        else:
            did = "compiled the train step" if self.fits else "refused the train step"
            how = f"the TPU compiler {did} in {self.compile_seconds:.0f} s"
        return [
            f"{self.topology}: {self.topology.count} x {chip.name}, mesh {mesh}; {how}",
            f"a step reads {c.batch_size} lanes x {c.chunks_per_step} chunks x "
            f"{c.model.chunk_len} tokens "
            f"= {self.tokens:,} tokens; remat={c.model.remat}, accumulation={c.accumulation}",
        ]

    def _memory(self) -> list[str]:
        h = self.held
        rest = self.temporaries - h.gathered - h.grads
        verdict = "FITS" if self.fits else "DOES NOT FIT"
        part = (
            ""
            if self.topology.slice_name
            else " (JAX takes 75% unless XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 or so)"
        )
        rows = [
            ("parameters", h.params, ""),
            ("optimiser state", h.optimizer, ""),
            ("memory of the lanes", h.memory, ""),
            ("temporaries and code", self.temporaries, ""),
            (
                "  parameters gathered",
                h.gathered,
                "arithmetic: float32; the compiler may gather them narrower",
            ),
            ("  gradients", h.grads, "arithmetic"),
            ("  activations and others", rest, "the rest"),
            ("peak", self.peak, f"of {_gib(self.limit)} GiB{part}: {verdict}"),
        ]
        return [
            "memory of one device, GiB",
            *(f"  {name:26}{_gib(size):>9}  {note}".rstrip() for name, size, note in rows),
        ]

    def _step(self) -> list[str]:
        each = self.flops / self.topology.count
        forward = per_token(self.config.model) * self.tokens
        lines = [
            "one step",
            f"  FLOPs                     {self.flops:.3e}  of all devices; {each:.3e} of each; "
            f"{self.flops / forward:.2f} forward passes (3 without recomputation)",
        ]
        if self.sent:
            for kind, sent in self.sent.kinds.items():
                lines.append(f"  {kind:26}{sent / 1e9:9.3f}  GB sent by each device")
            for axes, sent in sorted(self.sent.axes.items()):
                lines.append(f"  along {axes:20}{sent / 1e9:9.3f}  GB of these")
        lines.append(
            f"  computing                 {self.compute_seconds:9.3f}  s at least: arithmetic, "
            "bfloat16 peak"
        )
        if self.sent:
            lines.append(
                f"  sending                   {self.communication_seconds:9.3f}  s at least: "
                "arithmetic, all links"
            )
        return [*lines, *self._estimated()]

    def _estimated(self) -> list[str]:
        e = self.estimate
        if not e:
            return []
        lines = [
            f"  estimated                 {self.estimated_seconds:9.3f}  s: the compiler's "
            f"{e.cycles:.3e} cycles in {e.kernels:,} kernels"
        ]
        if e.custom:
            runs, size = (sum(getattr(o, n) for o in e.custom) for n in ("runs", "kernel_bytes"))
            lines.append(
                f"  not in it                 {runs:9,}  custom kernels, which read and write "
                f"{size / 1e9:.1f} GB and have no estimate"
            )
        lines.append("  the most expensive, in million cycles")
        for o in e.dearest():
            lines.append(f"  {o.cycles / 1e6:26.1f}  {o.runs:6,} x {o.kind}  {o.source}")
        return lines

    def _advice(self) -> list[str]:
        if not self.alternatives:
            return []
        lines = ["", "what to change" + ("" if self.fits else " (it does not fit)")]
        own = self.flops / self.tokens
        for alternative in sorted(self.alternatives, key=lambda a: a.peak):
            saved = self.peak - alternative.peak
            lines.append(
                f"  {alternative.flags:58}peak {_gib(alternative.peak):>7} GiB, {_gib(abs(saved))} "
                f"{'less' if saved >= 0 else 'more'}, {alternative.flops / own - 1:+.0%} FLOPs a "
                "token: "
                f"{'fits' if alternative.fits else 'does not fit'}"
            )
        return lines


def plan(
    config: Config,
    topology: str,
    *,
    advise: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Plans a training step of an experiment.

    Args:
        config: the experiment; its mesh must take all chips.
        topology: "v5e:16x16", a TPU slice, for which the step is compiled (in minutes, with libtpu,
            without a TPU), or "gpu:h100:8".
        advise: also try changes that would take less memory, as is always done if the step does not
            fit.
        progress: called with a line before each compilation.

    Raises:
        UserError: the topology is unknown, the mesh does not fit it or the experiment, or libtpu is
            missing.
    """
    where = parse_topology(topology)
    if config.model.dtype == "float64":
        raise UserError("dtype='float64' is not planned for; use float32 or bfloat16")
    measure = functools.partial(_arithmetic, where)
    if where.slice_name:
        # errors of the mesh come before the search for libtpu
        compiled.make_mesh(config, where)
        measure = functools.partial(_compiled, where, compiled.tpu_devices(where), progress)
    report = measure(config)
    if not (advise or not report.fits):
        return report
    start, found = time.monotonic(), []
    for overrides, smaller in alternatives(config, report.mesh):
        begun = time.monotonic()
        if begun - start > PATIENCE:
            progress(f"not tried: {overrides}; {PATIENCE:.0f} s have passed")
            continue
        try:
            other = measure(smaller)
        except UserError:
            # such a mesh does not fit the experiment
            continue
        found.append(
            Alternative(
                overrides,
                other.peak,
                other.fits,
                other.flops / other.tokens,
                time.monotonic() - begun,
            )
        )
    return dataclasses.replace(report, alternatives=tuple(found))


def alternatives(config: Config, mesh: dict[str, int]) -> list[tuple[dict[str, int | str], Config]]:
    """Experiments that may take less memory: overrides, and the config with them. Those that break
    a rule are left out.
    """
    m = config.mesh
    tried: list[dict[str, int | str]] = []
    if config.model.remat != "chunk+block":
        tried.append({"model.remat": "chunk+block"})
    if mesh["data"] % 2 == 0:
        tried.append({"mesh.fsdp": 2 * m.fsdp} | ({"mesh.data": m.data // 2} if m.data else {}))
    if m.fsdp % 2 == 0:
        tried.append({"mesh.fsdp": m.fsdp // 2, "mesh.tensor": 2 * m.tensor})
        tried.append({"mesh.fsdp": m.fsdp // 2, "mesh.context": 2 * m.context})
    if m.tensor % 2 == 0:
        tried.append({"mesh.tensor": m.tensor // 2, "mesh.context": 2 * m.context})
    tried.append({"accumulation": 2 * config.accumulation})
    if config.batch_size % 2 == 0:
        tried.append({"batch_size": config.batch_size // 2})
    if config.chunks_per_step % 2 == 0:
        tried.append({"chunks_per_step": config.chunks_per_step // 2})
    valid = []
    for overrides in tried:
        try:
            valid.append((overrides, changed(config, overrides)))
        except UserError:
            continue
    return valid


def _compiled(
    where: Topology, devices: list, progress: Callable[[str], None], config: Config
) -> Report:
    mesh = compiled.make_mesh(config, where, devices)
    traced, flops, held = compiled.trace(config, mesh)
    m = mesh.shape
    axes = ", ".join(f"{axis}={size}" for axis, size in m.items())
    progress(
        f"compiling the train step for {where.count} x TPU {where.chip.name} ({axes}, "
        f"{config.batch_size} lanes of {config.chunks_per_step} chunks, "
        f"remat={config.model.remat}); this takes minutes"
    )
    program = compiled.compile_step(traced, held, mesh)
    limit = program.limit or where.chip.memory
    return Report(
        config,
        where,
        dict(m),
        held,
        program.peak,
        limit,
        flops,
        program.sent,
        program.compile_seconds,
        program.estimate,
    )


def _arithmetic(where: Topology, config: Config) -> Report:
    mesh = compiled.make_mesh(config, where)
    _, flops, held = compiled.trace(config, mesh)
    m = dict(mesh.shape)
    peak = held.params + held.optimizer + held.memory + arithmetic.temporaries(config, m, held)
    sent = arithmetic.bytes_sent(config, m, held)
    return Report(config, where, m, held, peak, where.chip.memory, flops, sent, 0.0)


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"
