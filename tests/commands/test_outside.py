"""A run with a tokenizer of another program trains, goes on, writes, scores and is exported."""

import io
import json

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

from rmat_jax import flags, runs  # noqa: E402
from rmat_jax.commands.generate import generate  # noqa: E402
from rmat_jax.commands.score import score_files  # noqa: E402
from rmat_jax.data import make_data  # noqa: E402
from rmat_jax.data.tokenizer_files import follow_tokenizer, open_tokenizer  # noqa: E402
from rmat_jax.errors import UserError  # noqa: E402
from rmat_jax.interop import convert  # noqa: E402
from rmat_jax.interop.convert import export_weights, import_run, import_weights  # noqa: E402
from rmat_jax.interop.layout import random_weights  # noqa: E402
from rmat_jax.interop.weights import write_weights  # noqa: E402
from rmat_jax.train import loop  # noqa: E402
from tests import outside  # noqa: E402
from tests.test_bad_input import assert_one_line, run  # noqa: E402, F401
from tests.train.test_resume import CONFIG, small_flags  # noqa: E402

SCORED = "the  quick fox 日本 ☃"
TEXT = "\n".join(outside.TEXT) * 4


def config(folder, tokenizer, *more):
    text = folder / "text.txt"
    text.write_text(TEXT)
    options = [f"--config.data.tokenizer={tokenizer}", "--config.model.num_layers=1", *more]
    return flags.load_config(CONFIG, [*small_flags(text), "--config.batch_size=2", *options])


@pytest.mark.parametrize("kind", ["gpt2", "wordpiece", "sentencepiece"])
def test_a_run_writes_and_scores(kind, tmp_path, capsys):
    source = outside.write(tmp_path / "source", kind)
    tokenizer = open_tokenizer(str(source))
    # the same programs for all
    loop.run(config(tmp_path, source, "--config.model.vocab_size=640"), tmp_path / "run", until=2)
    assert "held-out" not in capsys.readouterr().out
    (tmp_path / "source").rename(tmp_path / "moved")

    session = runs.load_engine(tmp_path / "run", rows=1).open("hello fox")
    pieces = [*session.write_pieces(max_new_tokens=40, temperature=5.0, seed=1)]
    ids = [token for piece in pieces for token in piece.tokens.tolist()]
    text = b"".join(piece.text for piece in pieces)
    # as it came = at once
    assert text == tokenizer.decode(ids) and len(ids) > 10
    out = io.BytesIO()
    generate(tmp_path / "run", "hello fox", None, out, max_new_tokens=40, temperature=5.0, seed=1)
    assert out.getvalue() == text
    (tmp_path / "scored").write_text(SCORED)
    scored = io.StringIO()
    score_files(tmp_path / "run", [str(tmp_path / "scored")], scored)
    assert f" {len(SCORED.encode())} bytes" in scored.getvalue()


def test_a_run_keeps_its_tokenizer_and_takes_no_other(tmp_path, capsys):
    source = outside.write(tmp_path / "source", "gpt2")
    tokenizer = open_tokenizer(str(source))
    settings = config(tmp_path, source)
    loop.run(settings, tmp_path / "run", until=1)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["model"]["vocab_size"] == tokenizer.vocab_size
    # it may be gone, or lie elsewhere
    source.rename(tmp_path / "moved")
    data = make_data(follow_tokenizer(settings, tmp_path / "run" / "tokenizer"), tmp_path / "run")
    assert data.identity.endswith(tokenizer.describe)
    loop.run(config(tmp_path, tmp_path / "moved"), tmp_path / "run", until=2)
    assert "resuming from step 1" in capsys.readouterr().out

    # as large, with another end
    other = outside.write(tmp_path / "other", "gpt2")
    (other / "tokenizer_config.json").write_text('{"eos_token": "<|im|>"}')
    kept = {x: x.read_bytes() for x in (tmp_path / "run").rglob("*/*") if x.is_file()}
    for wrong, message in {
        other: "another tokenizer than that of .*/run/tokenizer",
        "bytes": "data.tokenizer was '.*moved', is 'bytes'",
    }.items():
        with pytest.raises(UserError, match=message):
            loop.run(config(tmp_path, wrong), tmp_path / "run", until=3)
    assert kept == {x: x.read_bytes() for x in (tmp_path / "run").rglob("*/*") if x.is_file()}

    file = tmp_path / "weights.safetensors"
    export_weights(tmp_path / "run", file)
    import_weights(tmp_path / "imported", file)
    import_run(tmp_path / "again", tmp_path / "run", config(tmp_path, tmp_path / "moved"))
    for made in ("imported", "again"):
        _, _, found = runs.load_run(tmp_path / made)
        assert (found.describe, found.end) == (tokenizer.describe, tokenizer.end)
    with pytest.raises(UserError, match="another tokenizer than that of .*/run"):
        import_run(tmp_path / "refused", tmp_path / "run", config(tmp_path, other))
    with pytest.raises(UserError, match="another tokenizer than that of .*weights"):
        import_weights(tmp_path / "refused", file, config(tmp_path, other))
    assert not (tmp_path / "refused").exists()


def test_a_file_of_weights_carries_a_sentencepiece_model(tmp_path):
    path = outside.write(tmp_path / "source", "exact")
    made = open_tokenizer(str(path))
    settings = follow_tokenizer(config(tmp_path, path))
    weights = random_weights(settings.model, 0)
    write_weights(tmp_path / "x", settings, weights, **convert.to_metadata(made.files()))
    import_weights(tmp_path / "run", tmp_path / "x")
    kept = tmp_path / "run" / "tokenizer" / "tokenizer.model"
    assert kept.read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="holds something else than rmat_jax writes"):
        write_weights(tmp_path / "y", settings, weights, tokenizer_model="?")
        import_weights(tmp_path / "other", tmp_path / "y")


def test_the_commands_end_in_one_line(run, tmp_path):  # noqa: F811
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "no.model").write_text("none")
    arguments = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *small_flags(text)]
    for name, part in {
        "list.json": "is a JSON list",
        "no.model": "is not a tokenizer",
        "nowhere.model": "does not exist",
    }.items():
        result = run(*arguments, f"--config.data.tokenizer={tmp_path / name}")
        assert_one_line(result, part, name)
    assert not (tmp_path / "run").exists()
