"""The PyTorch twin alone. That it computes what JAX computes is test_crosscheck's matter."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rmat_jax.config import Config, OptimConfig
from rmat_jax.interop import training
from rmat_jax.interop.layout import layout
from rmat_jax.interop.reference import RMAT
from tests.models import COVERING, name, tiny

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("options", COVERING, ids=name)
def test_its_parameters_have_the_names_and_shapes_of_the_file(options):
    config = tiny(**options)
    shapes = {name: tuple(x.shape) for name, x in RMAT(config).state_dict().items()}
    assert shapes == {name: spec.shape for name, spec in layout(config).items()}


TRAIN = """
import sys
sys.modules.update(dict.fromkeys({blocked}))
import torch
from rmat_jax.config import Config, Memory, OptimConfig, RMATConfig
from rmat_jax.interop.reference import RMAT
from rmat_jax.interop.training import make_optimizer, train_step

torch.manual_seed(0)
model = RMATConfig(
    vocab_size=7, width=16, num_layers=1, num_heads=2, chunk_len=8, memory=Memory(slots=4, writes=2)
)
config = Config(model=model, steps=40, optim=OptimConfig(learning_rate=1e-2, warmup_steps=2))
model = RMAT(config.model)
optimizer, schedule = make_optimizer(config, model)
text = torch.arange(33).repeat(2, 1) % 7
state, losses = None, []
for _ in range(config.steps):
    inputs = text[:, :-1], text[:, 1:], torch.zeros(2, 32, dtype=torch.int64)
    loss, _, state = train_step(config, model, optimizer, schedule, *inputs, state)
    losses.append(float(loss))
print(losses[0], losses[-1])
assert losses[0] > 1.5 and losses[-1] < 0.3
"""


def test_it_trains_where_jax_is_not_installed():
    code = TRAIN.format(blocked=["jax", "jaxlib", "flax", "optax", "orbax"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    # the control: a blocked package is missed
    blocked = TRAIN.format(blocked=["torch"])
    assert (
        "torch"
        in subprocess.run(
            [sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True
        ).stderr
    )


def test_dropout_follows_train_and_eval():
    model = RMAT(tiny(dropout=0.5))
    tokens = torch.arange(16)[None] % 11
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_clipping_is_exact():
    """One step of a model at rest: the update is that of the gradient times clip / norm."""
    config = Config(model=tiny(), steps=3, optim=OptimConfig(clip_norm=1e-3, warmup_steps=0))
    torch.manual_seed(0)
    model = RMAT(config.model).double()
    tokens = torch.arange(16)[None] % 11
    optimizer, schedule = training.make_optimizer(config, model)
    _, norm, _ = training.train_step(
        config, model, optimizer, schedule, tokens, tokens, torch.zeros_like(tokens)
    )
    clipped = (
        torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None])
        .sum()
        .sqrt()
    )
    # torch's own clipping would leave 1 - 1e-6 / norm
    assert norm > 1e-2 and abs(clipped / 1e-3 - 1) < 1e-12
