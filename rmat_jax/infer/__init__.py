"""Uses a trained model on streams of any length, at constant memory and time a token.

`Engine` and `Session` are the interface. `score` says what a text costs. `decode` and `prefill` are
the pure functions below them.

The names are imported when they are first used, so that `Sampling` alone needs no JAX.

May import: config, data, digests, errors, model, modules, ops, sealed, signals, types, flax, jax,
numpy.
"""

import importlib

_HOMES = {
    "Cost": "scoring",
    "Engine": "engine",
    "Piece": "job",
    "Requests": "streams",
    "Sampling": "sampling",
    "Scored": "scoring",
    "Session": "session",
    "Streams": "streams",
    "Writing": "session",
    "Written": "streams",
    "begin": "streams",
    "decode": "streams",
    "prefill": "streams",
    "score": "scoring",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(globals() | _HOMES)
