"""The room of those who use a trained model: read and write streams of any length, at constant
memory and time a token.

`Engine` and `Session` are the door; `score` says what a text costs; `decode` and `prefill` are the
pure functions below. May import the model, data, checkpoints; never `step` or `loop`.
"""

from rmat_jax.infer.engine import Engine
from rmat_jax.infer.runs import generate, load_engine, load_run, score_files
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.scoring import Cost, Scored, score
from rmat_jax.infer.session import Piece, Session, Writing
from rmat_jax.infer.streams import Requests, Streams, Written, begin, decode, prefill

__all__ = [
    "Cost",
    "Engine",
    "Piece",
    "Requests",
    "Sampling",
    "Scored",
    "Session",
    "Streams",
    "Writing",
    "Written",
    "begin",
    "decode",
    "generate",
    "load_engine",
    "load_run",
    "prefill",
    "score",
    "score_files",
]
