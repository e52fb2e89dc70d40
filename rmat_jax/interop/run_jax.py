"""A case computed by this project's model, through the functions that train and stream it."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import IGNORE, Config
from rmat_jax.interop.case import Case, Results, by_layer
from rmat_jax.interop.layout import from_jax, to_jax
from rmat_jax.model import RMAT
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import TrainState
from rmat_jax.train.step import train_step


def run_jax(case: Case, dtype: str, precision: str = "highest") -> Iterator[Results]:
    """The results, part by part: the call and its gradient, the optimiser's steps, the streams.

    Args:
        case: what to compute.
        dtype: "float32" or "float64".
        precision: of matrix products: "highest", or "default", which on accelerators has fewer bits
            than the dtype.
    """
    model = dataclasses.replace(case.config.model, dtype=dtype)
    case = dataclasses.replace(case, config=dataclasses.replace(case.config, model=model))
    for part in (_call, _steps, _streams):
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision(precision):
            params = jax.tree.map(lambda x: jnp.asarray(x, dtype), to_jax(model, case.weights))
            results = part(case, params)
        yield {key: np.asarray(value, np.float64) for key, value in results.items()}


def _call(case: Case, params) -> Results:
    """One call over all chunks, its loss, and the gradient of every parameter."""
    config = case.config.model
    model = RMAT(config)
    rows, length = case.tokens.shape
    logits_BTV, _ = _read(
        model, params, case.tokens, model.initial_state(rows), case.documents, np.full(rows, length)
    )
    (loss, layers), grads = jax.device_get(
        _loss_and_layers(model, params, case.tokens, case.targets, case.documents)
    )
    outputs = by_layer("layer output", layers["y"][0])
    memory = by_layer("memory", layers["slots"][0]) if config.has_memory else {}
    results = {}
    for chunk, logits_BCV in enumerate(np.split(np.asarray(logits_BTV), case.num_chunks, axis=1)):
        for layer in range(config.num_layers):
            place = f"chunk {chunk}, layer {layer}"
            results |= {
                key: part[key] for part in (outputs, memory) for key in part if key[1] == place
            }
        results["logits", f"chunk {chunk}"] = logits_BCV
    results["loss", "all chunks"] = loss
    return results | {("gradient", name): grad for name, grad in from_jax(config, grads).items()}


def _steps(case: Case, params) -> Results:
    """The optimiser's steps, through the project's train step."""
    config = case.config
    optimizer, step = _stepper(config)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        # of the dropout, which is off
        key=jax.random.key(0),
        memory=RMAT(config.model).initial_state(config.batch_size, closed=True),
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
    """Ragged prompts in one call, then token by token: logits from each prompt's last token on, and
    the memory left.
    """
    model = RMAT(case.config.model)
    rows, lengths = np.arange(len(case.tokens)), case.prompt_lengths
    prompt_len = case.tokens.shape[1]
    logits_BTV, state = _read(
        model,
        params,
        case.stream_tokens[:, :prompt_len],
        model.initial_state(len(rows)),
        case.stream_documents[:, :prompt_len],
        lengths,
    )
    logits = [logits_BTV[rows, lengths - 1]]
    for step in range(case.decoded):
        place = (rows, lengths + step)
        token_B1, document_B1 = (
            case.stream_tokens[place][:, None],
            case.stream_documents[place][:, None],
        )
        logits_B1V, state = _read(model, params, token_B1, state, document_B1)
        logits.append(logits_B1V[:, 0])
    results = {
        ("streamed logits", f"row {row}"): x
        for row, x in enumerate(np.stack(jax.device_get(logits), axis=1))
    }
    if case.config.model.has_memory:
        for row, memory_LMD in enumerate(np.asarray(state.memory_LBMD()).swapaxes(0, 1)):
            for layer, memory_MD in enumerate(memory_LMD):
                results["streamed memory", f"row {row}, layer {layer}"] = memory_MD
    return results


# Compiled once for all runs of a case: the tolerances take several, with other weights.


@functools.lru_cache(maxsize=1)
def _stepper(config: Config):
    """The optimiser, and the train step."""
    optimizer = make_optimizer(config)
    return optimizer, jax.jit(functools.partial(train_step, config, optimizer))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def _loss_and_layers(model: RMAT, params, tokens_BT, targets_BT, documents_BT):
    """The mean loss of one call, what its layers put out; the loss's gradient."""
    state = model.initial_state(len(tokens_BT), closed=True)
    inputs = (tokens_BT, targets_BT, state, documents_BT)
    (scores, _), sown = model.apply(
        {"params": params}, *inputs, method=RMAT.score, mutable="activations"
    )
    return scores.loss_BT.sum() / (targets_BT != IGNORE).sum(), sown["activations"]["layers"]


@functools.partial(jax.jit, static_argnums=0)
def _read(model: RMAT, params, tokens_BT, state, documents_BT, lengths_B=None):
    return model.apply({"params": params}, tokens_BT, state, documents_BT, lengths_B)
