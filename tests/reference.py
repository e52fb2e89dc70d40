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
    shares = np.apply_along_axis(_softmax, 0, p["fusion"])[
        ..., None
        # [streams, 1], or with a weight a head [.., H, 1]
    ]
    own = [s for s in config.streams if s != "memory" or config.fusion != "joint"]
    fusion = dict(zip(own, shares, strict=True))
    y = np.zeros_like(x)
    # the owner is the document that the queue remembers
    queue, owner = [None] * config.slots, None
    for t, document in enumerate(documents):
        # of this token's chunk
        first = t - t % config.chunk_len
        if document != owner:
            queue, owner = [None] * config.slots, document
        attended = 0
        for stream, share in fusion.items():
            # (scores by head, values by head) of each thing that is seen
            scored = []
            if stream == "memory" or (
                "memory" in config.streams and "memory" not in own and stream == own[0]
            ):
                asks = _rotate(config, q[t], t - first) if config.memory_age == "tokens" else q[t]
                bias = p.get("memory_bias", 0.0)
                scored += [
                    (_scores(asks, key) + bias, value)
                    for key, value in _memory_keys(config, p, queue, first)
                ]
            if stream != "memory":
                for u in _sees(config, stream, t):
                    if documents[u] == document:
                        key = _rotate(config, k[u], u - first)
                        scored.append((_scores(_rotate(config, q[t], t - first), key), v[u]))
            attended = attended + share * _attend(q[t].shape, scored)
        after = x[t] + attended.reshape(-1) @ p["output"]["kernel"]
        y[t] = after + _mlp(p["mlp"], _norm(p["mlp_norm"], after))
        if (t + 1) % config.chunk_len == 0 and "memory" in config.streams:
            mine = documents[first : t + 1] == document
            kept = (y if config.memory_source == "output" else h)[first : t + 1]
            queue = _write(config, p.get("memory"), queue, kept, mine, first // config.chunk_len)
    return y, queue


def _sees(config, stream, t):
    """The tokens, up to and with t, that its stream shows it."""
    first = t - t % config.chunk_len
    if stream == "full":
        return range(first, t + 1)
    if config.window == "sliding":
        return range(max(0, t - config.window_len + 1), t + 1)
    return range(t - t % config.window_len, t + 1)


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
        if config.memory_source == "input":
            key, value = (slot.vector @ p[name]["kernel"] for name in ("key", "value"))
        else:
            normed = _norm(p["memory"]["read_norm"], slot.vector)
            key, value = (normed @ p["memory"][name]["kernel"] for name in ("key", "value"))
        key, begins = _heads(config, key), slot.chunk * config.chunk_len
        if config.memory_age == "rotary":
            key = _turn(key, slot.chunk - first // config.chunk_len, config.rope_base)
        if config.memory_age == "tokens":
            writes, run = config.writes, config.chunk_len // config.writes
            begin, length = (place - len(queue)) % writes * run, run
            if config.memory_pool == "attention":
                begin, length = 0, config.chunk_len
            key = _rotate(config, key, np.mean(np.arange(length)) + begins + begin - first)
        yield key, _heads(config, value)


def _write(config, p, queue, y, mine, chunk):
    """The queue after the chunk's vectors y [C, D], of which `mine` belong to the chunk's last
    document.
    """
    writes, run = config.writes, config.chunk_len // config.writes
    normed = _norm(p["write_norm"], y) if config.memory_source == "output" else y
    new = []
    for k in range(writes):
        if config.memory_pool == "attention":
            members = np.flatnonzero(mine)
            weights = _softmax(normed[members] @ p["pool_queries"][k] / np.sqrt(config.width))
        else:
            members = [c for c in range(k * run, (k + 1) * run) if mine[c]]
            weights = np.full(len(members), 1 / max(1, len(members)))
        if not len(members):
            new.append(None)
            continue
        s = weights @ normed[members]
        gated = {"evicted": queue[k], "newest": queue[len(queue) - writes + k], "none": None}[
            config.gate
        ]
        e = gated.vector if gated else np.zeros_like(s)
        new.append(Slot(s if config.gate == "none" else _gate(config, p["gate"], s, e), chunk))
    return queue[writes:] + new


def _gate(config, p, s, e):
    w, u = ("wz", "uz") if config.gate_scope == "slot" else ("Wz", "Uz")
    z = _sigmoid(s @ p[w] + e @ p[u] + p["bz"])
    if config.gate_curve == "clipped":
        z = np.clip(1.2 * z - 0.1, 0, 1)
    if config.gate_form == "blend":
        return (1 - z) * e + z * s
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
