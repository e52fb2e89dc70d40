"""The language model: embed, scan over layers inside a scan over chunks, project."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.modules import carry
from rmat_jax.modules.block import Block
from rmat_jax.modules.carry import NOBODY, Layers, Piece, State
from rmat_jax.modules.dropout import Dropout
from rmat_jax.modules.mlp import projection
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops import losses
from rmat_jax.types import Array, PyTree


class RMAT(nn.Module):
    """Recurrent Memory-Augmented Transformer with chunked attention (arXiv 2507.00453).

        model = RMAT(config)
        params = model.init(key, tokens_BT)["params"]
        logits_BTV, state = model.apply({"params": params}, tokens_BT)
        logits_BTV, state = model.apply({"params": params}, more_tokens_BT, state)

    Dropout is on when a "dropout" key is among `rngs`. Parameters are a plain tree; those of the
    layers are stacked along a leading axis L. With `mutable=["activations"]` each layer's output y,
    and with a closed state its memory after the chunk, are returned too, stacked [N, L, ...].

    An unstacked model has parameters (`unstack_params`) and a state (`carry.unstack_layers`) for
    each layer. It takes longer to compile and decodes faster: a scan over layers copies each
    layer's weights out of the stack before it uses them.
    """

    config: RMATConfig
    unstacked: bool = False

    def setup(self):
        c = self.config
        self.embed = nn.Embed(
            c.vocab_size,
            c.width,
            embedding_init=nn.initializers.normal(c.width**-0.5),
            dtype=c.dtype,
            param_dtype=c.param_dtype,
        )
        if c.token_shift:
            self.previous = projection(c, c.width)
        self.dropout = Dropout(c.dropout)
        block = nn.remat(Block, prevent_cse=False) if "block" in c.remat else Block
        if self.unstacked:
            self.layers = [block(c) for _ in range(c.num_layers)]
        else:
            self.layers = nn.scan(
                block,
                variable_axes={"params": 0, "gauges": 0, "activations": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                out_axes=0,
                length=c.num_layers,
                # with it every call is traced five times as long
                check_constancy_invariants=False,
                methods=["__call__", "close"],
            )(c)
        self.final_norm = layer_norm(c)
        if not c.tie_embeddings:
            self.output = self.param(
                "output",
                nn.initializers.normal(c.width**-0.5),
                (c.vocab_size, c.width),
                jnp.dtype(c.param_dtype),
            )

    def __call__(
        self,
        tokens_BT: Array,
        state: State | None = None,
        documents: Array | None = None,
        lengths: Array | None = None,
    ) -> tuple[Array, State]:
        """Logits of the token after each token, and the state after the last.

        Args:
            tokens_BT: token ids, any T >= 1. Ids outside the vocabulary are not noticed here.
            state: what an earlier call returned; None: nothing was read before. Rows may stand
                anywhere in their chunks. With a closed state (see `initial_state`) T must be a
                multiple of the chunk.
            documents: [B, T] id of the document each token belongs to, >= 0; documents that one
                chunk, or the window before it, can hold need different ids: number them. None: each
                row goes on with the document it is in.
            lengths: [B] how many of a row's tokens count, the first ones; logits of the others mean
                nothing. None: all. A closed state does not take it.

        Returns:
            Logits [B, T, V] in float32 (float64 if the policy is), and the state, of the structure
            that went in.
        """

        def project(model, x_BSD, inputs):
            return model._logits(x_BSD)

        return self._read(project, {"tokens": tokens_BT}, state, documents, lengths)

    def score(
        self,
        tokens_BT: Array,
        targets_BT: Array,
        state: State | None = None,
        documents: Array | None = None,
    ) -> tuple[losses.Scores, State]:
        """The loss of each target (-1: not scored). Logits of one chunk exist at a time; otherwise
        like a call.
        """

        def loss(model, x_BSD, inputs):
            return losses.score(model._logits(x_BSD), inputs["targets"])

        return self._read(loss, {"tokens": tokens_BT, "targets": targets_BT}, state, documents)

    def last(
        self,
        tokens_BT: Array,
        state: State | None = None,
        documents: Array | None = None,
        lengths: Array | None = None,
    ) -> tuple[Array, State]:
        """A call whose logits are those after each row's last token only, [B, V]; they mean nothing
        where a length is 0.
        """

        def keep(model, x_BSD, inputs):
            return x_BSD

        x_BTD, state = self._read(keep, {"tokens": tokens_BT}, state, documents, lengths)
        batch, length = tokens_BT.shape
        final_B = jnp.full(batch, length - 1) if lengths is None else jnp.maximum(lengths - 1, 0)
        x_B1D = jnp.take_along_axis(x_BTD, final_B[:, None, None], axis=1)
        return self._logits(x_B1D)[:, 0], state

    def initial_state(self, batch: int, *, closed: bool = False) -> State:
        """See `carry.initial_state`."""
        return carry.initial_state(self.config, batch, closed=closed)

    def _read(self, out, columns, state, documents, lengths=None) -> tuple[PyTree, State]:
        """Reads `columns`, each [B, T]: what `out(model, x_BSD, inputs)` makes of each piece, as
        [B, T, ...], and the state.
        """
        batch, length = columns["tokens"].shape
        chunk_len = self.config.chunk_len
        fresh = state is None
        if fresh:
            state = self.initial_state(batch)
        if documents is None:
            documents = jnp.broadcast_to(state.document_B[:, None], (batch, length))
        if state.is_closed:
            if length % chunk_len or lengths is not None:
                raise UserError(
                    f"a closed state reads whole chunks: T={length} must be a multiple of chunk_len={chunk_len}, "
                    "without lengths; use initial_state(batch) to stop inside a chunk"
                )
            count, index_NBS, positions_NBS = _whole_chunks(batch, length, chunk_len)
            counts_NBS = True
        else:
            start_B = jnp.zeros(batch, jnp.int32) if fresh else state.position_B
            limit_B = jnp.full(batch, length) if lengths is None else lengths
            count, index_NBS, positions_NBS = _pieces(start_B, length, chunk_len, fresh)
            counts_NBS = (positions_NBS < chunk_len) & (index_NBS < limit_B[None, :, None])

        def pick(x_BT):
            return jax.vmap(
                lambda index_BS: jnp.take_along_axis(x_BT, index_BS, axis=1, mode="clip")
            )(index_NBS)

        pieces = {name: pick(x_BT) for name, x_BT in columns.items()}
        pieces["documents"] = jnp.where(counts_NBS, pick(documents.astype(jnp.int32)), NOBODY)
        pieces["positions"] = positions_NBS
        pieces["detach"] = self._detached_at(count)

        def read(model, state, inputs):
            state, x_BSD = model._piece(state, inputs)
            return state, out(model, x_BSD, inputs)

        # parameters do not depend on the number of chunks
        if self.is_initializing():
            state, first = read(self, state, jax.tree.map(lambda x: x[0], pieces))
            out_NBS = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), first)
        else:
            state, out_NBS = nn.scan(
                nn.remat(read, prevent_cse=False) if "chunk" in self.config.remat else read,
                variable_broadcast="params",
                variable_axes={"gauges": 0, "activations": 0},
                split_rngs={"params": False, "dropout": True},
                check_constancy_invariants=False,
            )(self, state, pieces)
        return jax.tree.map(lambda x: _join(x, index_NBS, positions_NBS, length), out_NBS), state

    def _detached_at(self, count: int) -> Array:
        """[N] whether back-propagation stops before a chunk: at every `bptt_chunks`-th of the call."""
        span = self.config.bptt_chunks or count
        chunks = jnp.arange(count)
        return (chunks > 0) & (chunks % span == 0)

    def _piece(self, state: State, inputs: dict[str, Array]) -> tuple[State, Array]:
        """What the scan over chunks does: all layers over one piece of each row, then the writes."""
        if self.config.bptt_chunks:
            state = jax.tree.map(
                lambda x: jnp.where(inputs["detach"], jax.lax.stop_gradient(x), x), state
            )
        piece = carry.enter(self.config, state, inputs["positions"], inputs["documents"])
        x_BSD = self._embed(inputs["tokens"])
        if self.config.token_shift:
            before_BS = carry.previous_tokens(state, inputs["tokens"], inputs["documents"])
            x_BSD += jnp.where(before_BS[..., None] >= 0, self.previous(self._embed(before_BS)), 0)
        x_BSD = self.dropout(x_BSD)
        x_BSD, layers = self._through("__call__", x_BSD, state.layers, piece)
        if not state.is_closed:
            layers = self._close(carry.append(state.layers, layers, piece, x_BSD), piece, x_BSD)
        return carry.leave(self.config, state, piece, layers, inputs["tokens"]), x_BSD

    def _embed(self, tokens_BS: Array) -> Array:
        # unit scale, as that of the layers' outputs
        return self.embed(tokens_BS) * self.config.width**0.5

    def _through(
        self, method: str, x_BSD: Array | None, layers: Layers, piece: Piece
    ) -> tuple[Array | None, PyTree]:
        """A method of all blocks, each with the vectors of the one before: those of the last, and
        all second results.
        """
        if not self.unstacked:
            return getattr(self.layers, method)(x_BSD, layers, piece)
        results = []
        for block, layer in zip(self.layers, layers, strict=True):
            x_BSD, result = getattr(block, method)(x_BSD, layer, piece)
            results.append(result)
        return x_BSD, tuple(results)

    def _close(self, layers: Layers, piece: Piece, x_BSD: Array) -> Layers:
        """Writes the chunks that became full, if any did.

        `x` is the last layer's output, for which the write waits: see `carry.append`. If all of it
        is NaN nothing is written.
        """

        def close(model, layers, piece):
            return model._through("close", None, layers, piece)[1]

        def keep(model, layers, piece):
            return carry.without_large(layers)

        if self.is_initializing():
            closed = close(self, layers, piece)
        else:
            closes = piece.closes_B.any() & ~jnp.isnan(x_BSD).all()
            closed = nn.cond(closes, close, keep, self, layers, piece)
        return carry.with_large(closed, layers)

    def _logits(self, x_BSD: Array) -> Array:
        table_VD = self.embed.embedding if self.config.tie_embeddings else self.output
        dtype = jnp.dtype(self.config.dtype)
        return jnp.einsum(
            "bsd,vd->bsv",
            self.final_norm(x_BSD).astype(dtype),
            table_VD.astype(dtype),
            preferred_element_type=jnp.dtype(self.config.param_dtype),
        )


def unstack_params(params: PyTree) -> PyTree:
    """Parameters for an unstacked model: "layers" [L, ...] becomes "layers_0", "layers_1", ..."""
    rest, stack = {name: x for name, x in params.items() if name != "layers"}, params["layers"]
    count = len(jax.tree.leaves(stack)[0])
    return rest | {
        f"layers_{index}": jax.tree.map(lambda x, index=index: x[index], stack)
        for index in range(count)
    }


def stack_params(params: PyTree) -> PyTree:
    """The inverse of `unstack_params`."""
    rest = {name: x for name, x in params.items() if not name.startswith("layers_")}
    layers = [params[f"layers_{index}"] for index in range(len(params) - len(rest))]
    return rest | {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def _whole_chunks(batch: int, length: int, chunk_len: int) -> tuple[int, Array, Array]:
    """Cuts [B, T] into N whole chunks: N, the index in T [N, B, C], the position in the chunk [N,
    B, C].
    """
    count = length // chunk_len
    index_NBS = jnp.broadcast_to(
        jnp.arange(length).reshape(count, 1, chunk_len), (count, batch, chunk_len)
    )
    return count, index_NBS, index_NBS % chunk_len


def _pieces(start_B: Array, length: int, chunk_len: int, fresh: bool) -> tuple[int, Array, Array]:
    """Cuts [B, T] at chunk borders, for rows that stand at `start_B` in their chunks.

    The first piece of a row fills up its open chunk. Each has room for S = min(T, C) tokens, and
    there are as many as the worst start needs; places without a token get a position >= C or an
    index >= T.

    Returns:
        N, the index in T [N, B, S], the position in the chunk [N, B, S].
    """
    size = min(length, chunk_len)
    count = -(-(length + (0 if fresh else chunk_len - 1)) // chunk_len)
    piece_N11 = jnp.arange(count)[:, None, None]
    column_11S = jnp.arange(size)[None, None]
    start_1B1 = start_B[None, :, None]
    index_NBS = jnp.where(
        piece_N11 == 0, column_11S, piece_N11 * chunk_len - start_1B1 + column_11S
    )
    positions_NBS = jnp.where(piece_N11 == 0, start_1B1 + column_11S, column_11S)
    return count, index_NBS, positions_NBS


def _join(x_NBS: Array, index_NBS: Array, positions_NBS: Array, length: int) -> Array:
    """What `_pieces` cut, [N, B, S, ...], put together again: [B, T, ...]."""
    count, batch, size = x_NBS.shape[:3]
    x_BNS = jnp.moveaxis(x_NBS, 0, 1).reshape(batch, count * size, *x_NBS.shape[3:])
    if count == 1 or size * count == length:
        return x_BNS[:, :length]
    start_B = positions_NBS[0, :, 0]
    flat_BT = start_B[:, None] + jnp.arange(length)[None]
    chunk_len = index_NBS[1, 0, 0] + start_B[0]
    piece_BT = flat_BT // chunk_len
    column_BT = jnp.where(piece_BT == 0, flat_BT - start_B[:, None], flat_BT % chunk_len)
    place_BT = piece_BT * size + column_BT
    return jnp.take_along_axis(
        x_BNS, place_BT.reshape(*place_BT.shape, *(1,) * (x_BNS.ndim - 2)), axis=1
    )
