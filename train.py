"""Trains a model; `rmat_jax/commands/train.py` has the flags, and an example."""

from rmat_jax.__main__ import train

if __name__ == "__main__":
    train()
