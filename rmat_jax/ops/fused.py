"""Fused attention of one branch, which equals `ops/attention.py` and does not store the weights.

    A = softmax(q k^T / sqrt(E) + bias, where the branch shows) v

Every path stores the results and the logarithms of the softmax's sums, and computes the weights
again in the backward pass. So storage grows with the queries, not with queries times keys.

- "xla": plain products, on any device; implemented here.
- "cudnn": NVIDIA's kernels, through `jax.nn.dot_product_attention`.
- "splash": JAX's own kernels for TPUs, `jax.experimental.pallas.ops.tpu.splash_attention`.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import PartitionSpec as P

from rmat_jax.config import divisor
from rmat_jax.types import Array

# the checkpoint name of attention's results, which a rematerialised layer keeps
KEPT = "attention"
# the score of a hidden key; unlike minus infinity it has finite differences
NEVER = -1e30
# the most scores that a CPU computes at a time, 16 MiB
SCORES = 1 << 22
# the numbers of queries and of keys that each path takes are multiples of this
UNITS = {"xla": 1, "cudnn": 2, "splash": 128}


class Band(NamedTuple):
    """The keys that each query sees by position: all slots, and the last tokens up to itself.

    Queries have the positions 0, 1, ..., S - 1. Keys are slots, then tokens.
    """

    # the number of slots, which every query sees
    slots: int = 0
    # the position of the first token
    first: int = 0
    # the number of tokens that a query sees, itself included; None: all up to itself
    reach: int | None = None

    def mask(self, queries: int, keys: int) -> np.ndarray:
        """Returns a mask [S, J], True where a query sees a key."""
        query_S1 = np.arange(queries)[:, None]
        key_1J = np.arange(keys)[None] - self.slots + self.first
        near_SJ = key_1J <= query_S1
        if self.reach is not None:
            near_SJ &= query_S1 - key_1J < self.reach
        near_SJ[:, : self.slots] = True
        return near_SJ


# the backends of nested `compiled_for` blocks
_backend: list[str] = []


@contextlib.contextmanager
def compiled_for(name: str) -> Iterator[None]:
    """Makes programs that are traced in the block choose the paths of "cpu", "gpu" or "tpu"."""
    _backend.append(name)
    try:
        yield
    finally:
        _backend.pop()


def backend() -> str:
    """Returns the backend for which programs are traced."""
    return _backend[-1] if _backend else jax.default_backend()


def fastest(dtype: str) -> str:
    """Returns the fastest path for the backend and the dtype of the activations."""
    best = {"gpu": "cudnn", "tpu": "splash"}.get(backend(), "xla")
    return best if dtype == "bfloat16" else "xla"


def refusal(path: str, dtype: str, head_dim: int, lengths: tuple[int, ...]) -> str | None:
    """Says why a path cannot compute this attention, as "takes ..., not ..."; None: it can.

    Args:
        path: "xla", "cudnn" or "splash".
        dtype: the dtype of the activations.
        head_dim: E.
        lengths: the numbers of queries and of keys.
    """
    unit = UNITS[path]
    if path == "xla":
        return None
    if dtype != "bfloat16":
        return f"takes model.dtype=bfloat16, not {dtype}"
    if head_dim % 8 or head_dim > _largest_head(path):
        largest = _largest_head(path)
        return f"takes head sizes that are multiples of 8 up to {largest}, not {head_dim}"
    odd = [n for n in lengths if n % unit]
    return f"takes queries and keys in multiples of {unit}, not {odd[0]}" if odd else None


def _largest_head(path: str) -> int:
    """Returns the largest head size of a kernel, less the eight numbers that `_biased` adds."""
    if path == "splash":
        return 1016
    # cuDNN's limit depends on the chip's generation
    return 248 if float(getattr(jax.devices()[0], "compute_capability", 0)) >= 9 else 120


def attend(
    path: str,
    band: Band,
    q_BSHE: Array,
    k_BJHE: Array,
    v_BJHE: Array,
    bias_H: Array | None,
    documents_BS: Array,
    documents_BJ: Array,
) -> Array:
    """Computes attention, [B, S, H, E] in the values' dtype; zeros where a query sees no key.

    Args:
        path: "xla", "cudnn" or "splash".
        band: the keys that each query sees by position.
        q_BSHE: queries, k_BJHE: keys, v_BJHE: values.
        bias_H: the bias that each head adds to its scores of the slots; None: nothing.
        documents_BS: the queries' documents, documents_BJ: the keys'. A query sees the keys of its
            document only.
    """
    if path == "xla":
        return _pieces(band, q_BSHE, k_BJHE, v_BJHE, bias_H, documents_BS, documents_BJ)
    if bias_H is not None:
        q_BSHE, k_BJHE = _biased(band, q_BSHE, k_BJHE, bias_H)
    kernel = {"cudnn": _cudnn, "splash": _splash}[path]
    out_BSHE = kernel(band, q_BSHE, k_BJHE, v_BJHE, documents_BS, documents_BJ)
    if band.slots == k_BJHE.shape[1]:
        # A query may see none of the slots. The kernels would then return the mean of all values.
        sees_BS = (documents_BS[:, :, None] == documents_BJ[:, None, :]).any(2)
        out_BSHE = jnp.where(sees_BS[..., None, None], out_BSHE, 0)
    return out_BSHE


def _biased(band, q_BSHE, k_BJHE, bias_H):
    """Appends eight numbers to queries and keys, whose products are the bias times sqrt(E).

    The kernels take no learned bias. The few numbers cost nothing, since they fill up the head. The
    bias is split into two numbers, since one would be rounded to the few digits of q.
    """
    scaled_H = bias_H * q_BSHE.shape[-1] ** 0.5
    high_H = scaled_H.astype(q_BSHE.dtype)
    low_H = (scaled_H - high_H.astype(bias_H.dtype)).astype(q_BSHE.dtype)
    more_H8 = jnp.pad(jnp.stack([high_H, low_H], axis=-1), ((0, 0), (0, 6)))
    more_J8 = jnp.zeros((k_BJHE.shape[1], 8), k_BJHE.dtype).at[: band.slots, :2].set(1)
    return tuple(
        jnp.concatenate([x, jnp.broadcast_to(more, (*x.shape[:3], 8))], axis=-1)
        for x, more in ((q_BSHE, more_H8), (k_BJHE, more_J8[:, None]))
    )


def _cudnn(band, q_BSHE, k_BJHE, v_BJHE, documents_BS, documents_BJ):
    """Calls cuDNN. The scale comes from the size of v, since `_biased` may have widened q and k."""
    scale, more = v_BJHE.shape[-1] ** -0.5, q_BSHE.shape[-1] - v_BJHE.shape[-1]
    seen_BSJ = band.mask(q_BSHE.shape[1], k_BJHE.shape[1])[None]
    seen_BSJ &= documents_BS[:, :, None] == documents_BJ[:, None, :]
    # cuDNN takes one head size for all three
    v_BJHE = jnp.pad(v_BJHE, ((0, 0), (0, 0), (0, 0), (0, more)))
    out_BSHE = jax.nn.dot_product_attention(
        q_BSHE,
        k_BJHE,
        v_BJHE,
        mask=seen_BSJ[:, None],
        scale=scale,
        implementation=CUDNN,
    )
    out_BSHE = checkpoint_name(out_BSHE, KEPT)
    return out_BSHE[..., : out_BSHE.shape[-1] - more]


def _splash(band, q_BSHE, k_BJHE, v_BJHE, documents_BS, documents_BJ):
    mesh = jax.sharding.get_abstract_mesh()
    own_heads = functools.partial(_splash_heads, band)
    if mesh.shape.get("tensor", 1) > 1:
        # each device computes its own heads, since the compiler cannot divide a kernel
        heads, rows = P(None, None, "tensor"), P()
        own_heads = jax.shard_map(
            own_heads,
            in_specs=(heads, heads, heads, rows, rows),
            out_specs=heads,
            # all axes that are not manual yet, also those of one device
            axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
            check_vma=False,
        )
    return own_heads(q_BSHE, k_BJHE, v_BJHE, documents_BS, documents_BJ)


def _splash_heads(band, q_BSHE, k_BJHE, v_BJHE, documents_BS, documents_BJ):
    (_, queries, heads, _), keys = q_BSHE.shape, k_BJHE.shape[1]
    rows, columns = (max(d for d in (128, 256, 512) if n % d == 0) for n in (queries, keys))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.NumpyMask(band.mask(queries, keys))] * heads),
        block_sizes=splash.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        residual_checkpoint_name=KEPT,
        # tests run the kernel on a CPU
        interpret=INTERPRET,
    )
    q_BHSE, k_BHJE, v_BHJE = (x.swapaxes(1, 2) for x in (q_BSHE, k_BJHE, v_BJHE))
    segments = splash.SegmentIds(documents_BS, documents_BJ)
    q_BHSE = q_BHSE * v_BJHE.shape[-1] ** -0.5
    return jax.vmap(kernel)(q_BHSE, k_BHJE, v_BHJE, segments).swapaxes(1, 2)


# tests change these, to run on a CPU the splash kernel interpreted and JAX's function without cuDNN
INTERPRET, CUDNN = False, "cudnn"


def _pieces(band, q_BSHE, k_BJHE, v_BJHE, bias_H, documents_BS, documents_BJ):
    """Computes one piece of rows and heads after the other, so that its scores fit in a cache."""
    (rows, queries, heads, _), keys = q_BSHE.shape, k_BJHE.shape[1]
    limit = SCORES if backend() == "cpu" else SCORES << 6
    some_heads = divisor(heads, limit // (queries * keys))
    some_rows = divisor(rows, limit // (queries * keys * heads))
    if (some_rows, some_heads) == (rows, heads):
        return _recomputed(band, q_BSHE, k_BJHE, v_BJHE, bias_H, documents_BS, documents_BJ)
    groups = heads // some_heads

    def cut(x_BSHE):
        x = x_BSHE.reshape(-1, some_rows, x_BSHE.shape[1], groups, some_heads, x_BSHE.shape[3])
        return jnp.moveaxis(x, 3, 1).reshape(-1, *x.shape[1:3], *x.shape[4:])

    def same(x_BS):
        return jnp.repeat(x_BS.reshape(-1, some_rows, x_BS.shape[1]), groups, axis=0)

    def piece(x):
        return _recomputed(band, *x)

    bias = None if bias_H is None else jnp.tile(bias_H.reshape(groups, -1), (rows // some_rows, 1))
    parts = (*map(cut, (q_BSHE, k_BJHE, v_BJHE)), bias, *map(same, (documents_BS, documents_BJ)))
    found = jax.lax.map(piece, parts)
    found = found.reshape(-1, groups, *found.shape[1:])
    return jnp.moveaxis(found, 1, 3).reshape(q_BSHE.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recomputed(band, q_BSHE, k_BJHE, v_BJHE, bias_H, documents_BS, documents_BJ):
    return _forward(band, q_BSHE, k_BJHE, v_BJHE, bias_H, documents_BS, documents_BJ)[0]


def _forward(band, q_BSHE, k_BJHE, v_BJHE, bias_H, documents_BS, documents_BJ):
    q_BHSE, k_BHJE, v_BHJE = (x.swapaxes(1, 2) for x in (q_BSHE, k_BJHE, v_BJHE))
    s_BHSJ = _scores(band, q_BHSE, k_BHJE, bias_H, documents_BS, documents_BJ)
    # the weights of a query that sees no key become 0 instead of 1
    highest_BHS1 = jnp.maximum(s_BHSJ.max(-1, keepdims=True), NEVER / 2)
    w_BHSJ = jnp.exp(s_BHSJ - highest_BHS1)
    sum_BHS1 = w_BHSJ.sum(-1, keepdims=True)
    sum_BHS1 = jnp.where(sum_BHS1 > 0, sum_BHS1, 1)
    out_BHSE = _product("bhsj,bhje->bhse", w_BHSJ.astype(v_BHJE.dtype), v_BHJE) / sum_BHS1
    out_BHSE = checkpoint_name(out_BHSE.astype(v_BHJE.dtype), KEPT)
    log_BHS1 = checkpoint_name(highest_BHS1 + jnp.log(sum_BHS1), KEPT)
    kept = q_BHSE, k_BHJE, v_BHJE, bias_H, documents_BS, documents_BJ, out_BHSE, log_BHS1
    return out_BHSE.swapaxes(1, 2), kept


def _backward(band, kept, d_out_BSHE):
    q_BHSE, k_BHJE, v_BHJE, bias_H, documents_BS, documents_BJ, out_BHSE, log_BHS1 = kept
    dtype, scale, d_out_BHSE = v_BHJE.dtype, q_BHSE.shape[-1] ** -0.5, d_out_BSHE.swapaxes(1, 2)
    s_BHSJ = _scores(band, q_BHSE, k_BHJE, bias_H, documents_BS, documents_BJ)
    w_BHSJ = jnp.exp(s_BHSJ - log_BHS1)
    d_v_BHJE = _product("bhsj,bhse->bhje", w_BHSJ.astype(dtype), d_out_BHSE)
    d_w_BHSJ = _product("bhse,bhje->bhsj", d_out_BHSE, v_BHJE)
    mean_BHS1 = _product("bhse,bhse->bhs", d_out_BHSE, out_BHSE)[..., None]
    d_s_BHSJ = w_BHSJ * (d_w_BHSJ - mean_BHS1)
    d_bias_H = None
    if bias_H is not None:
        d_bias_H = d_s_BHSJ[..., : band.slots].sum((0, 2, 3)).astype(bias_H.dtype)
    d_s_BHSJ = d_s_BHSJ.astype(dtype)
    d_q_BHSE = _product("bhsj,bhje->bhse", d_s_BHSJ, k_BHJE) * scale
    d_k_BHJE = _product("bhsj,bhse->bhje", d_s_BHSJ, q_BHSE) * scale
    gradients = (x.swapaxes(1, 2).astype(dtype) for x in (d_q_BHSE, d_k_BHJE, d_v_BHJE))
    return *gradients, d_bias_H, None, None


_recomputed.defvjp(_forward, _backward)


def _scores(band, q_BHSE, k_BHJE, bias_H, documents_BS, documents_BJ):
    """Computes scores [B, H, S, J], about NEVER where a query does not see a key."""
    s_BHSJ = _product("bhse,bhje->bhsj", q_BHSE, k_BHJE) * q_BHSE.shape[-1] ** -0.5
    queries, keys = s_BHSJ.shape[2:]
    seen_BSJ = band.mask(queries, keys)[None]
    seen_BSJ &= documents_BS[:, :, None] == documents_BJ[:, None, :]
    s_BHSJ += jnp.where(seen_BSJ, 0, NEVER).astype(s_BHSJ.dtype)[:, None]
    if bias_H is not None:
        slot_J = np.arange(keys) < band.slots
        s_BHSJ += jnp.where(slot_J, bias_H[:, None], 0).astype(s_BHSJ.dtype)[None, :, None]
    return s_BHSJ


def _product(formula: str, x: Array, y: Array) -> Array:
    """Computes a product with sums in float32 (float64 if x is)."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(formula, x, y, preferred_element_type=wide)
