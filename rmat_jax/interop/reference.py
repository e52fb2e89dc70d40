"""The model in plain PyTorch, written from the equations of docs/architecture.md and the paper
(arXiv 2507.00453). The JAX code is compared with it. It shares `config.py` and the names of modules
and weights with that code.

It is written to be read, not to be fast: keys are rotated and slots are projected whenever they are
read, and a chunk that is not full is read again from its start. A suffix of a name gives its shape,
in the letters of `types.py`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmat_jax.config import RMATConfig


class State(NamedTuple):
    """All that is carried from call to call. All rows stand at the same place in their chunks."""

    # the tokens of the chunk that is not full, and their documents
    tokens_BS: Tensor
    documents_BS: Tensor
    # the last token before that chunk, and its document; -1: there is none
    document_B: Tensor
    token_B: Tensor
    # the documents of the window's tokens
    documents_BW: Tensor
    # chunks since each slot was written, in all layers; 0: unwritten
    ages_BM: Tensor | None
    # for each layer the queue, oldest first, and the window's keys (not rotated) and values
    layers: tuple[tuple[Tensor | None, Tensor, Tensor], ...]

    @property
    def memory(self) -> Tensor | None:
        """The memory [L, B, M, D] after the last full chunk, zeros where unwritten; None if off."""
        return None if self.ages_BM is None else torch.stack([slots for slots, *_ in self.layers])

    def detach(self) -> "State":
        """The same state without its gradient history."""
        parts = [tuple(x if x is None else x.detach() for x in part) for part in self.layers]
        return self._replace(layers=tuple(parts))


class RMAT(nn.Module):
    """The language model: logits of the next token, from all that each row has read.

    It computes in the dtype of its parameters (`model.double()`), while `config.dtype` and
    `config.remat` are for JAX alone. Dropout follows `train()` and `eval()`.
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        if config.token_shift:
            self.previous = linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.width, eps=1e-5)
        if not config.tie_embeddings:
            self.output = linear(config.width, config.vocab_size)

    def forward(self, tokens: Tensor, state: State | None = None, documents: Tensor | None = None):
        """Reads tokens after those of `state`.

        Args:
            tokens: [B, T] ids, any T >= 1.
            state: what an earlier call of the same rows returned; None: nothing has been read.
            documents: [B, T] ids >= 0, none of which comes back in its row; None: each row goes on
                with the document that it is in, at the start with document 0.

        Returns:
            Logits [B, T, V] and the next State.
        """
        state = self.initial_state(len(tokens)) if state is None else state
        if documents is None:
            read_BS = torch.cat([state.document_B[:, None], state.documents_BS], dim=1)
            documents = read_BS[:, -1:].expand_as(tokens)
        known, logits = state.tokens_BS.shape[1], []
        tokens = torch.cat([state.tokens_BS, tokens], dim=1)
        documents = torch.cat([state.documents_BS, documents], dim=1)
        for start in range(0, tokens.shape[1], self.config.chunk_len):
            chunk = slice(start, start + self.config.chunk_len)
            logits_BSV, state = self.read(tokens[:, chunk], documents[:, chunk], state)
            logits.append(logits_BSV)
        return torch.cat(logits, dim=1)[:, known:], state

    def initial_state(self, batch: int) -> State:
        """The state before the first token."""
        c, weight = self.config, self.embed.weight
        none_BS = torch.zeros(batch, 0, dtype=torch.int64, device=weight.device)
        ages_BM = none_BS.new_zeros(batch, c.memory.slots) if c.memory else None
        slots_BMD = weight.new_zeros(batch, c.memory.slots, c.width) if c.memory else None
        layer = slots_BMD, weight.new_zeros(batch, 0, c.width), weight.new_zeros(batch, 0, c.width)
        start_B, nothing_B = none_BS.new_zeros(batch), none_BS.new_full((batch,), -1)
        layers = (layer,) * c.num_layers
        return State(none_BS, none_BS, start_B, nothing_B, none_BS, ages_BM, layers)

    def read(self, tokens_BS: Tensor, documents_BS: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads a chunk from its start through all layers. A full chunk changes the whole state."""
        c, layers, writes = self.config, [], None
        full = tokens_BS.shape[1] == c.chunk_len
        documents_BJ = torch.cat([state.documents_BW, documents_BS], dim=1)
        last = slice(-c.local.window if c.carries_window else documents_BJ.shape[1], None)
        masks = self.masks(documents_BS, documents_BJ, state)
        if full and c.memory:
            writes = border(c, documents_BS, state)
        x_BSD = self.dropout(self.embed_tokens(tokens_BS, documents_BS, state))
        for block, (slots_BMD, *window) in zip(self.layers, state.layers, strict=True):
            x_BSD, kept_BSD, *window = block(x_BSD, slots_BMD, *window, masks, state.ages_BM)
            if writes:
                slots_BMD = block.memory.write(slots_BMD, kept_BSD, *writes)
            layers.append((slots_BMD, *(x_BJD[:, last] for x_BJD in window)))
        table_VD = self.embed.weight if c.tie_embeddings else self.output.weight
        logits_BSV = self.final_norm(x_BSD) @ table_VD.T
        if not full:
            return logits_BSV, state._replace(tokens_BS=tokens_BS, documents_BS=documents_BS)
        none_BS, ages_BM = tokens_BS[:, :0], writes[-1] if writes else None
        ends = documents_BS[:, -1], tokens_BS[:, -1], documents_BJ[:, last]
        return logits_BSV, State(none_BS, none_BS, *ends, ages_BM, tuple(layers))

    def embed_tokens(self, tokens_BS: Tensor, documents_BS: Tensor, state: State) -> Tensor:
        """`sqrt(D) E[t]` (+ `sqrt(D) E[t - 1] Wp` where that token is of the same document)."""
        c, x_BSD = self.config, self.embed(tokens_BS)
        if c.token_shift:
            before_BS = torch.cat([state.token_B[:, None], tokens_BS[:, :-1]], dim=1)
            owners_BS = torch.cat([state.document_B[:, None], documents_BS[:, :-1]], dim=1)
            shown_BS = (owners_BS == documents_BS) & (before_BS >= 0)
            x_BSD = x_BSD + self.previous(self.embed(before_BS.clamp(min=0))) * shown_BS[..., None]
        return math.sqrt(c.width) * x_BSD

    def masks(self, documents_BS: Tensor, documents_BJ: Tensor, state: State) -> list[Tensor]:
        """The masks over the tokens J and the slots M for each branch with a share, [B, S, J + M].

        A token sees of its own document: in "full" the chunk up to itself, in "local" the last W
        tokens (or those of the same block of W), in "memory" the slots. If the memory is read
        jointly, the first branch shows the slots too.
        """
        c, key_J = self.config, places(documents_BS, documents_BJ)
        query_S1 = key_J[-documents_BS.shape[1] :, None]
        past_BSJ = (documents_BS[..., None] == documents_BJ[:, None]) & (key_J <= query_S1)
        shown = {"full": past_BSJ & (key_J >= 0), "memory": torch.zeros_like(past_BSJ)}
        if c.local:
            size = c.local.window
            block_SJ = query_S1 // size == key_J // size
            shown["local"] = past_BSJ & (query_S1 - key_J < size if c.local.sliding else block_SJ)
        if not c.memory:
            return [shown[branch] for branch in c.fused]
        reader = c.fused[0] if c.memory.joint else "memory"
        own_BS = documents_BS == state.document_B[:, None]
        slots_BSM = own_BS[..., None] & (state.ages_BM > 0)[:, None]
        return [torch.cat([shown[b], slots_BSM & (b == reader)], dim=2) for b in c.fused]


def border(c: RMATConfig, documents_BC: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """At the end of a chunk: which of its tokens are written, and the slots' ages before and after.

    The tokens of the last document are written. If that document began in this chunk, it began with
    an empty queue. A run without such a token leaves its slot unwritten.
    """
    last_B = documents_BC[:, -1]
    mine_BC = documents_BC == last_B[:, None]
    ages_BM = state.ages_BM * (last_B == state.document_B)[:, None]
    older_BM = torch.where(ages_BM > 0, ages_BM + 1, 0)[:, c.memory.writes :]
    written_BK = mine_BC.unflatten(1, (c.memory.writes, c.run_len)).any(2)
    return mine_BC, ages_BM, torch.cat([older_BM, written_BK.long()], dim=1)


class Block(nn.Module):
    """One layer.

    h  = LN1(x)                                   q, k, v = h Wq, h Wk, h Wv, rotated
    A  = l1 A_full + l2 A_local (+ l3 A_mem)      l = softmax(w)
    x' = x + A Wo                                 y = x' + MLP(LN2(x'))
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config, width = config, config.width
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))
        self.query, self.key, self.value = (linear(width, width) for _ in range(3))
        self.output = linear(width, width, smaller=2 * config.num_layers)
        self.mlp, self.dropout = MLP(config), nn.Dropout(config.dropout)
        if len(config.fused) > 1:
            self.fusion = nn.Parameter(torch.zeros(len(config.fused)))
        if config.memory:
            self.memory = Memory(config)
            if config.memory.joint:
                start_H = torch.full((config.num_heads,), config.memory.key_bias)
                self.memory_bias = nn.Parameter(start_H)

    def forward(self, x_BSD, slots_BMD, keys_BWD, values_BWD, masks, ages_BM):
        """Returns y and what the memory keeps [B, S, D], and keys and values of window and chunk.

        A branch is a mask over one row of scores, first of the tokens J, then of the slots.
        """
        c, h_BSD = self.config, self.attention_norm(x_BSD)
        q_BSHE = heads(c, self.query(h_BSD))
        keys_BJD = torch.cat([keys_BWD, self.key(h_BSD)], dim=1)
        values_BJD = torch.cat([values_BWD, self.value(h_BSD)], dim=1)
        positions_J = places(x_BSD, keys_BJD)
        turned_BSHE = rotate(c, q_BSHE, positions_J[None, -x_BSD.shape[1] :])
        row_BHSJ = scores(turned_BSHE, rotate(c, heads(c, keys_BJD), positions_J[None]))
        read_BJHE = heads(c, values_BJD)
        if c.memory:
            keys_BMHE, values_BMHE = self.memory.keys(slots_BMD, ages_BM, self.key, self.value)
            # slots in a softmax of their own have no position, so the query is not rotated either
            slots_BHSM = scores(turned_BSHE if c.memory.joint else q_BSHE, keys_BMHE)
            if c.memory.joint:
                slots_BHSM = slots_BHSM + self.memory_bias[:, None, None]
            row_BHSJ = torch.cat([row_BHSJ, slots_BHSM], dim=3)
            read_BJHE = torch.cat([read_BJHE, values_BMHE], dim=1)
        shares = torch.softmax(self.fusion, dim=0) if len(c.fused) > 1 else [1.0]
        branches = zip(shares, masks, strict=True)
        weights_BHSJ = sum(share * masked_softmax(row_BHSJ, mask) for share, mask in branches)
        a_BSHE = torch.einsum("bhsj,bjhe->bshe", weights_BHSJ, read_BJHE)
        x_BSD = x_BSD + self.dropout(self.output(a_BSHE.flatten(2)))
        y_BSD = x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))
        return y_BSD, y_BSD if c.memory and c.memory.keeps_outputs else h_BSD, keys_BJD, values_BJD


class MLP(nn.Module):
    """gelu(x W1 + b1) W2 + b2, with the tanh form of gelu."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        wide, smaller = config.mlp_width, 2 * config.num_layers
        self.inner = linear(config.width, wide, bias=True)
        self.outer = linear(wide, config.width, bias=True, smaller=smaller)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.outer(functional.gelu(self.inner(x_BSD), approximate="tanh"))


class Memory(nn.Module):
    """A queue of M slots, oldest first: `M' = concat(M[K:], gate(s, e))`.

    s are the K entries made of the chunk, and e the K slots that leave the queue.
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config, width = config, config.width
        if config.memory.keeps_outputs:
            self.read_norm, self.write_norm = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))
            self.key, self.value = (linear(width, width) for _ in range(2))
        if config.memory.gated:
            self.gate = {"slot": SlotGate, "gru": GRUGate}[config.memory.gate](config)

    def keys(self, slots_BMD, ages_BM, key, value) -> tuple[Tensor, Tensor]:
        """Keys and values [B, M, H, E] of the slots: `M Wk` and `M Wv` with the layer's matrices,
        or `LNm(M) Wmk` and `LNm(M) Wmv` if the memory keeps outputs.

        In joint reading a slot's key is rotated to the middle of the tokens that it holds.
        """
        c = self.config
        if c.memory.keeps_outputs:
            slots_BMD, key, value = self.read_norm(slots_BMD), self.key, self.value
        keys_BMHE, values_BMHE = heads(c, key(slots_BMD)), heads(c, value(slots_BMD))
        if c.memory.joint:
            run_M = torch.arange(c.memory.slots, device=ages_BM.device) % c.memory.writes
            middle_M = run_M * c.run_len + (c.run_len - 1) / 2
            keys_BMHE = rotate(c, keys_BMHE, middle_M - ages_BM * c.chunk_len)
        return keys_BMHE, values_BMHE

    def write(self, slots_BMD, kept_BCD, mine_BC, ages_BM, next_ages_BM) -> Tensor:
        """The queue after a full chunk, zeros where a slot is unwritten; see `border` for the ages.

        An entry s is the mean over the tokens of the last document in a run of C / K tokens.
        """
        c, runs = self.config, (self.config.memory.writes, self.config.run_len)
        kept_BCD = self.write_norm(kept_BCD) if c.memory.keeps_outputs else kept_BCD
        mine_BKR1 = mine_BC.unflatten(1, runs)[..., None]
        total_BKD = (kept_BCD.unflatten(1, runs) * mine_BKR1).sum(2)
        new_BKD = total_BKD / mine_BKR1.sum(2).clamp(min=1)
        queue_BMD = slots_BMD * (ages_BM > 0)[..., None]
        if c.memory.gated:
            new_BKD = self.gate(new_BKD, queue_BMD[:, : c.memory.writes])
        queue_BMD = torch.cat([queue_BMD[:, c.memory.writes :], new_BKD], dim=1)
        return queue_BMD * (next_ages_BM > 0)[..., None]


class SlotGate(nn.Module):
    """One number a slot, which can be exactly 0, so that a slot can be kept for ever (our choice).

    z = clip(1.2 sigmoid(s wz + e uz + bz) - 0.1, 0, 1)
    new = (1 - z) e + z s
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.wz, self.uz = matrix(config.width, 1), matrix(config.width, 1)
        self.bz = nn.Parameter(torch.full([1], config.memory.gate_bias))

    def forward(self, s: Tensor, e: Tensor) -> Tensor:
        z = torch.sigmoid(s @ self.wz + e @ self.uz + self.bz)
        z = (1.2 * z - 0.1).clamp(0, 1)
        return (1 - z) * e + z * s


class GRUGate(nn.Module):
    """A GRU cell (arXiv 1406.1078) whose state is the slot that the new entry replaces (paper).

    z = sigmoid(s Wz + e Uz + bz)
    r = sigmoid(s Wr + e Ur + br)
    c = tanh(s Wc + (r * e) Uc)
    new = (1 - z) * e + z * c
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        for name in ("Wz", "Uz", "Wr", "Ur", "Wc", "Uc"):
            setattr(self, name, matrix(config.width, config.width))
        self.bz = nn.Parameter(torch.full([config.width], config.memory.gate_bias))
        self.br = nn.Parameter(torch.zeros(config.width))

    def forward(self, s: Tensor, e: Tensor) -> Tensor:
        z = torch.sigmoid(s @ self.Wz + e @ self.Uz + self.bz)
        r = torch.sigmoid(s @ self.Wr + e @ self.Ur + self.br)
        c = torch.tanh(s @ self.Wc + (r * e) @ self.Uc)
        return (1 - z) * e + z * c


def heads(c: RMATConfig, x_BJD: Tensor) -> Tensor:
    """Splits the width into heads, [B, J, H, E]."""
    return x_BJD.unflatten(-1, (c.num_heads, c.head_dim))


def places(own_BS: Tensor, all_BJ: Tensor) -> Tensor:
    """Positions [J], counted from the chunk's start, of the window's tokens and of the chunk's."""
    return torch.arange(own_BS.shape[1] - all_BJ.shape[1], own_BS.shape[1], device=own_BS.device)


def scores(q_BSHE: Tensor, keys_BJHE: Tensor) -> Tensor:
    """`q k^T / sqrt(E)`, [B, H, S, J]."""
    return torch.einsum("bshe,bjhe->bhsj", q_BSHE, keys_BJHE) / math.sqrt(q_BSHE.shape[-1])


def masked_softmax(row_BHSJ: Tensor, mask_BSJ: Tensor) -> Tensor:
    """A softmax over what the mask shows. A query that sees nothing gets zeros."""
    mask_B1SJ = mask_BSJ[:, None]
    weights = torch.softmax(row_BHSJ.masked_fill(~mask_B1SJ, torch.finfo(row_BHSJ.dtype).min), -1)
    return weights * mask_B1SJ


def rotate(c: RMATConfig, x_BJHE: Tensor, positions_BJ: Tensor) -> Tensor:
    """RoPE (arXiv 2104.09864). Component i of E is paired with i + E/2, and pair i of n turns by
    `position * base**(-i/n)`. Each head has all pairs, or ("global") they run on over the heads.
    """
    if c.rope == "none":
        return x_BJHE
    half, wide = c.head_dim // 2, torch.promote_types(x_BJHE.dtype, torch.float32)
    count = (c.num_heads if c.rope == "global" else 1) * half
    pairs = torch.arange(count, dtype=wide, device=x_BJHE.device)
    speeds = (c.rope_base ** (-pairs / count)).unflatten(0, (-1, half))
    # bfloat16 would round an angle by whole radians
    angles = positions_BJ.to(wide)[..., None, None] * speeds
    cos, sin = angles.cos().to(x_BJHE.dtype), angles.sin().to(x_BJHE.dtype)
    a, b = x_BJHE.split(half, dim=-1)
    turned = a * cos - b * sin, b * cos + a * sin
    return torch.cat(turned, dim=-1)


def linear(inputs: int, outputs: int, *, bias: bool = False, smaller: float = 1.0) -> nn.Linear:
    """A linear layer with weights of variance `1 / (inputs * smaller)` and a bias of zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=(inputs * smaller) ** -0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def matrix(inputs: int, outputs: int) -> nn.Parameter:
    """A matrix laid out as in its equation, `s @ W`."""
    return nn.Parameter(torch.randn(inputs, outputs) * inputs**-0.5)
