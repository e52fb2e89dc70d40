"""Computes a case with a PyTorch module, the reference or a port of your own. Needs no JAX.

**The protocol.** A port is a function `factory(config, weights) -> torch.nn.Module`, where `config`
is the RMATConfig and `weights` holds a tensor for each name of `layout(config)`. The module must
offer

    logits, state = module(tokens, state, documents)

with `tokens` and `documents` [B, T] int64, any T >= 1, `logits` [B, T, V], and `state` None or what
an earlier call of the same batch returned; `state.detach()` gives the same state without its
history. All rows stand at the same place in their chunks. Inputs lie on the CPU; a port that
computes elsewhere moves them itself.

These parts are optional. They are compared if the module offers them, or else reported:

    state.memory         [L, B, M, D], the memory after the last full chunk, zeros if unwritten
    module.layers        a ModuleList of L blocks whose output (or its first item) is the layer's
                         output [B, S, D], to find the layer of the first difference
    named_parameters()   under the names of `weights`, for gradients and the optimiser's steps

A module that cannot go on from a state returns None for it. Then only results of a single call are
compared.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rmat_jax.config import IGNORE, RMATConfig
from rmat_jax.errors import UserError, install
from rmat_jax.interop.case import Case, Results

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise UserError(
        f"this needs PyTorch, which is not installed; run: {install('torch')} (its CPU build is "
        "small: --extra-index-url https://download.pytorch.org/whl/cpu)"
    ) from None

Factory = Callable[[RMATConfig, Mapping[str, torch.Tensor]], torch.nn.Module]


def reference(config: RMATConfig, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The factory of this project's reference."""
    from rmat_jax.interop.reference import RMAT

    module = RMAT(config).to(next(iter(weights.values())).dtype)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights are not those of the config: {' '.join(str(error).split())[:300]}"
        ) from error
    return module


def load_factory(name: str) -> Factory:
    """Imports the function that `package.module:function` names, also from the working directory.

    Raises:
        UserError: there is no such module or function, or importing it fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(
            f"--torch={name} must name a function; write --torch=package.module:function"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except BaseException as error:
        # whatever the user's code raises, even an exit
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(
            f"--torch={name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise UserError(
            f"--torch={name} is a {type(factory).__name__}, not a function of config and weights"
        )
    return factory


def run_torch(case: Case, dtype: str, factory: Factory = reference) -> Iterator[Results]:
    """Yields the results in parts, as `run_jax` does, as far as the module offers them."""
    c = case.config.model
    threads = torch.get_num_threads()
    # threads would wait for each other longer than they work
    if len(case.tokens) * c.chunk_len * c.mlp_width < 1 << 20:
        torch.set_num_threads(1)
    try:
        yield from _parts(case, dtype, factory)
    finally:
        torch.set_num_threads(threads)


def _parts(case: Case, dtype: str, factory: Factory) -> Iterator[Results]:
    for part in (_call, _steps, _streams):
        weights = {
            name: torch.tensor(x, dtype=getattr(torch, dtype)) for name, x in case.weights.items()
        }
        module = factory(case.config.model, weights)
        results = part(case, module)
        yield {
            key: value.detach().to("cpu", torch.float64).numpy() for key, value in results.items()
        }


def _call(case: Case, module: torch.nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    config = case.config.model
    tokens, targets, documents = map(torch.from_numpy, (case.tokens, case.targets, case.documents))
    with _outputs(module) as outputs:
        logits, state = module(tokens, None, documents)
    labels = targets.flatten().to(logits.device)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORE)
    loss.backward()
    memory_N = (
        [] if getattr(state, "memory", None) is None else _memory_after_each_chunk(case, module)
    )
    offered = len(outputs) == config.num_layers and all(outputs)
    outputs_L = [
        torch.cat(parts, dim=1).split(config.chunk_len, dim=1) for parts in outputs if offered
    ]
    results = {}
    for chunk, logits_BCV in enumerate(logits.split(config.chunk_len, dim=1)):
        for layer in range(config.num_layers):
            place = f"chunk {chunk}, layer {layer}"
            if outputs_L:
                results["layer output", place] = outputs_L[layer][chunk]
            if memory_N:
                results["memory", place] = memory_N[chunk][layer]
        results["logits", f"chunk {chunk}"] = logits_BCV
    results["loss", "all chunks"] = loss
    return results | {("gradient", name): _gradient(p) for name, p in _named(case, module).items()}


def _memory_after_each_chunk(case: Case, module: torch.nn.Module) -> list[torch.Tensor]:
    """The memory after each chunk, from one call a chunk, which must equal one call over all."""
    memory, state = [], None
    for start in range(0, case.tokens.shape[1], case.config.model.chunk_len):
        part = slice(start, start + case.config.model.chunk_len)
        _, state = _read(module, case.tokens[:, part], state, case.documents[:, part])
        memory.append(state.memory)
    return memory


def _steps(case: Case, module: torch.nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    from rmat_jax.interop.training import make_optimizer, train_step

    named = _named(case, module)
    if not named or _read(module, case.tokens[:, :1], None, case.documents[:, :1])[1] is None:
        return {}
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer, schedule = make_optimizer(case.config, module)
    state, results = None, {}
    for index, batch in enumerate(
        zip(case.step_tokens, case.step_targets, case.step_documents, strict=True)
    ):
        inputs = [torch.from_numpy(np.ascontiguousarray(x)) for x in batch]
        loss, norm, state = train_step(case.config, module, optimizer, schedule, *inputs, state)
        results |= {
            ("training loss", f"step {index}"): loss,
            ("gradient norm", f"step {index}"): norm,
        }
    return results | {("update", name): p.detach() - before[name] for name, p in named.items()}


def _streams(case: Case, module: torch.nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    """Reads each row by itself, since prompts end at different places in their chunks."""
    results = {}
    for row, length in enumerate(case.prompt_lengths):
        tokens, documents = case.stream_tokens[row : row + 1], case.stream_documents[row : row + 1]
        prompt, state = _read(module, tokens[:, :length], None, documents[:, :length])
        if state is None:
            return {}
        logits = [prompt[0, -1]]
        for place in range(length, length + case.decoded):
            here = slice(place, place + 1)
            one, state = _read(module, tokens[:, here], state, documents[:, here])
            logits.append(one[0, 0])
        results["streamed logits", f"row {row}"] = torch.stack(logits)
        if getattr(state, "memory", None) is not None:
            for layer, memory_BMD in enumerate(state.memory):
                results["streamed memory", f"row {row}, layer {layer}"] = memory_BMD[0]
    return results


@torch.no_grad()
def _read(
    module: torch.nn.Module, tokens: np.ndarray, state: Any, documents: np.ndarray
) -> tuple[torch.Tensor, Any]:
    return module(torch.from_numpy(tokens), state, torch.from_numpy(documents))


def _named(case: Case, module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The module's parameters, if they have the names and shapes of the case's weights; else {}."""
    named = dict(module.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in named.items()}
    return (
        {n: named[n] for n in case.weights}
        if shapes == {n: x.shape for n, x in case.weights.items()}
        else {}
    )


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@contextlib.contextmanager
def _outputs(module: torch.nn.Module) -> Iterator[list[list[torch.Tensor]]]:
    """Collects what each of `module.layers` returns in the block; empty without such layers."""
    layers: Any = getattr(module, "layers", [])
    collected: list[list[torch.Tensor]] = [[] for _ in layers]

    def keep(parts):
        return lambda layer, inputs, output: parts.append(
            output if torch.is_tensor(output) else output[0]
        )

    handles = [
        layer.register_forward_hook(keep(parts))
        for layer, parts in zip(layers, collected, strict=True)
    ]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()
