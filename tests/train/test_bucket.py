"""A run in a bucket, which a local folder stands for: no test has a real one.

What the run asks of `epath` is real. The addresses of Orbax and TensorStore are not.
"""

import importlib.util
import shutil

import pytest
from etils import epath

from rmat_jax import flags
from rmat_jax.errors import UserError
from rmat_jax.train import bucket, loop
from rmat_jax.train.metrics import read_metrics
from tests.train.test_loop import load

ADDRESS = "gs://bucket/run"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder in the bucket's place; this machine's own is in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bucket.Place, "_bucket", epath.Path(tmp_path / "bucket"))
    return tmp_path / "bucket"


def losses(folder):
    return [r["loss"] for r in read_metrics(folder) if r["split"] == "train"]


def test_a_run_goes_on_on_another_machine(text, tmp_path, stand_in, capsys):
    bpe = ["--config.data.tokenizer=bpe", "--config.model.vocab_size=270"]
    config = load(text, "--config.log.save_every=2", *bpe)
    loop.run(config, tmp_path / "here", until=6)
    assert loop.run(config, ADDRESS, until=4) == 0
    assert f"starting in {ADDRESS}" in capsys.readouterr().out
    place = bucket.find(ADDRESS)
    assert (place.folder / "corpus").exists() and not (stand_in / "corpus").exists()
    assert not (place.folder / "checkpoints").exists() and (stand_in / "checkpoints").exists()
    for name in ("config.json", "metrics.jsonl", "tokenizer/tokenizer.json"):
        assert (stand_in / name).read_bytes() == (place.folder / name).read_bytes()
    shutil.rmtree(place.folder)
    assert loop.run(config, ADDRESS, until=6) == 0
    assert f"resuming from step 4 of {ADDRESS}" in capsys.readouterr().out
    assert losses(stand_in) == losses(tmp_path / "here") and len(losses(stand_in)) == 6
    # the control: without the bucket's checkpoints the run does not go on
    shutil.rmtree(stand_in / "checkpoints")
    with pytest.raises(UserError, match="is empty, but step 6 was saved there"):
        loop.run(config, ADDRESS, until=8)


def test_what_cannot_be_sent_costs_one_warning(stand_in, capsys):
    place = bucket.find(ADDRESS)
    place.fetch()
    (place.folder / "metrics.jsonl").write_text("{}\n")
    stand_in.write_text("a file where a folder should be")
    place.send()
    place.send()
    assert capsys.readouterr().err.count("metrics.jsonl cannot be written") == 1


def test_a_bucket_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(
            UserError, match="workdir=gs://b/run takes a package .*gcsfs.*rmat_jax.gcs"
        ):
            bucket.find("gs://b/run").fetch()

    def refuse(self):
        raise PermissionError("no rights\nto it")

    monkeypatch.setattr(bucket.Place, "_bucket", property(refuse))
    with pytest.raises(UserError, match="cannot be read: PermissionError: no rights to it; check"):
        bucket.find("gs://b/run").fetch()


def test_only_training_takes_an_address():
    assert flags.folder_or_bucket(ADDRESS) == ADDRESS
    for text, kind in (("gs://", flags.folder_or_bucket), (ADDRESS, flags.folder)):
        with pytest.raises(Exception, match="names no bucket|copy the folder here"):
            kind(text)
