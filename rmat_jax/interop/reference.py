"""The model in plain PyTorch, written from the equations of docs/architecture.md: the paper's companion, and the twin that the
JAX code is checked against. It shares nothing with that code but `config.py` and the names of the weights.

It says what it means rather than what is fast: loops over chunks and layers, keys that are rotated when they are read, pools
that are taken over the whole chunk at its end. Letters in names are shapes, as in `types.py`.

    logits_BTV, state = RMAT(config)(tokens_BT)
"""

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmat_jax.config import RMATConfig


@dataclasses.dataclass(frozen=True)
class LayerState:
    """What one layer remembers: its memory, and the tokens that may still be seen or pooled."""

    slots_BMD: Tensor | None  # the queue, oldest first; zeros where nothing is written
    keys_BJHE: Tensor  # not rotated: of the sliding window's tokens before the chunk, then of the open chunk's
    values_BJHE: Tensor
    y_BSD: Tensor  # outputs of the open chunk's tokens


@dataclasses.dataclass(frozen=True)
class State:
    """All that the model remembers. All rows stand at the same place in their chunks; ragged rows are read one by one."""

    layers: tuple[LayerState, ...]
    document_B: Tensor  # of the token read last; the memory is this document's
    ages_BM: Tensor | None  # chunks since each slot was written; 0: not written
    documents_BJ: Tensor  # of the tokens whose keys are kept
    position: int  # tokens in the open chunk

    @property
    def memory(self) -> Tensor | None:
        """[L, B, M, D], zeros where nothing is written."""
        if self.ages_BM is None:
            return None
        written = (self.ages_BM > 0)[..., None]
        return torch.stack([torch.where(written, layer.slots_BMD, 0.0) for layer in self.layers])

    def detach(self) -> "State":
        """The same values, through which no gradient flows."""
        layers = tuple(
            LayerState(*(x if x is None else x.detach() for x in vars(layer).values())) for layer in self.layers
        )
        return dataclasses.replace(self, layers=layers)


class RMAT(nn.Module):
    """Recurrent Memory-Augmented Transformer (arXiv 2507.00453).

    It computes in the dtype of its parameters: `config.dtype`, a policy of the JAX side, is not looked at, nor is `remat`,
    which changes no result. Dropout follows `train()` and `eval()`.
    """

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.width, eps=1e-5)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        if not config.tie_embeddings:
            self.output = nn.Linear(config.width, config.vocab_size, bias=False)
            nn.init.normal_(self.output.weight, std=config.width**-0.5)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, tokens_BT: Tensor, state: State | None = None, documents_BT: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Logits of the token after each token, and the state after the last.

        Args:
            tokens_BT: token ids, any T >= 1.
            state: what an earlier call returned; None: nothing was read before.
            documents_BT: the document of each token, >= 0; None: each row goes on with the one it is in.
        """
        c = self.config
        batch, length = tokens_BT.shape
        state = self.initial_state(batch) if state is None else state
        if documents_BT is None:
            documents_BT = state.document_B[:, None].expand(batch, length)
        logits, start, pieces = [], 0, 0
        while start < length:
            stop = min(length, start + c.chunk_len - state.position)
            if c.bptt_chunks and pieces and pieces % c.bptt_chunks == 0:
                state = state.detach()
            logits_BSV, state = self._piece(tokens_BT[:, start:stop], documents_BT[:, start:stop], state)
            logits.append(logits_BSV)
            start, pieces = stop, pieces + 1
        return torch.cat(logits, dim=1), state

    def initial_state(self, batch: int) -> State:
        """Nothing read, nothing remembered."""
        c, like = self.config, self.embed.weight
        integers = {"dtype": torch.int64, "device": like.device}
        heads = like.new_zeros(batch, 0, c.num_heads, c.head_dim)
        slots = like.new_zeros(batch, c.memory_slots, c.width) if c.has_memory else None
        return State(
            layers=(LayerState(slots, heads, heads, like.new_zeros(batch, 0, c.width)),) * c.num_layers,
            document_B=torch.zeros(batch, **integers),
            ages_BM=torch.zeros(batch, c.memory_slots, **integers) if c.has_memory else None,
            documents_BJ=torch.zeros(batch, 0, **integers),
            position=0,
        )

    def _piece(self, tokens_BS: Tensor, documents_BS: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens of one chunk through all layers; at the chunk's end, the memory's write."""
        c = self.config
        x_BSD = self.dropout(self.embed(tokens_BS) * math.sqrt(c.width))
        window = state.documents_BJ.shape[1] - state.position  # carried tokens: W, or none in a first chunk
        documents_BJ = torch.cat([state.documents_BJ, documents_BS], dim=1)
        positions_J = torch.arange(documents_BJ.shape[1], device=tokens_BS.device) - window
        seen = Seen(documents_BS, documents_BJ, positions_J, state.document_B, state.ages_BM)
        layers = []
        for block, layer in zip(self.layers, state.layers, strict=True):
            x_BSD, layer = block(x_BSD, layer, seen)
            layers.append(layer)
        last_B = documents_BS[:, -1]
        ages_BM = state.ages_BM
        if c.has_memory:  # another document begins with an empty queue
            ages_BM = torch.where((last_B == state.document_B)[:, None], ages_BM, 0)
        state = State(tuple(layers), last_B, ages_BM, documents_BJ, state.position + tokens_BS.shape[1])
        if state.position == c.chunk_len:
            state = self._close(state)
        table_VD = self.embed.weight if c.tie_embeddings else self.output.weight
        return self.final_norm(x_BSD) @ table_VD.T, state

    def _close(self, state: State) -> State:
        """The end of a chunk: every layer writes; what a sliding window may still see is kept."""
        c = self.config
        kept = c.window_len if c.has_window_carry else 0
        first = state.documents_BJ.shape[1] - kept
        mine_BC = state.documents_BJ[:, -c.chunk_len :] == state.document_B[:, None]
        layers, ages_BM = [], state.ages_BM
        for block, layer in zip(self.layers, state.layers, strict=True):
            slots_BMD = layer.slots_BMD
            if c.has_memory:
                slots_BMD, ages_BM = block.memory.write(slots_BMD, state.ages_BM, layer.y_BSD, mine_BC)
            keys_BWHE, values_BWHE = layer.keys_BJHE[:, first:], layer.values_BJHE[:, first:]
            layers.append(LayerState(slots_BMD, keys_BWHE, values_BWHE, layer.y_BSD[:, :0]))
        return State(tuple(layers), state.document_B, ages_BM, state.documents_BJ[:, first:], 0)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the tokens of a piece need to know of each other, of their chunk and of the memory; the same in all layers."""

    documents_BS: Tensor  # of the piece's tokens, which are the last of the J
    documents_BJ: Tensor  # of all tokens that may be seen
    positions_J: Tensor  # their positions in the chunk; negative before it
    memory_document_B: Tensor
    ages_BM: Tensor | None

    @property
    def positions_S(self) -> Tensor:
        return self.positions_J[-self.documents_BS.shape[1] :]

    def tokens(self, stream: str, config: RMATConfig) -> Tensor:
        """[B, S, J]: the tokens that stream "full" or "local" shows each token, always of its own document."""
        query, key = self.positions_S[:, None], self.positions_J[None, :]
        if stream == "full":
            shown = (key >= 0) & (key <= query)
        elif config.window == "sliding":
            shown = (query - config.window_len < key) & (key <= query)
        else:
            shown = (key // config.window_len == query // config.window_len) & (key <= query)
        return shown & (self.documents_BS[:, :, None] == self.documents_BJ[:, None, :])

    def slots(self) -> Tensor:
        """[B, S, M]: the slots that each token sees: those that its document wrote."""
        mine_BS = self.documents_BS == self.memory_document_B[:, None]
        return mine_BS[:, :, None] & (self.ages_BM > 0)[:, None, :]


class Block(nn.Module):
    """x' = x + A(LN1(x)) Wo,  y = x' + MLP(LN2(x'))."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.query = linear(config.width, config.width)
        self.key = linear(config.width, config.width)
        self.value = linear(config.width, config.width)
        self.fusion = nn.Parameter(torch.zeros(len(config.streams)))
        self.output = linear(config.width, config.width, scale=1 / (2 * config.num_layers))
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = MLP(config)
        if config.has_memory:
            self.memory = Memory(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, state: LayerState, seen: Seen) -> tuple[Tensor, LayerState]:
        """One layer on the tokens of a piece. The memory stays as it is: it is written when the chunk is full."""
        c = self.config
        h_BSD = self.attention_norm(x_BSD)
        q, k, v = (split(c, f(h_BSD)) for f in (self.query, self.key, self.value))
        keys_BJHE = torch.cat([state.keys_BJHE, k], dim=1)
        values_BJHE = torch.cat([state.values_BJHE, v], dim=1)
        rotated_q, rotated_keys = self.rope(q, seen.positions_S), self.rope(keys_BJHE, seen.positions_J)
        attended = 0.0
        for stream, share in zip(c.streams, torch.softmax(self.fusion, dim=0), strict=True):
            if stream == "memory":
                memory_keys, memory_values = self.memory.read(state.slots_BMD, seen.ages_BM)
                attended = attended + share * attend(q, memory_keys, memory_values, seen.slots())
            else:
                attended = attended + share * attend(rotated_q, rotated_keys, values_BJHE, seen.tokens(stream, c))
        x_BSD = x_BSD + self.dropout(self.output(attended.flatten(2)))
        y_BSD = x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))
        kept = torch.cat([state.y_BSD, y_BSD], dim=1)
        return y_BSD, LayerState(state.slots_BMD, keys_BJHE, values_BJHE, kept)

    def rope(self, x_BJHE: Tensor, positions_J: Tensor) -> Tensor:
        """Rotary positions: of each head's vector, of the D-wide one as it was before the split, or none."""
        if self.config.rope == "none":
            return x_BJHE
        angles_J11 = positions_J[:, None, None]
        if self.config.rope == "global":
            return turn(x_BJHE.flatten(2)[:, :, None], angles_J11, self.config.rope_base).view_as(x_BJHE)
        return turn(x_BJHE, angles_J11, self.config.rope_base)


class MLP(nn.Module):
    """gelu(x W1 + b1) W2 + b2, with the tanh form of gelu."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.inner = linear(config.width, config.hidden, bias=True)
        self.outer = linear(config.hidden, config.width, bias=True, scale=1 / (2 * config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(functional.gelu(self.inner(x), approximate="tanh"))


class Memory(nn.Module):
    """A first-in-first-out queue of M vectors, of which K are written at the end of a chunk."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        self.config = config
        self.read_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.key = linear(config.width, config.width)
        self.value = linear(config.width, config.width)
        self.write_norm = nn.LayerNorm(config.width, eps=1e-5)
        if config.memory_pool == "attention":
            self.pool_queries = nn.Parameter(torch.randn(config.memory_writes, config.width))
        if config.gate != "none":
            self.gate = Gate(config)

    def read(self, slots_BMD: Tensor, ages_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Keys LNm(M) Wmk and values LNm(M) Wmv, [B, M, H, E]. With rotary ages a key stands `age` chunks back."""
        c = self.config
        normed_BMD = self.read_norm(slots_BMD)
        keys, values = split(c, self.key(normed_BMD)), split(c, self.value(normed_BMD))
        if c.memory_age == "rotary":
            keys = turn(keys, -ages_BM[:, :, None, None], c.rope_base)
        return keys, values

    def write(self, slots_BMD: Tensor, ages_BM: Tensor, y_BCD: Tensor, mine_BC: Tensor) -> tuple[Tensor, Tensor]:
        """The queue and its ages after a chunk with outputs y, of which `mine` are the last document's."""
        c = self.config
        s_BKD, written_BK = self.pool(self.write_norm(y_BCD), mine_BC)
        queue_BMD = torch.where((ages_BM > 0)[..., None], slots_BMD, 0.0)
        if c.gate == "none":
            new_BKD = s_BKD
        else:
            evicted = c.gate == "evicted"
            e_BKD = queue_BMD[:, : c.memory_writes] if evicted else queue_BMD[:, -c.memory_writes :]
            new_BKD = self.gate(s_BKD, e_BKD)
        new_BKD = torch.where(written_BK[..., None], new_BKD, 0.0)
        older_BM = torch.where(ages_BM > 0, ages_BM + 1, 0)[:, c.memory_writes :]
        ages_BM = torch.cat([older_BM, written_BK.to(ages_BM.dtype)], dim=1)
        return torch.cat([queue_BMD[:, c.memory_writes :], new_BKD], dim=1), ages_BM

    def pool(self, normed_BCD: Tensor, mine_BC: Tensor) -> tuple[Tensor, Tensor]:
        """K entries s from the chunk's tokens that are `mine`, and which of them have any such token."""
        c = self.config
        if c.memory_pool == "attention":  # every query looks at the whole chunk
            scores_BKC = self.pool_queries @ normed_BCD.mT / math.sqrt(c.width)
            members_BKC = mine_BC[:, None].expand_as(scores_BKC)
        else:  # entry k is the mean of run k
            run_C = torch.arange(c.chunk_len, device=mine_BC.device) // c.run_len
            own_KC = torch.arange(c.memory_writes, device=mine_BC.device)[:, None] == run_C
            members_BKC = mine_BC[:, None] & own_KC
            scores_BKC = torch.zeros_like(members_BKC, dtype=normed_BCD.dtype)
        return masked_softmax(scores_BKC, members_BKC) @ normed_BCD, members_BKC.any(-1)


class Gate(nn.Module):
    """A GRU cell (arXiv 1406.1078) whose state is the slot `e` that a new entry `s` meets."""

    def __init__(self, config: RMATConfig):
        super().__init__()
        for name in ("Wz", "Uz", "Wr", "Ur", "Wc", "Uc"):
            matrix = torch.randn(config.width, config.width) * config.width**-0.5
            self.register_parameter(name, nn.Parameter(matrix))
        self.bz = nn.Parameter(torch.full((config.width,), config.gate_bias))
        self.br = nn.Parameter(torch.zeros(config.width))

    def forward(self, s: Tensor, e: Tensor) -> Tensor:
        z = torch.sigmoid(s @ self.Wz + e @ self.Uz + self.bz)
        r = torch.sigmoid(s @ self.Wr + e @ self.Ur + self.br)
        c = torch.tanh(s @ self.Wc + (r * e) @ self.Uc)
        return (1 - z) * e + z * c


def attend(q_BSHE: Tensor, k_BJHE: Tensor, v_BJHE: Tensor, mask_BSJ: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v over what the mask shows: [B, S, H, E], zeros where it shows nothing."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSHE, k_BJHE, v_BJHE))
    scores_BHSJ = q @ k.mT / math.sqrt(q.shape[-1])
    return (masked_softmax(scores_BHSJ, mask_BSJ[:, None]) @ v).transpose(1, 2)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Over the last axis, where the mask holds; zeros if it holds nowhere."""
    scores = torch.where(mask, scores, -torch.inf)
    nowhere = ~mask.any(-1, keepdim=True)
    return torch.where(nowhere, 0.0, torch.softmax(torch.where(nowhere, 0.0, scores), dim=-1))


def turn(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """RoPE (arXiv 2104.09864): component i of n is paired with i + n/2 and turned by `position * base**(-2i/n)`."""
    size = x.shape[-1]
    frequencies = base ** (-2 * torch.arange(size // 2, dtype=x.dtype, device=x.device) / size)
    angles = positions.to(x.dtype) * frequencies
    first, second = x[..., : size // 2], x[..., size // 2 :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def split(config: RMATConfig, x_BJD: Tensor) -> Tensor:
    """Into heads: [B, J, H, E]."""
    return x_BJD.unflatten(-1, (config.num_heads, config.head_dim))


def linear(inputs: int, outputs: int, *, bias: bool = False, scale: float = 1.0) -> nn.Linear:
    """A matrix of variance scale / inputs; biases start at zero."""
    made = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(made.weight, std=math.sqrt(scale / inputs))
    if bias:
        nn.init.zeros_(made.bias)
    return made
