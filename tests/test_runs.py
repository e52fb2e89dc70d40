"""What a run left is found again, by its workdir alone."""

import pytest

from rmat_jax import runs
from rmat_jax.errors import UserError
from rmat_jax.evals import suite
from rmat_jax.runs import load_engine, load_run


def test_a_run_is_loaded_with_its_model_and_tokenizer(workdir):
    model, params, tokenizer = load_run(str(workdir))
    assert model.config.vocab_size == tokenizer.vocab_size == 257
    assert params["output"].shape == (257, model.config.width)
    engine = load_engine(workdir, rows=1)
    session = engine.open("A line")
    assert len("".join(session.write(max_new_tokens=3, temperature=0))) <= 3


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        load_run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_engine_has_rows(workdir):
    with pytest.raises(UserError, match="rows=0"):
        load_engine(workdir, rows=0)


def test_weights_that_are_no_numbers_are_refused(workdir, monkeypatch):
    restore = runs.restore_params

    def lost(*args):
        found = restore(*args)
        output = found.params["output"].at[3, 1].set(float("nan"))
        return found._replace(params=found.params | {"output": output})

    for module, load in ((runs, load_run), (suite, suite.load_subject)):
        # the control
        load(workdir)
        monkeypatch.setattr(module, "restore_params", lost)
        with pytest.raises(UserError, match="step .* of .*: output holds NaN or infinity; use"):
            load(workdir)
