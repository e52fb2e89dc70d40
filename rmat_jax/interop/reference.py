"""The model in plain PyTorch, written from the equations of docs/architecture.md: the paper's
companion (arXiv 2507.00453), and the twin that the JAX code is compared with. It shares `config.py`
with that code, and the names of the weights.

It says what it means rather than what is fast: a loop over chunks, a loop over layers, keys that
are rotated when they are read, pools that are taken at the chunk's end. A suffix of a name gives
its shape, in the letters of `types.py`.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmat_jax.config import RMATConfig


@dataclasses.dataclass(frozen=True)
class LayerState:
    """What one layer carries. J are the tokens that can still be seen: the carried window, then the
    open chunk.
    """

    # the memory, oldest first
    slots_BMD: Tensor | None
    # not rotated: positions belong to the reader's chunk
    keys_BJD: Tensor
    values_BJD: Tensor
    # y (or h) of the open chunk's tokens, pooled when it is full
    outputs_BSD: Tensor


@dataclasses.dataclass(frozen=True)
class State:
    """All that is carried from call to call; a value: a call returns a new one. All rows stand at
    the same position.
    """

    # tokens in the open chunk
    position: int
    # of the token read last; the memory is this document's
    document_B: Tensor
    # read last; -1: none yet
    token_B: Tensor
    # chunks since each slot was written, in all layers; 0: unwritten, invisible
    ages_BM: Tensor | None
    documents_BJ: Tensor
    layers: tuple[LayerState, ...]

    @property
    def memory(self) -> Tensor | None:
        """[L, B, M, D], zeros where unwritten; None for a model without memory."""
        if self.ages_BM is None:
            return None
        return torch.stack([only_written(layer.slots_BMD, self.ages_BM) for layer in self.layers])

    def detach(self) -> "State":
        layers = (
            (x if x is None else x.detach() for x in vars(layer).values()) for layer in self.layers
        )
        return dataclasses.replace(self, layers=tuple(LayerState(*parts) for parts in layers))


class RMAT(nn.Module):
    """The language model: logits of the next token, from all that each row has read.

    It computes in the dtype of its parameters (`model.double()`): `config.dtype` is the JAX side's
    precision policy and is not read here, and neither is `remat`, which changes nothing of the
    function. Dropout follows `train()` and `eval()`.
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.previous = linear(config.width, config.width) if config.token_shift else None
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.width, eps=1e-5)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        if not config.tie_embeddings:
            self.output = linear(config.width, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, state: State | None = None, documents: Tensor | None = None):
        """Reads on behind `state`.

        Args:
            tokens: [B, T] ids, any T >= 1.
            state: what an earlier call of the same rows returned; None: nothing has been read. All
                rows stand at the same position in their chunks: read ragged streams one row at a
                time.
            documents: [B, T] ids >= 0, numbered so that none comes back; None: each row goes on
                with the document that it is in, at the start with document 0.

        Returns:
            Logits [B, T, V] and the next State.
        """
        c = self.config
        state = self.initial_state(len(tokens)) if state is None else state
        if documents is None:
            documents = state.document_B[:, None].expand_as(tokens)
        logits, start, index = [], 0, 0
        while start < tokens.shape[1]:
            stop = min(start + c.chunk_len - state.position, tokens.shape[1])
            if c.bptt_chunks and index > 0 and index % c.bptt_chunks == 0:
                state = state.detach()
            logits_BSV, state = self.read_piece(
                tokens[:, start:stop], documents[:, start:stop], state
            )
            logits.append(logits_BSV)
            start, index = stop, index + 1
        return torch.cat(logits, dim=1), state

    def initial_state(self, batch: int) -> State:
        """Nothing read, nothing remembered."""
        c, like = self.config, self.embed.weight
        none_BJ = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
        empty = like.new_zeros(batch, 0, c.width)
        slots_BMD = like.new_zeros(batch, c.slots, c.width) if c.has_memory else None
        ages_BM = none_BJ.new_zeros(batch, c.slots) if c.has_memory else None
        layers = (LayerState(slots_BMD, empty, empty, empty),) * c.num_layers
        return State(
            0, none_BJ.new_zeros(batch), none_BJ.new_full((batch,), -1), ages_BM, none_BJ, layers
        )

    def read_piece(
        self, tokens_BS: Tensor, documents_BS: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Tokens of one chunk through all layers; where they fill it, every memory is written."""
        c = self.config
        documents_BJ = torch.cat([state.documents_BJ, documents_BS], dim=1)
        position = state.position + tokens_BS.shape[1]
        positions_J, masks = self.masks(documents_BS, documents_BJ, position, state)
        x_BSD = self.dropout(self.embedded(tokens_BS, documents_BS, state))
        layers = []
        for block, layer in zip(self.layers, state.layers, strict=True):
            x_BSD, layer = block(x_BSD, layer, positions_J, masks, state.ages_BM)
            layers.append(layer)
        table_VD = self.embed.weight if c.tie_embeddings else self.output.weight
        logits_BSV = self.final_norm(x_BSD) @ table_VD.T

        document_B, ages_BM = documents_BS[:, -1], state.ages_BM
        # another document begins with an empty queue
        if c.has_memory:
            ages_BM = ages_BM * (document_B == state.document_B)[:, None]
        if position == c.chunk_len:
            position = 0
            mine_BC = documents_BJ[:, -c.chunk_len :] == document_B[:, None]
            kept = documents_BJ.shape[1] - (c.window_len if c.has_window_carry else 0)
            documents_BJ = documents_BJ[:, kept:]
            layers = [
                b.close(layer, ages_BM, mine_BC, kept)
                for b, layer in zip(self.layers, layers, strict=True)
            ]
            if c.has_memory:
                older_BM = torch.where(ages_BM > 0, ages_BM + 1, 0)
                ages_BM = torch.cat(
                    [older_BM[:, c.writes :], written_slots(c, mine_BC).long()], dim=1
                )
        return logits_BSV, State(
            position, document_B, tokens_BS[:, -1], ages_BM, documents_BJ, tuple(layers)
        )

    def embedded(self, tokens_BS: Tensor, documents_BS: Tensor, state: State) -> Tensor:
        """`sqrt(D) E[t]`, with a token shift also `sqrt(D) E[t - 1] Wp`, where that token is of the
        same document.
        """
        x_BSD = self.embed(tokens_BS)
        if self.previous is not None:
            before_BS = torch.cat([state.token_B[:, None], tokens_BS[:, :-1]], dim=1)
            owners_BS = torch.cat([state.document_B[:, None], documents_BS[:, :-1]], dim=1)
            shown_BS = (owners_BS == documents_BS) & (before_BS >= 0)
            x_BSD = x_BSD + self.previous(self.embed(before_BS.clamp(min=0))) * shown_BS[..., None]
        return math.sqrt(self.config.width) * x_BSD

    def masks(self, documents_BS: Tensor, documents_BJ: Tensor, position: int, state: State):
        """Which of the tokens J (the last are the piece's own) and of the slots each token of a
        piece sees: own document, none later, and what the stream shows.

        Returns:
            Positions [J] in the chunk, -W..-1 for the carried window, and masks [B, S, J] or [B, S,
            M] by stream.
        """
        c = self.config
        size, seen = documents_BS.shape[1], documents_BJ.shape[1]
        key_J = torch.arange(position - seen, position, device=documents_BS.device)
        query_S1 = key_J[-size:, None]
        same_SJ = query_S1 // c.window_len == key_J // c.window_len
        near_SJ = query_S1 - key_J < c.window_len if c.window == "sliding" else same_SJ
        shown_BSJ = (documents_BS[:, :, None] == documents_BJ[:, None]) & (key_J <= query_S1)
        masks = {"full": shown_BSJ & (key_J >= 0), "local": shown_BSJ & near_SJ}
        if c.has_memory:
            owners_BS = documents_BS == state.document_B[:, None]
            masks["memory"] = owners_BS[:, :, None] & (state.ages_BM > 0)[:, None]
        return key_J, masks


class Block(nn.Module):
    """One layer: `x' = x + A Wo`, `y = x' + MLP(LN2(x'))`, `A` the streams' mixture."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.query = linear(config.width, config.width)
        self.key = linear(config.width, config.width)
        self.value = linear(config.width, config.width)
        streams = len(config.fused)
        shares = (streams, config.num_heads) if config.fusion == "head" else (streams,)
        self.fusion = nn.Parameter(torch.zeros(shares))
        if config.has_memory and config.fusion == "joint":
            self.memory_bias = nn.Parameter(torch.full((config.num_heads,), config.memory_bias))
        self.output = linear(config.width, config.width, smaller=2 * config.num_layers)
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = MLP(config)
        self.memory = Memory(config) if config.has_memory else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BSD: Tensor,
        state: LayerState,
        positions_J: Tensor,
        masks: dict,
        ages_BM: Tensor | None,
    ):
        """y [B, S, D] of a piece, and the state that has its tokens too."""
        c = self.config
        h_BSD = self.attention_norm(x_BSD)
        q_BSD = self.query(h_BSD)
        keys_BJD = torch.cat([state.keys_BJD, self.key(h_BSD)], dim=1)
        values_BJD = torch.cat([state.values_BJD, self.value(h_BSD)], dim=1)
        q_BSHE = self.rotated_heads(q_BSD, positions_J[-x_BSD.shape[1] :])
        keys_BJHE = self.rotated_heads(keys_BJD, positions_J)
        chunk = q_BSHE, keys_BJHE, heads(c, values_BJD)
        slots = self.slots(q_BSD, q_BSHE, state, ages_BM) if c.has_memory else None
        mixed_BSD = torch.zeros_like(x_BSD)
        for stream, share in zip(c.fused, torch.softmax(self.fusion, dim=0), strict=True):
            if stream == "memory":
                a_BSHE = attend((slots, masks["memory"]))
            elif c.has_memory and c.fusion == "joint" and stream == c.fused[0]:
                a_BSHE = attend((chunk, masks[stream]), (slots, masks["memory"], self.memory_bias))
            else:
                a_BSHE = attend((chunk, masks[stream]))
            mixed_BSD = mixed_BSD + (share[..., None] * a_BSHE).flatten(2)
        x_BSD = x_BSD + self.dropout(self.output(mixed_BSD))
        y_BSD = x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))
        kept_BSD = y_BSD if c.memory_source == "output" else h_BSD
        outputs_BSD = torch.cat([state.outputs_BSD, kept_BSD], dim=1)
        return y_BSD, LayerState(state.slots_BMD, keys_BJD, values_BJD, outputs_BSD)

    def slots(
        self, q_BSD: Tensor, q_BSHE: Tensor, state: LayerState, ages_BM: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries for the memory, and its keys and values."""
        c = self.config
        keys_BMD, values_BMD = self.memory.read(state.slots_BMD, self.key, self.value)
        if c.memory_age != "tokens":
            keys_BMHE = heads(c, keys_BMD)
            # that many chunks before the query at 0
            if c.memory_age == "rotary":
                keys_BMHE = turn(keys_BMHE, -ages_BM[:, :, None, None], c.rope_base)
            return heads(c, q_BSD), keys_BMHE, heads(c, values_BMD)
        turned = [
            self.rotated_heads(keys_D[None], places_M)
            for keys_D, places_M in zip(keys_BMD, self.memory.places(ages_BM), strict=True)
        ]
        return q_BSHE, torch.cat(turned), heads(c, values_BMD)

    def rotated_heads(self, x_BJD: Tensor, positions_J: Tensor) -> Tensor:
        """[B, J, H, E]: heads turned by their token's position, or not."""
        c = self.config
        x_BJHE = heads(c, x_BJD)
        if c.rope == "none":
            return x_BJHE
        return turn(
            x_BJHE,
            positions_J[:, None, None],
            c.rope_base,
            c.num_heads if c.rope == "global" else 1,
        )

    def close(
        self, state: LayerState, ages_BM: Tensor | None, mine_BC: Tensor, kept: int
    ) -> LayerState:
        """The state after a full chunk: the memory is written, tokens before index `kept` are
        forgotten.
        """
        slots_BMD = state.slots_BMD
        if self.memory is not None:
            slots_BMD = self.memory.write(slots_BMD, ages_BM, state.outputs_BSD, mine_BC)
        return LayerState(
            slots_BMD,
            state.keys_BJD[:, kept:],
            state.values_BJD[:, kept:],
            state.outputs_BSD[:, :0],
        )


class MLP(nn.Module):
    """`gelu(x W1 + b1) W2 + b2`, gelu in its tanh form."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.inner = linear(config.width, config.hidden, bias=True)
        self.outer = linear(config.hidden, config.width, bias=True, smaller=2 * config.num_layers)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.outer(functional.gelu(self.inner(x_BSD), approximate="tanh"))


class Memory(nn.Module):
    """The queue of M slots: what is read of it, what a full chunk writes."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        if config.memory_source == "output":
            self.read_norm = nn.LayerNorm(config.width, eps=1e-5)
            self.key = linear(config.width, config.width)
            self.value = linear(config.width, config.width)
            self.write_norm = nn.LayerNorm(config.width, eps=1e-5)
        if config.memory_pool == "attention":
            self.pool_queries = nn.Parameter(torch.randn(config.writes, config.width))
        self.gate = Gate(config) if config.gate != "none" else None

    def read(self, slots_BMD: Tensor, key: nn.Module, value: nn.Module) -> tuple[Tensor, Tensor]:
        """Keys and values [B, M, D]: `LNm(M) Wmk` and `LNm(M) Wmv`, or by the layer's own matrices
        `M Wk` and `M Wv`.
        """
        if self.config.memory_source == "input":
            return key(slots_BMD), value(slots_BMD)
        normed_BMD = self.read_norm(slots_BMD)
        return self.key(normed_BMD), self.value(normed_BMD)

    def places(self, ages_BM: Tensor) -> Tensor:
        """[B, M]: where the middle of the tokens stands that each slot was written from, in the
        coordinates of the chunk.
        """
        c = self.config
        middles = [(c.chunk_len - 1) / 2] * c.writes
        if c.memory_pool == "mean":
            middles = [run * c.run_len + (c.run_len - 1) / 2 for run in range(c.writes)]
        # the newest slot is the last of its chunk
        middles = (middles * c.slots)[-c.slots :]
        return (
            torch.tensor(middles, dtype=torch.float64, device=ages_BM.device)
            - c.chunk_len * ages_BM
        )

    def write(self, slots_BMD: Tensor, ages_BM: Tensor, y_BCD: Tensor, mine_BC: Tensor) -> Tensor:
        """`M' = concat(M[K:], new)`; of y the last document's tokens count, and of M what has an
        age.
        """
        c = self.config
        queue_BMD = only_written(slots_BMD, ages_BM)
        new_BKD = self.pool(
            self.write_norm(y_BCD) if c.memory_source == "output" else y_BCD, mine_BC
        )
        if self.gate is not None:
            oldest_BKD, newest_BKD = queue_BMD[:, : c.writes], queue_BMD[:, -c.writes :]
            new_BKD = self.gate(new_BKD, oldest_BKD if c.gate == "evicted" else newest_BKD)
        new_BKD = only_written(new_BKD, written_slots(c, mine_BC))
        return torch.cat([queue_BMD[:, c.writes :], new_BKD], dim=1)

    def pool(self, normed_BCD: Tensor, mine_BC: Tensor) -> Tensor:
        """s [B, K, D]: the mean of each run of C/K tokens, or what K learned queries find in the
        whole chunk.
        """
        c = self.config
        if c.memory_pool == "attention":
            scores_BKC = torch.einsum("kd,bcd->bkc", self.pool_queries, normed_BCD) / math.sqrt(
                c.width
            )
            return torch.einsum(
                "bkc,bcd->bkd", masked_softmax(scores_BKC, mine_BC[:, None]), normed_BCD
            )
        # Dividing the counts, not the sums, keeps a run of nobody at zero.
        mine_BKR1 = mine_BC.unflatten(1, (c.writes, c.run_len))[..., None].to(normed_BCD.dtype)
        share_BKR1 = mine_BKR1 / mine_BKR1.sum(2, keepdim=True).clamp(min=1)
        return (share_BKR1 * normed_BCD.unflatten(1, (c.writes, c.run_len))).sum(2)


class Gate(nn.Module):
    """A GRU cell whose state is the slot e that the entry s meets."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.clipped = config.gate_curve == "clipped"
        self.blends = config.gate_form == "blend"
        self.update, size = (
            (("wz", "uz"), 1) if config.gate_scope == "slot" else (("Wz", "Uz"), config.width)
        )
        for name in self.update:
            self.register_parameter(
                name, nn.Parameter(linear(config.width, size).weight.detach().T.contiguous())
            )
        for name in () if self.blends else ("Wr", "Ur", "Wc", "Uc"):
            self.register_parameter(
                name, nn.Parameter(linear(config.width, config.width).weight.detach())
            )
        self.bz = nn.Parameter(torch.full([size], config.gate_bias))
        if not self.blends:
            self.br = nn.Parameter(torch.zeros(config.width))

    def forward(self, s: Tensor, e: Tensor) -> Tensor:
        w, u = (getattr(self, name) for name in self.update)
        z = torch.sigmoid(s @ w + e @ u + self.bz)
        if self.clipped:
            z = (1.2 * z - 0.1).clamp(0, 1)
        if self.blends:
            return (1 - z) * e + z * s
        r = torch.sigmoid(s @ self.Wr + e @ self.Ur + self.br)
        c = torch.tanh(s @ self.Wc + (r * e) @ self.Uc)
        return (1 - z) * e + z * c


def attend(*parts: tuple) -> Tensor:
    """`softmax(q k^T / sqrt(E) + b) v` over what the masks show of all parts; zeros for a query
    that sees nothing.

    A part is (q, k, v), queries [B, S, H, E], keys and values [B, J, H, E]; the mask [B, S, J]; and
    b [H], if it has one.
    """
    scores, masks, values = [], [], []
    for (q, k, v), mask, *bias in parts:
        scored = torch.einsum("bshe,bjhe->bhsj", q, k) / math.sqrt(q.shape[-1])
        scores.append(scored + bias[0][:, None, None] if bias else scored)
        masks.append(mask)
        values.append(v)
    weights_BHSJ = masked_softmax(torch.cat(scores, dim=3), torch.cat(masks, dim=2)[:, None])
    return torch.einsum("bhsj,bjhe->bshe", weights_BHSJ, torch.cat(values, dim=1))


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Over the last axis where the mask holds, zeros elsewhere; all zeros where it holds nowhere,
    as are the gradients.
    """
    scores = scores.masked_fill(~mask, -math.inf)
    peak = scores.detach().amax(-1, keepdim=True)
    weights = torch.exp(scores - peak.masked_fill(peak == -math.inf, 0.0))
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)


def turn(x: Tensor, positions: Tensor, base: float, heads: int = 1) -> Tensor:
    """RoPE (arXiv 2104.09864): component i of E, paired with i + E/2; pair i of n turns by
    `position * base**(-i/n)`.
    """
    half = x.shape[-1] // 2
    n = heads * half
    speeds = base ** (torch.arange(n, dtype=x.dtype, device=x.device) / -n)
    angles = positions.to(x.dtype) * speeds.unflatten(0, (heads, half))
    a, b = x.split(half, dim=-1)
    return torch.cat(
        [a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1
    )


def written_slots(config: RMATConfig, mine_BC: Tensor) -> Tensor:
    """[B, K]: which slots a chunk writes: those of a run that has tokens of its last document; all,
    pooled by attention.
    """
    if config.memory_pool == "attention":
        return mine_BC.any(1, keepdim=True).expand(-1, config.writes)
    return mine_BC.unflatten(1, (config.writes, config.run_len)).any(2)


def only_written(slots_BMD: Tensor, ages_BM: Tensor) -> Tensor:
    return slots_BMD.masked_fill((ages_BM == 0)[..., None], 0.0)


def heads(config: RMATConfig, x_BJD: Tensor) -> Tensor:
    return x_BJD.unflatten(-1, (config.num_heads, config.head_dim))


def linear(inputs: int, outputs: int, *, bias: bool = False, smaller: float = 1.0) -> nn.Linear:
    """Variance `1 / (inputs * smaller)`; a bias starts at zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=(inputs * smaller) ** -0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
