"""The language model: embed, scan over layers inside a scan over groups of chunks, project.

May import: config, errors, modules, ops, types, flax, jax.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig, divisor
from rmat_jax.errors import UserError
from rmat_jax.modules import documents as rules
from rmat_jax.modules import state as states
from rmat_jax.modules.block import Block
from rmat_jax.modules.dropout import Dropout
from rmat_jax.modules.mlp import projection
from rmat_jax.modules.norms import layer_norm
from rmat_jax.modules.state import InsideChunk, State
from rmat_jax.ops import context, fused, losses
from rmat_jax.ops.attention import Keys
from rmat_jax.types import Array, PyTree

# the tokens of all rows that a layer reads at once, few enough for a CPU's caches
AT_ONCE = {"cpu": 512}
# the same on other backends, enough to keep an accelerator busy
AT_ONCE_ELSEWHERE = 16_384
# the most logits that exist at a time, 64 MiB
LOGITS = 1 << 24
# the padding of a last chunk: tokens of no document, without a target
PADDING = {"tokens": 0, "targets": losses.IGNORE, "documents": rules.NOBODY}


def check_context(config: RMATConfig, chunks: int, devices: int, named: str) -> None:
    """Checks that a lane's chunks of one call can be divided over devices.

    Args:
        config: the model's config.
        chunks: the number of chunks of one device.
        devices: the number of devices.
        named: the setting that asks for these devices, for the error.

    Raises:
        UserError: a chunk waits for the whole model, or a device has less than a window.
    """
    if devices == 1:
        return
    if config.memory and config.memory.keeps_outputs:
        raise UserError(
            f"{named} cannot divide a model with model.memory.keeps=outputs, where a chunk waits "
            "for all layers of the chunk before it; use model.memory.keeps=inputs, or one device "
            "along time"
        )
    if config.carries_window and config.local.window > chunks * config.chunk_len:
        raise UserError(
            f"{named} leaves each device {chunks * config.chunk_len} tokens of a lane, fewer than "
            f"model.local.window={config.local.window}; use fewer devices along it"
        )


def chunks_at_once(config: RMATConfig, rows: int, chunks: int) -> int:
    """[G] The number of chunks that the layers read at once; all where devices divide time."""
    if context.parts() > 1:
        return chunks
    tokens = AT_ONCE.get(fused.backend(), AT_ONCE_ELSEWHERE)
    return config.at_once(chunks, tokens // (rows * config.chunk_len))


class RMAT(nn.Module):
    """Recurrent Memory-Augmented Transformer with chunked attention (arXiv 2507.00453).

        model = RMAT(config)
        variables = model.init(key, tokens_BT)
        logits_BTV, state = model.apply(variables, tokens_BT)
        logits_BTV, state = model.apply(variables, more_tokens_BT, state)

    Dropout is on when a "dropout" key is among `rngs`. Parameters are a plain tree; those of the
    layers are stacked along a leading axis L. Flax's `capture_intermediates` collects the results
    of any layer's methods, stacked [N / G, L, ...].
    """

    config: RMATConfig

    def setup(self):
        c, start = self.config, nn.initializers.normal(self.config.width**-0.5)
        dtypes = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        self.embed = nn.Embed(c.vocab_size, c.width, embedding_init=start, **dtypes)
        if c.token_shift:
            self.previous = projection(c, c.width)
        self.dropout = Dropout(c.dropout, c.chunk_len)
        self.layers = Block(c)
        self.final_norm = layer_norm(c)
        if not c.tie_embeddings:
            shape = (c.vocab_size, c.width)
            self.output = self.param("output", start, shape, jnp.dtype(c.param_dtype))

    def __call__(
        self, tokens_BT: Array, state: State | None = None, documents: Array | None = None
    ) -> tuple[Array, State | InsideChunk]:
        """Predicts the token after each token. Returns logits, and the state after the last token.

        Args:
            tokens_BT: token ids, any T >= 1. Ids outside the vocabulary are not checked.
            state: the state that an earlier call returned; None: nothing was read before.
            documents: [B, T] the id of each token's document, >= 0. Documents that share a chunk,
                or the window before it, need different ids, so number them. None: each row goes on
                with its document.

        Returns:
            Logits [B, T, V] in float32 (float64 if `dtype` is), and the state, of the structure of
            the one given. Where T is no multiple of the chunk the state is an `InsideChunk`, which
            no call takes. `rmat_jax.infer` reads streams that stop anywhere.

        Raises:
            UserError: the state is an `InsideChunk`.
        """

        def project(model, x_BTD, _):
            return model.logits(x_BTD)

        return self._read(project, {"tokens": tokens_BT}, state, documents)

    def score(
        self,
        tokens_BT: Array,
        targets_BT: Array,
        state: State | None = None,
        documents: Array | None = None,
    ) -> tuple[losses.Scores, State | InsideChunk]:
        """Scores each target, [B, T]; a target of -1 is not scored. Otherwise like a call.

        At most LOGITS logits exist at a time, or those of one chunk. With `remat="block"` the
        backward pass computes them again.
        """

        def loss(model, x_BTD, targets_BT):
            c, (batch, length) = model.config, targets_BT.shape
            most = LOGITS // (batch * c.chunk_len * c.vocab_size)
            size = divisor(length // c.chunk_len, most)
            parts = model._cut(x_BTD, size), model._cut(targets_BT, size)
            again = "block" in model.config.remat
            scores = model._scan(score_part, None, parts, again=again, shown=False)[1]
            return jax.tree.map(model._join, scores)

        def score_part(model, _, part):
            x_BTD, targets_BT = part
            return None, losses.score(model.logits(x_BTD), targets_BT)

        return self._read(loss, {"tokens": tokens_BT, "targets": targets_BT}, state, documents)

    def read(
        self, tokens_BT: Array, state: State, documents: Array | None = None
    ) -> tuple[Array, State]:
        """Returns the logits after the last token alone, [B, V], and the state.

        T is a multiple of the chunk. Otherwise like a call.
        """

        def vectors(model, x_BTD, _):
            return x_BTD[:, -1:]

        x_BND, state = self._read(vectors, {"tokens": tokens_BT}, state, documents)
        return self.logits(context.of_last(x_BND[:, -1:]))[:, 0], state

    def embed_tokens(
        self, tokens_BS: Array, before_BS: Array | None, first: Array | int = 0
    ) -> Array:
        """Embeds tokens for the first layer: `sqrt(D) E[t]` (+ `sqrt(D) E[t-1] Wp`), [B, S, D].

        Args:
            tokens_BS: token ids.
            before_BS: the token before each, -1 where there is none; None: no token shift.
            first: index of the first chunk, for dropout.
        """
        scale = self.config.width**0.5
        x_BSD = self.embed(tokens_BS) * scale
        if before_BS is not None:
            shifted_BSD = self.previous(self.embed(before_BS) * scale)
            x_BSD += jnp.where(before_BS[..., None] >= 0, shifted_BSD, 0)
        return self.dropout(x_BSD, first)

    def logits(self, x_BSD: Array) -> Array:
        """Projects the last layer's vectors to logits [B, S, V]."""
        dtype = jnp.dtype(self.config.dtype)
        table_VD = self.embed.embedding if self.config.tie_embeddings else self.output
        return jnp.einsum(
            "bsd,vd->bsv",
            self.final_norm(x_BSD).astype(dtype),
            table_VD.astype(dtype),
            preferred_element_type=jnp.dtype(self.config.param_dtype),
        )

    def _read(
        self,
        out: Callable[..., PyTree],
        columns: dict[str, Array],
        state: State | None,
        documents: Array | None,
    ) -> tuple[PyTree, State | InsideChunk]:
        """Scans over groups of chunks.

        Args:
            out: `out(model, x_BTD, targets_BT or None)`, applied to each group's vectors.
            columns: "tokens" and perhaps "targets", [B, T] each.
            state, documents: as in a call.

        Returns:
            The results of `out` as [B, T, ...], and the state.
        """
        batch, length = columns["tokens"].shape
        rest = -length % self.config.chunk_len
        if isinstance(state, InsideChunk):
            raise UserError(
                "the state of a call that ends inside a chunk cannot be continued; read a multiple "
                f"of chunk_len={self.config.chunk_len} tokens a call, or use rmat_jax.infer"
            )
        state = states.initial_state(self.config, batch) if state is None else state
        if documents is None:
            documents = jnp.broadcast_to(state.document_B[:, None], (batch, length))
        columns = columns | {"documents": documents.astype(jnp.int32)}
        columns = {
            name: jnp.pad(x, ((0, 0), (0, rest)), constant_values=PADDING[name])
            for name, x in columns.items()
        }

        def read(model, state, inputs):
            first, group = inputs
            state, x_BTD = model._read_group(state, group["tokens"], group["documents"], first)
            return state, out(model, x_BTD, group.get("targets"))

        if self.is_initializing():
            # a scan cannot make parameters
            first = {name: x[:, : self.config.chunk_len] for name, x in columns.items()}
            self.logits(self._read_group(state, first["tokens"], first["documents"], 0)[1])
        chunks = (length + rest) // self.config.chunk_len
        size = chunks_at_once(self.config, batch, chunks)
        groups = {name: self._cut(x, size) for name, x in columns.items()}
        firsts = context.place() * chunks + jnp.arange(0, chunks, size)
        again = "chunk" in self.config.remat
        state, out_NBT = self._scan(read, state, (firsts, groups), again=again)
        out_BT = jax.tree.map(lambda x: self._join(x)[:, :length], out_NBT)
        return out_BT, InsideChunk() if rest else state

    def _scan(
        self, body: Callable, carried: PyTree, xs: PyTree, *, again: bool, shown: bool = True
    ) -> tuple[PyTree, PyTree]:
        """Scans `carried, out = body(model, carried, x)` over xs; `again` rematerialises it."""
        return nn.scan(
            nn.remat(body, prevent_cse=False) if again else body,
            variable_broadcast="params",
            variable_axes={"intermediates": 0} if shown else {},
            # `Dropout` folds each chunk's index into the key itself
            split_rngs={"params": False, "dropout": False},
            check_constancy_invariants=False,
        )(self, carried, xs)

    def _cut(self, x_BT: Array, chunks: int = 1) -> Array:
        """Cuts [B, T, ...] into groups of so many chunks, [N / G, B, G C, ...]."""
        size = chunks * self.config.chunk_len
        return x_BT.reshape(len(x_BT), -1, size, *x_BT.shape[2:]).swapaxes(0, 1)

    def _join(self, x_NBT: Array) -> Array:
        """The inverse of `_cut`."""
        x_BNT = x_NBT.swapaxes(0, 1)
        return x_BNT.reshape(len(x_BNT), -1, *x_BNT.shape[3:])

    def _read_group(
        self, state: State, tokens_BT: Array, documents_BT: Array, first: Array | int
    ) -> tuple[State, Array]:
        """Scans over layers: each reads all chunks of a group, with its own memory and window.

        Args:
            state: the state before the group.
            tokens_BT, documents_BT: of the group, or of this device's part of it.
            first: index of the first chunk.
        """
        c, before_BT = self.config, None
        state = self._handed(state, tokens_BT, documents_BT)
        token_B, owners_BW, ages_BM = state.token_B, state.window_documents_BW, state.ages_BM
        at, document_B = rules.borders(c, ages_BM, state.document_B, self._cut(documents_BT))
        if c.token_shift:
            before_BT = rules.previous_tokens(token_B, state.document_B, tokens_BT, documents_BT)
            token_B = rules.last(tokens_BT, documents_BT, token_B)
        read = functools.partial(_read_layer, documents_BT, owners_BW, at, first)
        x_BTD, (slots_LBMD, keys_LBHEW, values_LBHEW) = nn.scan(
            nn.remat(read, prevent_cse=False, policy=_kept) if "block" in c.remat else read,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=c.num_layers,
            # the check makes tracing five times as slow
            check_constancy_invariants=False,
        )(
            self.layers,
            self.embed_tokens(tokens_BT, before_BT, first),
            (state.slots_LBMD, state.window_keys_LBHEW, state.window_values_LBHEW),
        )
        if c.carries_window:
            owners_BW = states.slide_documents(c, owners_BW, documents_BT)
        if c.memory:
            ages_BM = at.next_ages_BM[-1]
        state = State(
            slots_LBMD=slots_LBMD,
            window_keys_LBHEW=keys_LBHEW,
            window_values_LBHEW=values_LBHEW,
            window_documents_BW=owners_BW,
            ages_BM=ages_BM,
            document_B=document_B,
            token_B=token_B,
        )
        return context.of_last(state), x_BTD

    def _handed(self, state: State, tokens_BT: Array, documents_BT: Array) -> State:
        """Returns the state with the shared fields of all layers as the device before left them."""
        c, before = self.config, (state.document_B, state.token_B)

        def read_last(before):
            document_B, token_B = before
            if c.token_shift:
                token_B = rules.last(tokens_BT, documents_BT, token_B)
            return rules.last(documents_BT, documents_BT, document_B), token_B

        def written(ages_BM):
            at, _ = rules.borders(c, ages_BM, document_B, self._cut(documents_BT))
            return at.next_ages_BM[-1]

        document_B, token_B = context.in_turn(read_last, before)
        owners_BW, ages_BM = state.window_documents_BW, state.ages_BM
        if c.carries_window:
            owners_BW = context.in_turn(
                lambda _: documents_BT[:, -c.local.window :], owners_BW, reach=1
            )
        if c.memory:
            turns = -(-c.memory.slots // (documents_BT.shape[1] // c.run_len))
            ages_BM = context.in_turn(written, ages_BM, turns)
        return state.replace(
            document_B=document_B, token_B=token_B, window_documents_BW=owners_BW, ages_BM=ages_BM
        )


def _kept(primitive, *args, **params) -> bool:
    """The policy of a rematerialised layer: it keeps attention's results, few and expensive."""
    names = jax.checkpoint_policies.save_only_these_names(fused.KEPT)
    # cuDNN's kernel gives its results no name
    fast = primitive.name.startswith("dot_product_attention_fwd")
    return fast or names(primitive, *args, **params)


Carried = tuple[Array | None, Array | None, Array | None]


def _read_layer(
    documents_BT: Array,
    owners_BW: Array | None,
    at: rules.Border,
    first: Array | int,
    block: Block,
    x_BTD: Array,
    carried: Carried,
) -> tuple[Array, Carried]:
    """Applies one layer to a group of chunks. Returns its vectors, and what it carries on.

    Args:
        documents_BT: the documents of the group's tokens.
        owners_BW: the documents of the window before them.
        at: the rules at each chunk's end.
        first: index of the first chunk.
        block: the layer.
        x_BTD: vectors from the layer below.
        carried: slots [B, M, D], the window's keys and values [B, H, E, W]; None: there are none.
    """
    c, (slots_BMD, keys_BHEW, values_BHEW) = block.config, carried
    length, past, slots = x_BTD.shape[1], [], None
    chunks = length // c.chunk_len
    h_BTD, heads = block.ask(x_BTD, jnp.arange(length)[None])
    # rotations count positions from the start of the group, masks from the start of the chunk
    group = Keys(heads.keys, heads.values, documents_BT)
    own = group.cut(c.chunk_len, c.chunk_len, chunks, 0)
    if c.carries_window:
        size = c.local.window
        before = context.in_turn(
            lambda _: states.slide(c, group, length), (keys_BHEW, values_BHEW), reach=1
        )
        line = states.window(*before, owners_BW).followed_by(group)
        past = [line.cut(size, c.chunk_len, chunks, -size)]
        keys_BHEW, values_BHEW = states.slide(c, line, length)
    if c.memory:
        line_BJD = slots_BMD
        if not c.memory.keeps_outputs:
            slots_BMD, line_BJD = block.write(slots_BMD, h_BTD, at)
        slots = block.slots(line_BJD, at.owners_BM, heads)
    y_BTD = block(x_BTD, heads, own, past, slots, c.attention, first)
    if c.memory and c.memory.keeps_outputs:
        slots_BMD, _ = block.write(slots_BMD, y_BTD, at)
    return y_BTD, (slots_BMD, keys_BHEW, values_BHEW)
