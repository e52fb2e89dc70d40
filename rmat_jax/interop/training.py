"""One optimiser step in PyTorch, as `optim.py` and `step.py` take it: AdamW, clipping, warm-up and cosine. Needs no JAX."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from rmat_jax.config import IGNORE, Config


def decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter: not to norms, biases, gates and fusion weights."""
    *modules, last = name.split(".")
    return not (last in ("bias", "fusion") or "gate" in modules or modules[-1].endswith("norm"))


def make_optimizer(config: Config, model: nn.Module) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW over the model's parameters, and its schedule, whose `step()` follows each step of the optimiser."""
    c = config.optim
    groups = [
        {"params": [p for n, p in model.named_parameters() if decayed(n)], "weight_decay": c.weight_decay},
        {"params": [p for n, p in model.named_parameters() if not decayed(n)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.beta1, c.beta2), eps=1e-8)
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate(config, step) / c.learning_rate)


def learning_rate(config: Config, step: int) -> float:
    """Of the step after `step` others: up to the peak in `warmup_steps`, then a cosine down to its `final_fraction`."""
    c = config.optim
    if step < c.warmup_steps:
        return c.learning_rate * step / c.warmup_steps
    progress = min(1.0, (step - c.warmup_steps) / (config.steps - c.warmup_steps))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return c.learning_rate * (c.final_fraction + (1 - c.final_fraction) * cosine)


def train_step(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    documents_BT: Tensor,
    state: Any = None,
) -> tuple[Tensor, Tensor, Any]:
    """One step on the mean loss of the scored targets.

    Returns:
        The loss in nats, the norm of its gradient before clipping, and the state for the next step, detached.
    """
    optimizer.zero_grad()
    logits_BTV, state = model(tokens_BT, state, documents_BT)
    total = functional.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    loss = total / max(1, int((targets_BT != IGNORE).sum()))
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    # Not torch's clip_grad_norm_, which divides by norm + 1e-6.
    if norm > config.optim.clip_norm:
        for grad in grads:
            grad *= config.optim.clip_norm / norm
    optimizer.step()
    schedule.step()
    return loss.detach(), norm, state.detach()
