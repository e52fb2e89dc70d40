"""The model's forward pass written down once more, from the equations alone: numpy, float64, one
row, one token at a time.

No cleverness, no masks, no batching: a token's keys are a list of earlier tokens, the memory is a
list of slots. Where the model and this text differ, one of them misreads `docs/architecture.md`.
"""

from typing import NamedTuple

import numpy as np

from rmat_jax.config import RMATConfig


class Slot(NamedTuple):
    vector: np.ndarray
    # in which it was written
    chunk: int


class Lane(NamedTuple):
    """What one row gives."""

    logits_TV: np.ndarray
    # zeros where nothing is written
    memory_LMD: np.ndarray
    # chunks since, 0 where nothing is written
    ages_M: np.ndarray


def read(
    config: RMATConfig, params: dict, tokens: np.ndarray, documents: np.ndarray | None = None
) -> list[Lane]:
    """Reads each row of [B, T] from a chunk's border on. Documents need ids of their own within a
    row.
    """
    documents = np.zeros_like(tokens) if documents is None else documents
    return [
        _lane(config, params, row, owners) for row, owners in zip(tokens, documents, strict=True)
    ]


def _lane(config, params, tokens, documents) -> Lane:
    x = params["embed"]["embedding"][tokens] * np.sqrt(config.width)
    if config.token_shift:
        # from the end: x[t - 1] is still its own token's
        for t in range(len(tokens) - 1, 0, -1):
            x[t] += (x[t - 1] if documents[t] == documents[t - 1] else 0 * x[t]) @ params[
                "previous"
            ]["kernel"]
    queues = []
    for layer in range(config.num_layers):
        x, queue = _layer(config, _pick(params["layers"], layer), x, documents)
        queues.append(queue)
    table = params["embed"]["embedding"] if config.tie_embeddings else params["output"]
    # the one that the next token is in
    chunk = len(tokens) // config.chunk_len
    zeros = np.zeros(config.width)
    return Lane(
        logits_TV=_norm(params["final_norm"], x) @ table.T,
        memory_LMD=np.array(
            [[slot.vector if slot else zeros for slot in queue] for queue in queues]
        ),
        ages_M=np.array([chunk - slot.chunk if slot else 0 for slot in queues[0]]),
    )


def _layer(config, p, x, documents):
    """All tokens of the row through one layer, and the queue that is left."""
    h = _norm(p["attention_norm"], x)
    q, k, v = (_heads(config, h @ p[name]["kernel"]) for name in ("query", "key", "value"))
    joint = config.memory and config.memory.read == "joint"
    own = [b for b in config.branches if b != "memory" or not joint]
    # a branch without others has no weight
    shares = dict(zip(own, _softmax(p["fusion"]) if len(own) > 1 else [1.0], strict=True))
    y = np.zeros_like(x)
    # the owner is the document that the queue remembers
    empty = [None] * (config.memory.slots if config.memory else 0)
    queue, owner = empty, None
    for t, document in enumerate(documents):
        # of this token's chunk
        first = t - t % config.chunk_len
        if document != owner:
            queue, owner = empty, document
        attended = 0
        for branch, share in shares.items():
            # (scores by head, values by head) of each thing that is seen
            scored = []
            if branch == (own[0] if joint else "memory"):
                asks = _rotate(config, q[t], t - first) if joint else q[t]
                bias = p["memory_bias"] if joint else 0.0
                scored += [
                    (_scores(asks, key) + bias, value)
                    for key, value in _memory_keys(config, p, queue, first)
                ]
            if branch != "memory":
                for u in _sees(config, branch, t):
                    if documents[u] == document:
                        key = _rotate(config, k[u], u - first)
                        scored.append((_scores(_rotate(config, q[t], t - first), key), v[u]))
            attended = attended + share * _attend(q[t].shape, scored)
        after = x[t] + attended.reshape(-1) @ p["output"]["kernel"]
        y[t] = after + _mlp(p["mlp"], _norm(p["mlp_norm"], after))
        if (t + 1) % config.chunk_len == 0 and config.memory:
            mine = documents[first : t + 1] == document
            kept = (y if config.memory.keeps == "outputs" else h)[first : t + 1]
            queue = _write(config, p.get("memory"), queue, kept, mine, first // config.chunk_len)
    return y, queue


def _sees(config, branch, t):
    """The tokens, up to and with t, that its branch shows it."""
    if branch == "full":
        return range(t - t % config.chunk_len, t + 1)
    if config.local.sliding:
        return range(max(0, t - config.local.window + 1), t + 1)
    return range(t - t % config.local.window, t + 1)


def _scores(q, key):
    """One query and one key, by head."""
    return (q * key).sum(-1) / np.sqrt(q.shape[-1])


def _attend(shape, scored):
    """The values [H, E], weighted by the softmax of their scores in each head; nothing to attend to
    gives nothing.
    """
    out = np.zeros(shape)
    for head in range(shape[0] if scored else 0):
        for weight, (_, value) in zip(
            _softmax([scores[head] for scores, _ in scored]), scored, strict=True
        ):
            out[head] += weight * value[head]
    return out


def _memory_keys(config, p, queue, first):
    """Key and value of each written slot, for a query in the chunk that begins at token `first`."""
    for place, slot in enumerate(queue):
        if not slot:
            continue
        if config.memory.keeps == "inputs":
            key, value = (slot.vector @ p[name]["kernel"] for name in ("key", "value"))
        else:
            normed = _norm(p["memory"]["read_norm"], slot.vector)
            key, value = (normed @ p["memory"][name]["kernel"] for name in ("key", "value"))
        key = _heads(config, key)
        if config.memory.read == "joint":
            writes, run = config.memory.writes, config.chunk_len // config.memory.writes
            begin = slot.chunk * config.chunk_len + place % writes * run
            key = _rotate(config, key, np.mean(np.arange(begin, begin + run)) - first)
        yield key, _heads(config, value)


def _write(config, p, queue, y, mine, chunk):
    """The queue after the chunk's vectors y [C, D], of which `mine` belong to the chunk's last
    document.
    """
    writes, run = config.memory.writes, config.chunk_len // config.memory.writes
    normed = _norm(p["write_norm"], y) if config.memory.keeps == "outputs" else y
    new = []
    for k in range(writes):
        members = [c for c in range(k * run, (k + 1) * run) if mine[c]]
        if not members:
            new.append(None)
            continue
        s = normed[members].mean(0)
        e = queue[k].vector if queue[k] else np.zeros_like(s)
        new.append(Slot(_gate(config.memory.gate, p, s, e), chunk))
    return queue[writes:] + new


def _gate(kind, p, s, e):
    if kind == "none":
        return s
    p = p["gate"]
    if kind == "slot":
        z = np.clip(1.2 * _sigmoid(s @ p["wz"] + e @ p["uz"] + p["bz"]) - 0.1, 0, 1)
        return (1 - z) * e + z * s
    z = _sigmoid(s @ p["Wz"] + e @ p["Uz"] + p["bz"])
    r = _sigmoid(s @ p["Wr"] + e @ p["Ur"] + p["br"])
    c = np.tanh(s @ p["Wc"] + (r * e) @ p["Uc"])
    return (1 - z) * e + z * c


def _mlp(p, x):
    x = x @ p["inner"]["kernel"] + p["inner"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ p["outer"]["kernel"] + p["outer"]["bias"]


def _norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def _rotate(config, x, position):
    if config.rope == "none":
        return x
    if config.rope == "per_head":
        return _turn(x, position, config.rope_base)
    # frequency i of "global" is that of place i in all heads
    heads = config.num_heads
    return np.stack(
        [_turn(x[h], position, config.rope_base, h / heads, heads) for h in range(heads)]
    )


def _turn(x, position, base, begin=0.0, slower=1):
    """Each vector [.., E] as complex numbers, component i and i + E/2, turned by position *
    base^-(begin + 2i/E/slower).
    """
    half = x.shape[-1] // 2
    exponents = begin + np.arange(half) / half / slower
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * position * base**-exponents)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _heads(config, x):
    return x.reshape(*x.shape[:-1], config.num_heads, config.width // config.num_heads)


def _softmax(x):
    x = np.exp(np.asarray(x) - np.max(x))
    return x / x.sum()


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _pick(tree, layer):
    return {
        k: _pick(v, layer) if isinstance(v, dict) else np.asarray(v[layer]) for k, v in tree.items()
    }
