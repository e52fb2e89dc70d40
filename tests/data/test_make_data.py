"""The door of the data room: text or synthetic, resumed at any step, on any number of processes."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rmat_jax.config import IGNORE, Config, DataConfig, RMATConfig
from rmat_jax.data import make_data
from rmat_jax.data.lanes import FIELDS


@pytest.fixture
def config(tmp_path, random_documents):
    (tmp_path / "text").mkdir()
    for i, document in enumerate(random_documents([200 + 10 * i for i in range(20)])):
        (tmp_path / "text" / f"{i}.txt").write_bytes(document)
    model = RMATConfig(chunk_len=16)
    data = DataConfig(path=str(tmp_path / "text"), heldout_fraction=0.2, format="text")
    return Config(
        model=model, data=data, batch_size=4, chunks_per_step=2, eval_tokens=400, eval_batch_size=4
    )


def assert_equal(left, right):
    for name in FIELDS:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_resumed_batches_are_those_of_the_run_that_went_on(tmp_path, config):
    data = make_data(config, tmp_path / "run")
    run = list(itertools.islice(data.train.batches(), 60))
    resumed = make_data(config, tmp_path / "run").train.batches(start_step=37)
    for step in range(37, 60):
        assert_equal(run[step], next(resumed))
    assert (run[36]["tokens"] != run[37]["tokens"]).any()
    assert_equal(next(data.train.batches(10**12)), data.train.lanes[10**12])


def test_processes_together_read_the_global_batch(tmp_path, config):
    whole = make_data(config, tmp_path / "run")
    parts = [make_data(config, tmp_path / "run", rows) for rows in ([0, 2], [1, 3])]
    batches = [part.train.lanes[2] for part in parts]
    joined = {
        name: np.stack([batch[name] for batch in batches], axis=1).reshape(4, -1) for name in FIELDS
    }
    assert_equal(joined, whole.train.lanes[2])
    # which everybody reads whole
    assert_equal(parts[0].heldout[2], whole.heldout[2])


def test_summary_counts_what_is_read(tmp_path, config):
    data = make_data(config, tmp_path / "run")
    train, heldout = (list(side()) for side in (data.source.train, data.source.heldout))
    assert len(train) + len(heldout) == 20 and len(heldout) > 1
    for side in (train, heldout):
        size = sum(map(len, side))
        assert (
            f"{len(side)} documents, {size + len(side):,} tokens, {size:,} bytes" in data.describe
        )
    assert "\n" not in data.describe and config.data.path in data.describe
    assert sum((batch["targets"] != IGNORE).sum() for batch in data.heldout) <= 400
    assert all(any(text in document for document in heldout) for text in data.heldout.texts())


def test_restart_reads_nothing_again_and_byte_pairs_are_kept(tmp_path, config, monkeypatch):
    config = replace(config, model=RMATConfig(vocab_size=300, chunk_len=16))
    config = replace(config, data=replace(config.data, tokenizer="bpe"))
    data = make_data(config, tmp_path / "run")
    read_again = "rmat_jax.data.formats.documents"
    monkeypatch.setattr(read_again, lambda *_, **__: pytest.fail("read again"))
    again = make_data(config, tmp_path / "run")
    assert again.describe == data.describe and again.tokenizer.describe == data.tokenizer.describe
    assert_equal(again.train.lanes[5], data.train.lanes[5])
    with pytest.raises(pytest.fail.Exception):
        make_data(config, tmp_path / "another run")


def test_recall_has_no_text_and_asks_at_least_once(tmp_path, config):
    config = replace(
        config, data=DataConfig(synthetic="recall", recall_pairs=2, recall_gap=30), eval_tokens=1
    )
    data = make_data(config, tmp_path / "run")
    assert data.tokenizer is data.source is data.heldout.num_bytes is None
    assert not (tmp_path / "run").exists()
    assert sum((batch["targets"] != IGNORE).sum() for batch in data.heldout) == 4 * 2
    assert_equal(next(data.train.batches(7)), data.train.lanes[7])


def test_unfinished_iterator_does_not_keep_the_process_alive():
    code = (
        "from rmat_jax.config import *; from rmat_jax.data import make_data\n"
        "config = Config(data=DataConfig(synthetic='recall'))\n"
        "batches = make_data(config, 'unused').train.batches(); next(batches)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_heavy_packages_are_imported_only_when_needed():
    code = (
        "import sys, rmat_jax.data\n"
        "print({'jax', 'grain', 'tokenizers', 'tensorflow_datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
    # the control
    done = subprocess.run(
        [sys.executable, "-c", code.replace("sys, ", "sys, grain, ")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "grain" in done.stdout
