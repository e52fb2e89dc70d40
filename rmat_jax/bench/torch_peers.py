"""Recurrent and full-attention language models of other packages, in PyTorch, for `bench train`.

Each has our width, depth, heads and vocabulary, and otherwise the settings that its package
recommends. A model is timed if its package and PyTorch are installed.
"""

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable

import jax

from rmat_jax.config import RMATConfig
from rmat_jax.machine import num_cores

# the package of each model, as pip names it, with the version that it is written against
PACKAGES = {
    "Recurrent Memory Transformer": "recurrent-memory-transformer-pytorch==0.7.0",
    "Block-Recurrent Transformer": "block-recurrent-transformer-pytorch==0.4.4",
    "Memorizing Transformer": "memorizing-transformers-pytorch==0.4.1",
    "GPT-2": "transformers",
}
# the tokens that a recurrent model reads at a time, and the vectors that it remembers
SEGMENT, MEMORIES = 512, 64


def missing(name: str) -> str | None:
    """The command that installs what a model needs; None: everything is installed."""
    package = PACKAGES[name]
    modules = ["torch", package.partition("==")[0].replace("-", "_")]
    if all(importlib.util.find_spec(module) for module in modules):
        return None
    return f"pip install torch {package}"


def versions() -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for name in ("torch", *(package.partition("==")[0] for package in PACKAGES.values())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make(name: str, config: RMATConfig, lanes: int, tokens: int) -> tuple[int, Callable[[], None]]:
    """Makes a model. Returns its number of parameters, and its step: loss, gradient, AdamW."""
    import torch

    torch.set_num_threads(num_cores())
    torch.manual_seed(0)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    text = torch.randint(0, config.vocab_size, (lanes, tokens + 1), device=device)
    build = {
        "Recurrent Memory Transformer": _recurrent_memory,
        "Block-Recurrent Transformer": _block_recurrent,
        "Memorizing Transformer": _memorizing,
        "GPT-2": _gpt2,
    }[name]
    module, loss = build(config, text)
    module.to(device)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-4)

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return sum(p.numel() for p in module.parameters()), step


def _recurrent_memory(config, text):
    from recurrent_memory_transformer_pytorch import (
        RecurrentMemoryTransformer,
        RecurrentMemoryTransformerWrapper,
    )

    model = RecurrentMemoryTransformer(
        dim=config.width,
        num_tokens=config.vocab_size,
        depth=config.num_layers,
        num_memory_tokens=MEMORIES,
        seq_len=SEGMENT,
        heads=config.num_heads,
        dim_head=config.head_dim,
        use_flash_attn=True,
        causal=True,
        use_xl_memories=False,
    )
    wrapped = RecurrentMemoryTransformerWrapper(model)
    return wrapped, lambda: wrapped(text, return_loss=True)[0]


def _block_recurrent(config, text):
    from block_recurrent_transformer_pytorch import (
        BlockRecurrentTransformer,
        RecurrentTrainerWrapper,
    )

    model = BlockRecurrentTransformer(
        num_tokens=config.vocab_size,
        dim=config.width,
        depth=config.num_layers,
        dim_head=config.head_dim,
        heads=config.num_heads,
        max_seq_len=2 * SEGMENT,
        block_width=SEGMENT,
        recurrent_layers=(max(config.num_layers - 1, 1),),
        num_state_vectors=MEMORIES,
        use_flash_attn=True,
    )
    wrapped = RecurrentTrainerWrapper(model)
    return wrapped, lambda: wrapped(text)


def _memorizing(config, text):
    from memorizing_transformers_pytorch import MemorizingTransformer

    last = max(config.num_layers - 1, 1)
    model = MemorizingTransformer(
        num_tokens=config.vocab_size,
        dim=config.width,
        depth=config.num_layers,
        dim_head=config.head_dim,
        heads=config.num_heads,
        memorizing_layers=(last,),
        max_knn_memories=8192,
        # otherwise it writes to the current folder
        knn_memories_directory=tempfile.mkdtemp(),
        num_retrieved_memories=32,
        xl_memory_layers=(last - 1, last) if last > 1 else (last,),
        xl_max_memories=SEGMENT,
    )

    def loss():
        lanes, length = len(text), text.shape[1] - 1
        total, remembered = 0.0, None
        with model.knn_memories_context(batch_size=lanes) as memories:
            for start in range(0, length, SEGMENT):
                tokens = text[:, start : start + SEGMENT]
                targets = text[:, start + 1 : start + 1 + tokens.shape[1]]
                part, remembered = model(
                    tokens[:, : targets.shape[1]],
                    labels=targets,
                    knn_memories=memories,
                    xl_memories=remembered,
                )
                total = total + part * targets.shape[1] / length
        return total

    return model, loss


def _gpt2(config, text):
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    architecture = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=text.shape[1] - 1,
        n_embd=config.width,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=config.mlp_width,
        attn_implementation="sdpa",
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    model, tokens = GPT2LMHeadModel(architecture), text[:, :-1]
    return model, lambda: model(input_ids=tokens, labels=tokens).loss
