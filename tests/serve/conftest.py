"""A server of the tiny model, as a client sees it."""

import contextlib

import jax
import numpy as np
import pytest
from starlette.testclient import TestClient

from rmat_jax.serve.app import make_app
from rmat_jax.serve.limits import Limits
from rmat_jax.serve.service import Service
from rmat_jax.serve.store import Store
from rmat_jax.serve.worker import Worker
from tests.infer.letters import CONFIG, Letters, make_engine, quiet_params

ROWS = 3


@pytest.fixture(autouse=True, scope="package")
def forget_programs():
    """The files of this folder share their few programs."""
    yield
    jax.clear_caches()


def sharp_params() -> dict:
    """Makes a model whose texts tell what it has read: its letters' logits are far apart."""
    params = jax.tree.map(np.copy, quiet_params(CONFIG))
    params["output"][: Letters.end] *= 20
    return params


@pytest.fixture(scope="package")
def engine():
    return make_engine(rows=ROWS, params=sharp_params())


def make_service(engine, folder=None, **limits) -> Service:
    taken = Limits(**{"rows": ROWS, "waiting": 8} | limits)
    return Service(engine, Worker(engine), Store(engine, folder, taken), taken, "tiny")


@contextlib.contextmanager
def client_of(engine, folder=None, *, keys=(), local=False, **limits):
    """A client of a new server. All it kept in memory is gone with it."""
    service = make_service(engine, folder, **limits)
    with TestClient(make_app(service, keys, local=local)) as client:
        client.service = service
        yield client
    service.store.close()


@pytest.fixture
def client(engine):
    with client_of(engine) as client:
        yield client
        # whatever a test did, all rows are free after it
        assert engine.traffic == (0, 0) and client.service.streams == 0
