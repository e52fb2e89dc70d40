"""Computes a case with this project's model, through the functions that train and stream it."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import IGNORE, Config, RMATConfig
from rmat_jax.infer import open_chunk
from rmat_jax.interop.case import Case, Results
from rmat_jax.interop.layout import from_jax, to_jax
from rmat_jax.model import RMAT
from rmat_jax.modules.block import Block
from rmat_jax.modules.state import initial_state
from rmat_jax.train.bad_steps import healthy
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import TrainState
from rmat_jax.train.step import train_step


def run_jax(case: Case, dtype: str, precision: str = "highest") -> Iterator[Results]:
    """Yields the results of the call and its gradient, the optimiser's steps, and the streams.

    Args:
        case: the case to compute.
        dtype: "float32" or "float64".
        precision: the precision of matrix products: "highest", or "default", which on accelerators
            has fewer bits than the dtype.
    """
    model = dataclasses.replace(case.config.model, dtype=dtype)
    case = dataclasses.replace(case, config=dataclasses.replace(case.config, model=model))
    for part in (_call, _steps, _streams):
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision(precision):
            params = jax.tree.map(lambda x: jnp.asarray(x, dtype), to_jax(model, case.weights))
            results = part(case, params)
        yield {key: np.asarray(value, np.float64) for key, value in results.items()}


def _call(case: Case, params) -> Results:
    """Makes one call over all chunks, with its loss and the gradient of every parameter."""
    config = case.config.model
    logits_BTV = _logits(config, params, case.tokens, case.documents)
    loss, grads = jax.device_get(_loss(config, params, case.tokens, case.targets, case.documents))
    # what each layer returns for each chunk, [N, L, ...]
    layers = _layers(config, params, case.tokens, case.documents)
    shown = {"layer output": layers["__call__"][0]}
    if config.memory:
        shown["memory"] = layers["write"][0][0]
    results = {}
    for chunk, logits_BCV in enumerate(np.split(np.asarray(logits_BTV), case.num_chunks, axis=1)):
        for layer in range(config.num_layers):
            for quantity, x_NL in shown.items():
                results[quantity, f"chunk {chunk}, layer {layer}"] = x_NL[chunk, layer]
        results["logits", f"chunk {chunk}"] = logits_BCV
    results["loss", "all chunks"] = loss
    return results | {("gradient", name): grad for name, grad in from_jax(config, grads).items()}


def _steps(case: Case, params) -> Results:
    """Makes the optimiser's steps with the project's train step."""
    config = case.config
    optimizer, step = _stepper(config)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        # the key of dropout, which is off
        key=jax.random.key(0),
        carried=initial_state(config.model, config.batch_size),
        health=healthy(),
    )
    results: Results = {}
    for index, batch in enumerate(
        zip(case.step_tokens, case.step_targets, case.step_documents, strict=True)
    ):
        state, sums = step(state, dict(zip(("tokens", "targets", "documents"), batch, strict=True)))
        results["training loss", f"step {index}"] = sums.loss / sums.scored
        results["gradient norm", f"step {index}"] = sums.grad_norm
    after = from_jax(config.model, jax.device_get(state.params))
    before = from_jax(config.model, jax.device_get(params))
    return results | {("update", name): after[name] - before[name] for name in after}


def _streams(case: Case, params) -> Results:
    """Reads prompts of several lengths in one call, and then token by token.

    The results are the logits from each prompt's last token on, and the final memory.
    """
    config, rows, lengths = case.config.model, np.arange(len(case.tokens)), case.prompt_lengths
    prompts = slice(0, case.tokens.shape[1])
    tokens_BT, documents_BT = case.stream_tokens, case.stream_documents
    state = open_chunk.stack_layers(open_chunk.initial_state(config, len(rows)))
    logits_BTV, state = _read(
        config, params, state, tokens_BT[:, prompts], documents_BT[:, prompts], lengths
    )
    logits = [logits_BTV[rows, lengths - 1]]
    params, state = open_chunk.unstack_params(params), open_chunk.unstack_layers(state)
    for step in range(case.decoded):
        place = rows[:, None], (lengths + step)[:, None]
        logits_B1V, state = _read(config, params, state, tokens_BT[place], documents_BT[place])
        logits.append(logits_B1V[:, 0])
    results = {
        ("streamed logits", f"row {row}"): x
        for row, x in enumerate(np.stack(jax.device_get(logits), axis=1))
    }
    if config.memory:
        written_BM1 = state.ages_BM[..., None] > 0
        for layer, part in enumerate(state.layers):
            for row, memory_MD in enumerate(jnp.where(written_BM1, part.slots_BMD, 0)):
                results["streamed memory", f"row {row}, layer {layer}"] = memory_MD
    return results


# Compiled once for all runs of a case, since the tolerances take several with other weights.


@functools.lru_cache(maxsize=1)
def _stepper(config: Config):
    """The optimiser, and the train step."""
    optimizer = make_optimizer(config)
    return optimizer, jax.jit(functools.partial(train_step, config, optimizer))


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: RMATConfig, params, tokens_BT, documents_BT):
    return RMAT(config).apply({"params": params}, tokens_BT, None, documents_BT)[0]


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1)
def _loss(config: RMATConfig, params, tokens_BT, targets_BT, documents_BT):
    """The mean loss of one call, and its gradient."""
    scores, _ = RMAT(config).apply(
        {"params": params}, tokens_BT, targets_BT, None, documents_BT, method=RMAT.score
    )
    return scores.loss_BT.sum() / (targets_BT != IGNORE).sum()


@functools.partial(jax.jit, static_argnums=0)
def _layers(config: RMATConfig, params, tokens_BT, documents_BT):
    """What the layers return for each chunk."""

    def asked(module, name):
        return isinstance(module, Block) and name in ("__call__", "write")

    _, shown = RMAT(dataclasses.replace(config, chunks_at_once=1)).apply(
        {"params": params},
        tokens_BT,
        None,
        documents_BT,
        capture_intermediates=asked,
        mutable=["intermediates"],
    )
    return shown["intermediates"]["layers"]


@functools.partial(jax.jit, static_argnums=0)
def _read(config: RMATConfig, params, state, tokens_BT, documents_BT, lengths_B=None):
    """Reads on in the streams, and returns logits and state."""
    x_BTD, state = open_chunk.read(config, params, state, tokens_BT, documents_BT, lengths_B)
    return open_chunk.logits(config, params, x_BTD), state
