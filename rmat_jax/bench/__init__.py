"""What a token costs, in time and memory, beside models that remember in other ways.

PyTorch and transformers are used where they are installed.

May import: colours, config, errors, files, infer, machine, model, modules, progress, types, jax,
matplotlib, numpy, torch, transformers.
"""
