"""What a token costs, in time and memory, beside models that remember in other ways: to decode it,
and to train on it.

PyTorch and the packages of its models are used where they are installed.

May import: colours, config, errors, files, flops, infer, machine, model, modules, ops, progress,
train, types, block_recurrent_transformer_pytorch, jax, matplotlib, memorizing_transformers_pytorch,
numpy, recurrent_memory_transformer_pytorch, torch, transformers.
"""
