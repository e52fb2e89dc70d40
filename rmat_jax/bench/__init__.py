"""Measures what a token costs in time and memory, to decode it and to train on it, and compares
that with other kinds of memory.

PyTorch and the packages of its models are used if they are installed.

May import: colours, config, drawing, errors, flops, infer, machine, model, modules, ops, progress,
train, types, block_recurrent_transformer_pytorch, jax, matplotlib,
memorizing_transformers_pytorch, numpy, recurrent_memory_transformer_pytorch, torch, transformers.
"""
