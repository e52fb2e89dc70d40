"""A tiny model with an alphabet of ten letters, and what its engine should have computed."""

import functools

import jax
import numpy as np

from rmat_jax.infer import Engine, Session, open_chunk
from rmat_jax.model import RMAT
from tests.models import DEFAULT, make_params, open_reader, tiny


class Letters:
    """Ids 0..9 are the letters a..j, 10 ends a document."""

    vocab_size, end, describe = 11, 10, "letters"

    def encode(self, data: bytes, first: bool = False) -> np.ndarray:
        return np.frombuffer(data, np.uint8).astype(np.int32) - ord("a")

    def decode(self, ids, first: bool = False) -> bytes:
        ids = np.asarray(ids)
        return (ids[ids != self.end] + ord("a")).astype(np.uint8).tobytes()


CONFIG = tiny(dtype="float32", **DEFAULT)


@functools.cache
def quiet_params(config, seed: int = 0) -> dict:
    """Makes a model that all but never ends a document: its logit for that is -20."""
    params = jax.tree.map(np.copy, make_params(config, seed))
    params["final_norm"]["scale"][0], params["final_norm"]["bias"][0] = 0, 20
    params["output"][:, 0] = 0
    params["output"][Letters.end] = -np.eye(config.width)[0]
    return params


def make_engine(config=CONFIG, rows=3, prompts=2, params=None, devices=1) -> Engine:
    return Engine(
        RMAT(config),
        params or quiet_params(config),
        Letters(),
        rows=rows,
        prompts=prompts,
        devices=devices,
    )


def random_text(rng: np.random.Generator, length: int) -> bytes:
    return Letters().decode(rng.integers(10, size=length))


def one_pass(config, tokens: list[int], params=None):
    """Reads all tokens in one call: logits [T, V], and the state after them.

    Calls have few widths, since each is compiled.
    """
    padded = np.pad(tokens, (0, -len(tokens) % 256))[None]
    empty = open_chunk.initial_state(config, 1)
    logits, state = open_reader(config)(
        params or quiet_params(config), padded, empty, None, np.array([len(tokens)])
    )
    return np.asarray(logits[0, : len(tokens)], np.float64), state


def stands(session: Session):
    """Returns the logits [V] of the session's next token, and its state."""
    stream = session.fork().ticket.stream
    return np.asarray(stream.logits_BV[0], np.float64), stream.state


def bits(session: Session) -> list[bytes]:
    """Returns everything that a session remembers."""
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(session.fork().ticket.stream)]
