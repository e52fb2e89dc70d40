"""Recurrent Memory-Augmented Transformer with Chunked Attention (arXiv 2507.00453) in JAX.

`__all__` lists the public names. Each is imported when it is first used, so that `import rmat_jax`
is quick and does not start JAX.
"""

import importlib

__version__ = "0.1.0"

# public name -> the module that defines it
_HOMES = {
    "RMAT": "model",
    "RMATConfig": "config",
    "PAPER": "config",
    "QUEUE": "config",
    "TRANSFORMER_XL": "config",
    "FULL_ATTENTION": "config",
    "Config": "config",
    "UserError": "errors",
    "load_engine": "runs",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(globals() | _HOMES)
