"""One optimiser step of the PyTorch reference: cross-entropy, clipping, AdamW, warm-up and cosine.
Needs no JAX.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from rmat_jax.config import IGNORE, Config


def decayed(model: nn.Module) -> set[str]:
    """The names of the parameters with weight decay: all but norms, biases, gates, fusion weights
    and the memory's bias.
    """
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    names = {name for name, _ in model.named_parameters()} - norms
    return {
        name
        for name in names
        if not {"bias", "fusion", "memory_bias", "gate"} & set(name.split("."))
    }


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of the step after `step` others: a line from 0 to the peak, then a cosine
    down to `final_fraction` of the peak.
    """
    c = config.optim
    if step < c.warmup_steps:
        return c.learning_rate * step / c.warmup_steps
    done = min(1.0, (step - c.warmup_steps) / (config.steps - c.warmup_steps))
    fraction = c.final_fraction + (1 - c.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))
    return c.learning_rate * fraction


def make_optimizer(config: Config, model: nn.Module) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW (arXiv 1711.05101) over all parameters, and the schedule of its learning rate."""
    c, names = config.optim, decayed(model)
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if n in names],
            "weight_decay": c.weight_decay,
        },
        {"params": [p for n, p in model.named_parameters() if n not in names], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.beta1, c.beta2), eps=1e-8)
    return optimizer, LambdaLR(
        optimizer, lambda step: learning_rate(config, step) / c.learning_rate
    )


def train_step(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    schedule: LambdaLR,
    tokens: Tensor,
    targets: Tensor,
    documents: Tensor | None,
    state: Any = None,
) -> tuple[Tensor, Tensor, Any]:
    """One step on the mean loss of the scored targets of [B, T] tokens.

    Returns:
        The loss in nats, the global norm of its gradient before clipping, and the state for the
        next step, detached.
    """
    logits, state = model(tokens, state, documents)
    labels = targets.flatten().to(logits.device)
    total = functional.cross_entropy(
        logits.flatten(0, 1), labels, ignore_index=IGNORE, reduction="sum"
    )
    loss = total / max(1, int((targets != IGNORE).sum()))
    # Zeros, not None: AdamW skips a parameter without a gradient, such as those of the memory in a
    # step of one chunk, where nothing reads what it writes. They must decay all the same.
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    loss.backward()
    grads = [p.grad for p in model.parameters()]
    norm = torch.sqrt(sum(g.square().sum() for g in grads))
    # torch's clip_grad_norm_ divides by norm + 1e-6, which differs in the seventh digit.
    for g in grads:
        g *= (config.optim.clip_norm / norm).clamp(max=1.0)
    optimizer.step()
    schedule.step()
    return loss.detach(), norm, state.detach()
