"""A text to train on, and train steps that are compiled once."""

import dataclasses

import pytest

from rmat_jax.config import DataConfig, LogConfig
from rmat_jax.train import parallel


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A line of text, and another.\n" * 400)
    return path


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs of this process share the train step of their mesh, whatever they read or log."""
    made, make = {}, parallel.make_train_step

    def make_once(config, optimizer, mesh):
        key = (
            dataclasses.replace(config, log=LogConfig(), data=DataConfig()),
            mesh,
            parallel.train_step,
        )
        if key not in made:
            made[key] = make(config, optimizer, mesh)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make_train_step", make_once)
        yield
