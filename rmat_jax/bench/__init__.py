"""What a token costs, in time and memory, beside models that remember in other ways.

May import the core and `infer`; never `data`, `loop` or `commands`. PyTorch and transformers are
used where they are installed.
"""
