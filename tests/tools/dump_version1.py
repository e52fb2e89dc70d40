"""Writes what version 1 of the model computed, for `tests/laws/test_version1.py` to compare with.

    git worktree add ../version1 3a94fb7
    cd ../version1
    JAX_ENABLE_X64=1 python ../rmat_jax/tests/tools/dump_version1.py ../rmat_jax/tests/laws/version1

It runs on that commit alone. Each file holds parameters, tokens, documents, targets, logits, the
written memory after every chunk, and the gradient of a loss that reaches all of these, all in
float64.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from rmat_jax.config import PAPER, RMATConfig
from rmat_jax.model import RMAT

SIZES = {"vocab_size": 11, "width": 8, "num_layers": 2, "num_heads": 2, "mlp_width": 12}
SIZES |= {
    "chunk_len": 8,
    "window_len": 4,
    "memory_slots": 6,
    "memory_writes": 2,
    "dtype": "float64",
}
# a slot for each token, two chunks of them
TOKEN = {"memory_slots": 16, "memory_writes": 8}
HYBRID = {"streams": ("full", "local", "memory"), "window": "sliding", "gate": "evicted"}
CASES = {
    "paper": PAPER,
    "paper_sliding": PAPER | {"window": "sliding"},
    "queue": TOKEN,
    "queue_slot_gate": TOKEN | {"gate": "evicted"},
    "hybrid": TOKEN | HYBRID,
    "passkey": TOKEN | HYBRID | {"memory_source": "output"},
    "no_memory": {"streams": ("full", "local"), "window": "sliding", "fusion": "layer"},
}
CHUNKS = 5


def dump(changes: dict) -> dict[str, np.ndarray]:
    config = RMATConfig(**SIZES | changes)
    model, rng = RMAT(config), np.random.default_rng(0)
    batch, length = 2, CHUNKS * config.chunk_len
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda x: rng.normal(scale=0.35, size=x.shape), shapes)
    tokens, targets = rng.integers(config.vocab_size, size=(2, batch, length))
    documents = np.stack([np.zeros(length, int), np.repeat([3, 4, 5, 6], [5, 9, 12, 14])])
    weights = rng.normal(size=(config.num_layers, batch, config.slots, config.width))

    def read(params):
        state, logits, memory = model.initial_state(batch, closed=True), [], []
        for chunk in np.split(np.arange(length), CHUNKS):
            out, state = model.apply(
                {"params": params}, tokens[:, chunk], state, documents[:, chunk]
            )
            logits.append(out)
            if config.has_memory:
                memory.append(state.memory_LBMD())
        logits = jnp.concatenate(logits, axis=1)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1).sum()
        if config.has_memory:
            loss += (weights * memory[-1]).sum()
        return loss, (logits, memory)

    (loss, (logits, memory)), grads = jax.value_and_grad(read, has_aux=True)(params)
    out = {
        "tokens": tokens,
        "targets": targets,
        "documents": documents,
        "logits": logits,
        "loss": loss,
    }
    if config.has_memory:
        out |= {"memory": jnp.stack(memory), "memory_weights": weights}
    for kind, tree in (("params", params), ("grads", grads)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            out[f"{kind}/{jax.tree_util.keystr(path, simple=True, separator='/')}"] = leaf
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for name, changes in CASES.items():
        save_file(dump(changes), folder / f"{name}.safetensors")
        print(folder / f"{name}.safetensors")
