"""The model in plain NumPy, float64, written from `docs/architecture.md` alone.

One row of tokens, chunk after chunk, layer after layer, with a state that the next call goes on
from. (`tests/reference.py` goes token by token, and always starts afresh.)
"""

from typing import NamedTuple

import numpy as np

EPSILON = 1e-5


class State(NamedTuple):
    """What a chunk leaves to the next one. Here the window's keys are not turned yet."""

    slots_LMD: np.ndarray
    ages_M: np.ndarray
    window_keys_LWD: np.ndarray
    window_values_LWD: np.ndarray
    window_documents_W: np.ndarray
    document: int
    token: int


def initial_state(config) -> State:
    slots = config.memory.slots if config.memory else 0
    window = config.local.window if config.local and config.local.sliding else 0
    slots_LMD = np.zeros((config.num_layers, slots, config.width))
    keys_LWD = np.zeros((config.num_layers, window, config.width))
    nobody_W = np.full(window, -1)
    return State(slots_LMD, np.zeros(slots, int), keys_LWD, keys_LWD, nobody_W, 0, -1)


def read(config, params, tokens_T, documents_T, state: State | None = None):
    """Logits [T, V] of whole chunks, and the state after them."""
    state, logits = state or initial_state(config), []
    for first in range(0, len(tokens_T), config.chunk_len):
        here = slice(first, first + config.chunk_len)
        x_CD, state = read_chunk(config, params, tokens_T[here], documents_T[here], state)
        table_VD = params["embed"]["embedding"] if config.tie_embeddings else params["output"]
        logits.append(norm(params["final_norm"], x_CD) @ table_VD.T)
    return np.concatenate(logits), state


def read_chunk(config, params, tokens_C, documents_C, state):
    """What the last layer gives, and the next state."""
    last, masks = documents_C[-1], branch_masks(config, documents_C, state)
    # slots of another document than the last are as if they had never been written
    ages_M = state.ages_M * (state.document == last)
    x_CD, slots, keys, values = embed(config, params, tokens_C, documents_C, state), [], [], []
    for index in range(config.num_layers):
        p = of_layer(params["layers"], index)
        slots_MD = state.slots_LMD[index]
        keys_WD, values_WD = state.window_keys_LWD[index], state.window_values_LWD[index]
        h_CD = norm(p["attention_norm"], x_CD)
        q_CD, k_CD, v_CD = (h_CD @ p[name]["kernel"] for name in ("query", "key", "value"))
        keys_JD, values_JD = np.concatenate([keys_WD, k_CD]), np.concatenate([values_WD, v_CD])
        x_CD = x_CD + attend(config, p, q_CD, keys_JD, values_JD, slots_MD, masks)
        x_CD = x_CD + mlp(p["mlp"], norm(p["mlp_norm"], x_CD))
        if config.memory:
            slots_MD = write(config, p, slots_MD, ages_M, h_CD, x_CD, documents_C == last)
        slots.append(slots_MD)
        keys.append(keys_JD[len(k_CD) :])
        values.append(values_JD[len(v_CD) :])
    if config.memory:
        written_K = (documents_C == last).reshape(config.memory.writes, -1).any(1)
        ages_M = np.append(ages_M + (ages_M > 0), written_K)[config.memory.writes :]
    owners_W = np.append(state.window_documents_W, documents_C)[len(documents_C) :]
    window = np.stack(keys), np.stack(values), owners_W
    return x_CD, State(np.stack(slots), ages_M, *window, last, tokens_C[-1])


def embed(config, params, tokens_C, documents_C, state):
    """sqrt(D) (E[t] + E[t-1] Wp), the second term within a document."""
    table_VD = params["embed"]["embedding"]
    x_CD = table_VD[tokens_C]
    if config.token_shift:
        before_C = np.append(state.token, tokens_C[:-1])
        same_C = (np.append(state.document, documents_C[:-1]) == documents_C) & (before_C >= 0)
        x_CD = x_CD + same_C[:, None] * (table_VD[before_C] @ params["previous"]["kernel"])
    return np.sqrt(config.width) * x_CD


def branch_masks(config, documents_C, state):
    """What each branch that has a share sees of the slots, the window and the chunk, [C, J]."""
    query_C1, window = np.arange(config.chunk_len)[:, None], len(state.window_documents_W)
    key_J = np.arange(-window, config.chunk_len)
    own_CJ = documents_C[:, None] == np.append(state.window_documents_W, documents_C)
    own_CJ &= key_J <= query_C1
    slots_CM = (documents_C == state.document)[:, None] & (state.ages_M > 0)
    masks = {}
    for branch in config.branches:
        if branch == "memory":
            tokens_CJ = np.zeros_like(own_CJ)
        elif branch == "full":
            tokens_CJ = own_CJ & (key_J >= 0)
        elif config.local.sliding:
            tokens_CJ = own_CJ & (query_C1 - key_J < config.local.window)
        else:
            tokens_CJ = own_CJ & (query_C1 // config.local.window == key_J // config.local.window)
        joint = config.memory and config.memory.read == "joint"
        if joint and branch == "memory":
            continue
        shown = not masks if joint else branch == "memory"
        masks[branch] = np.concatenate([slots_CM & shown, tokens_CJ], axis=1)
    return masks


def attend(config, p, q_CD, keys_JD, values_JD, slots_MD, masks):
    """A Wo: one row of scores, a softmax of it in each branch, one product with the values."""
    places_C = np.arange(len(q_CD))
    turned_HCE = turn(config, q_CD, places_C)
    keys_HJE = turn(config, keys_JD, np.arange(len(q_CD) - len(keys_JD), len(q_CD)))
    scores_HCJ = turned_HCE @ keys_HJE.swapaxes(1, 2)
    root = np.sqrt(config.width // config.num_heads)
    if config.memory:
        m_MD, of = slots_MD, p
        if config.memory.keeps == "outputs":
            m_MD, of = norm(p["memory"]["read_norm"], slots_MD), p["memory"]
        keys_MD, values_MD = m_MD @ of["key"]["kernel"], m_MD @ of["value"]["kernel"]
        if config.memory.read == "joint":
            keys_HME = turn(config, keys_MD, slot_places(config))
            slots_HCM = turned_HCE @ keys_HME.swapaxes(1, 2)
            slots_HCM += root * p["memory_bias"][:, None, None]
        else:
            slots_HCM = stream_queries(config, q_CD) @ heads(config, keys_MD).swapaxes(1, 2)
        scores_HCJ = np.concatenate([slots_HCM, scores_HCJ], axis=2)
        values_JD = np.concatenate([values_MD, values_JD])
    shares = softmax(p["fusion"], mask=True) if len(masks) > 1 else [1.0]
    weights_HCJ = sum(
        share * softmax(scores_HCJ / root, mask_CJ)
        for share, mask_CJ in zip(shares, masks.values(), strict=True)
    )
    read_HCE = weights_HCJ @ heads(config, values_JD)
    return read_HCE.swapaxes(0, 1).reshape(q_CD.shape) @ p["output"]["kernel"]


def stream_queries(config, q_CD):
    return heads(config, q_CD)


def slot_places(config):
    """The middle of the tokens that each slot was made of, counted from the chunk's first token."""
    run = config.chunk_len / config.memory.writes
    return (np.arange(config.memory.slots) - config.memory.slots) * run + (run - 1) / 2


def write(config, p, slots_MD, ages_M, h_CD, y_CD, mine_C):
    """The next queue: its K oldest slots leave, K entries follow."""
    writes = config.memory.writes
    kept_CD = h_CD if config.memory.keeps == "inputs" else norm(p["memory"]["write_norm"], y_CD)
    runs_KRD, mine_KR1 = (x.reshape(writes, -1, x.size // len(x)) for x in (kept_CD, mine_C))
    s_KD = (runs_KRD * mine_KR1).sum(1) / np.maximum(mine_KR1.sum(1), 1)
    e_KD = np.where(ages_M[:writes, None] > 0, slots_MD[:writes], 0)
    return np.concatenate([slots_MD[writes:], gate(config.memory.gate, p, s_KD, e_KD)])


def gate(kind, p, s, e):
    if kind == "none":
        return s
    p = p["memory"]["gate"]
    if kind == "slot":
        z = np.clip(1.2 * sigmoid(s @ p["wz"] + e @ p["uz"] + p["bz"]) - 0.1, 0, 1)
        return (1 - z) * e + z * s
    z = sigmoid(s @ p["Wz"] + e @ p["Uz"] + p["bz"])
    r = sigmoid(s @ p["Wr"] + e @ p["Ur"] + p["br"])
    c = np.tanh(s @ p["Wc"] + (r * e) @ p["Uc"])
    return (1 - z) * e + z * c


def turn(config, x_JD, places_J):
    """Heads [H, J, E]; components i and i + E/2 of each, as a complex number, times e^(i angle)."""
    x_HJE = heads(config, x_JD)
    first, second = np.split(x_HJE, 2, axis=2)
    angles_HJE = places_J[None, :, None] * frequencies(config)[:, None]
    turned = (first + 1j * second) * np.exp(1j * angles_HJE)
    return np.concatenate([turned.real, turned.imag], axis=2)


def frequencies(config):
    """[H, E/2]"""
    half = config.width // config.num_heads // 2
    pairs_HE = np.arange(config.num_heads * half).reshape(-1, half)
    if config.rope == "none":
        return np.zeros(pairs_HE.shape)
    if config.rope == "global":
        return config.rope_base ** (-2 * pairs_HE / config.width)
    return config.rope_base ** -(pairs_HE % half / half)


def mlp(p, x):
    x = gelu(x @ p["inner"]["kernel"] + p["inner"]["bias"])
    return x @ p["outer"]["kernel"] + p["outer"]["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * p["scale"] + p["bias"]


def softmax(x, mask):
    """Over the last axis where the mask is true; zeros where it is nowhere."""
    x = np.where(mask, np.exp(x - x.max(-1, keepdims=True)), 0)
    return x / np.maximum(x.sum(-1, keepdims=True), np.finfo(float).tiny)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def heads(config, x_JD):
    return x_JD.reshape(len(x_JD), config.num_heads, -1).swapaxes(0, 1)


def of_layer(tree, index):
    return {k: of_layer(v, index) if isinstance(v, dict) else v[index] for k, v in tree.items()}
