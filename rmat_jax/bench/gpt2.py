"""GPT-2 of Hugging Face transformers, with its own caches of keys and values. The package is
optional.
"""

import jax

from rmat_jax.bench.peers import WARM_UP
from rmat_jax.config import RMATConfig
from rmat_jax.machine import num_cores

INSTALL = "pip install transformers"


def missing() -> str | None:
    """Says why GPT-2 cannot be timed beside our models; None: it can."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return f"GPT-2 is left out: {error.name} is not installed; run: {INSTALL}"
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        return (
            "GPT-2 is left out: JAX computes on the GPU, but this PyTorch cannot; install a "
            "PyTorch with CUDA"
        )
    return None


def versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


class GPT2:
    """GPT-2 with our model's width, depth, heads, MLP and vocabulary, and random weights.

    It uses scaled-dot-product attention, and tanh gelu in one kernel. The cache is filled with
    random keys and values up to where a sample begins. `DynamicCache`, the default of transformers,
    grows by concatenation. `StaticCache` has `context` places from the start and is written in
    place.
    """

    def __init__(self, config: RMATConfig, context: int, tokens: int, seed: int, *, static: bool):
        import torch
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache
        from transformers.utils import logging

        logging.set_verbosity_error()
        self.name = f"GPT-2, {'StaticCache' if static else 'DynamicCache'}"
        self.context, self.sample = context, tokens
        self.torch, self.static = torch, static
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        torch.set_num_threads(num_cores())
        torch.manual_seed(seed)
        architecture = GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=context,
            n_embd=config.width,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.mlp_width,
            activation_function="gelu_pytorch_tanh",
            attn_implementation="sdpa",
            bos_token_id=0,
            eos_token_id=0,
        )
        dtype = getattr(torch, config.dtype)
        self.model = GPT2LMHeadModel(architecture).eval().to(self.device, dtype)
        self.cache = (
            StaticCache(config=architecture, max_cache_len=context)
            if static
            else DynamicCache(config=architecture)
        )
        start = context - tokens - WARM_UP
        shape = (2, 1, config.num_heads, start, config.head_dim)
        for layer in range(config.num_layers):
            self.cache.update(*torch.randn(shape, device=self.device, dtype=dtype), layer)
        self.start = start
        self.token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        positions = self.model.transformer.wpe.weight
        self.weight_bytes = sum(p.nbytes for p in self.model.parameters()) - positions.nbytes * (
            1 - 1 / context
        )
        self.cache_bytes = 2 * config.num_layers * config.width * context * positions.itemsize

    @property
    def state_bytes(self) -> int:
        """The bytes of the cache at the end of a sample, when it holds the context."""
        return int(self.cache_bytes)

    def rewind(self) -> None:
        if self.static:
            for layer in self.cache.layers:
                layer.cumulative_length.fill_(self.start)
        else:
            for layer in self.cache.layers:
                layer.keys, layer.values = (
                    x[:, :, : self.start] for x in (layer.keys, layer.values)
                )

    def write(self, tokens: int) -> list[int]:
        token, written = self.token, []
        with self.torch.inference_mode():
            for _ in range(tokens):
                logits = self.model(token, past_key_values=self.cache, use_cache=True).logits
                token = logits[:, -1:].argmax(-1)
                written.append(token)
        # waits for the device only once
        return self.torch.cat(written).flatten().tolist()
