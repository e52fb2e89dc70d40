"""A folder for the hub: it explains itself, needs neither JAX nor this package, and the model in it
is the one that was trained.
"""

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from rmat_jax import commands, flags
from rmat_jax.commands.export import _folder_or_file
from rmat_jax.data.tokenizer import BPETokenizer
from rmat_jax.digests import digests
from rmat_jax.errors import UserError
from rmat_jax.infer import open_chunk
from rmat_jax.interop.hub import SOURCES, _with_end, export_folder, standalone
from rmat_jax.interop.weights import read_weights
from rmat_jax.runs import load_engine
from rmat_jax.train.checkpoint import restore_params
from tests.train.test_resume import CONFIG, ROOT, small_flags

PROMPT = "A line of text, and ä more. "


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
    """The export of a run, under a name that a module can have."""
    folder = tmp_path_factory.mktemp("exported") / "hub"
    export_folder(workdir, folder)
    return folder


def logits_of(engine, tokens):
    """[T, V], by the code that streams."""
    c = engine.model.config
    state = open_chunk.initial_state(c, 1)
    x_BTD, _ = open_chunk.read(c, engine.params, state, np.array([tokens], np.int32))
    return np.asarray(open_chunk.logits(c, engine.params, x_BTD))[0]


def foreign(source: str) -> set[str]:
    """The packages that a file imports and that are neither Python's nor beside it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def test_its_code_needs_pytorch_and_transformers_alone():
    used = {name: foreign(standalone(name)) for name in SOURCES}
    assert set().union(*used.values()) == {"torch", "transformers"}
    assert used["interop/reference.py"] == {"torch"} and not used["config.py"]
    # the control: as they stand here they import this package
    assert all(
        "rmat_jax" in foreign((ROOT / "rmat_jax" / name).read_text())
        for name in SOURCES
        if name != "errors.py"
    )
    beside = {name.rpartition("/")[2] for name in SOURCES}
    relative = {
        f"{node.module}.py"
        for name in SOURCES
        for node in ast.walk(ast.parse(standalone(name)))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert relative == beside - {"modeling_rmat.py"}


ALONE = """
import json, sys
sys.modules.update(dict.fromkeys(["jax", "jaxlib", "flax", "rmat_jax"]))
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file
from hub.config import RMATConfig, from_saved
from hub.reference import RMAT
settings = json.load(open(sys.argv[1] + "/hub/config.json"))["rmat"]
model = RMAT(from_saved(RMATConfig, settings, "config.json"))
model.eval().load_state_dict(load_file(sys.argv[1] + "/hub/model.safetensors"))
with torch.no_grad():
    print(json.dumps(model(torch.tensor([json.loads(sys.argv[2])]))[0][0].tolist()))
"""


def test_its_model_is_the_trained_one_where_neither_jax_nor_this_package_is(folder, workdir):
    tokens = [256, *PROMPT.encode() * 3]
    command = [sys.executable, "-c", ALONE, str(folder.parent), json.dumps(tokens)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, expected = np.array(json.loads(run.stdout)), logits_of(load_engine(workdir), tokens)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)
    # the control: another text
    assert np.abs(found[1:] - expected[:-1]).max() > 0.01 * largest


@pytest.mark.parametrize("text", ["", PROMPT, "日本語 🙂\r\n\t\x00", "<|endoftext|x", " \u00a0a"])
def test_its_tokenizer_spells_bytes(folder, text):
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = library.encode(text).ids
    assert ids == [256, *text.encode()]
    assert library.decode(ids) == text
    assert library.get_vocab_size() == 257


def test_the_end_stands_behind_the_pairs_of_a_trained_tokenizer():
    ours = BPETokenizer.train(iter([PROMPT.encode("ascii", "ignore") * 50]), 300)
    described = json.loads(ours.files()["tokenizer.json"])
    assert _with_end(described, ours.end) == "<|endoftext|>"
    library = tokenizers.Tokenizer.from_str(json.dumps(described))
    for text in ("A line", "日本語 é\n"):
        assert library.encode(text).ids == [ours.end, *ours.encode(text.encode())]
    # an end that has a spelling keeps it
    assert _with_end(described, ours.end) == "<|endoftext|>"
    assert len(described["added_tokens"]) == 1


def test_the_card_has_the_figures_of_the_run(folder, workdir, tmp_path):
    card = (folder / "README.md").read_text()
    count = sum(x.size for x in read_weights(folder)[1].values())
    assert f"| parameters | {count:,} (float32) |" in card and count > 1000
    assert f"{load_engine(workdir).state_bytes:,} bytes" in card
    assert f"`{workdir.parent / 'text.txt'}`" in card and "| optimiser steps | 1, of" in card
    # what was not measured at this step is not told
    assert "bits per byte" not in card
    shutil.copytree(workdir, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as records:
        for step, bits in ((1, 5.43219), (2, 4.0)):
            line = {"split": "heldout", "step": step, "bits_per_byte": bits}
            records.write(json.dumps(line | {"accuracy": 0.1, "bits_per_token": 5.0}) + "\n")
    export_folder(tmp_path / "run", tmp_path / "hub", "bfloat16")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "| held-out bits per byte | 5.4322 |" in card and f"{count:,} (bfloat16)" in card


def test_the_same_text_from_a_workdir_a_folder_and_a_file(folder, workdir):
    def text(source):
        session = load_engine(source, rows=1).open(PROMPT)
        return "".join(session.write(max_new_tokens=20, temperature=0))

    assert text(workdir) == text(folder) == text(folder / "model.safetensors")
    # the control
    assert text(None) != text(workdir)


def test_a_folder_is_imported_and_trained_on(folder, workdir, tmp_path, capsys):
    imported = ["import", f"--workdir={tmp_path / 'run'}", f"--file={folder}"]
    assert commands.main(imported) == 0
    params = [restore_params(x / "checkpoints").params for x in (workdir, tmp_path / "run")]
    assert digests(params[0]) == digests(params[1])
    train = ["train", f"--config={CONFIG}", f"--workdir={tmp_path / 'tuned'}", "--until=1"]
    train += [*small_flags(workdir.parent / "text.txt"), f"--init_from={folder}"]
    assert commands.main(train) == 0
    assert "step 1 there, step 0 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "is_folder"),
    [("out/x", True), ("out/v1.5/", True), ("x.safetensors", False), ("v1.5", False)],
)
def test_a_path_without_a_suffix_is_a_folder(typed, is_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _folder_or_file(typed)[1] == is_folder
    # one that is there is what it is
    (tmp_path / "v1.5").mkdir()
    assert _folder_or_file("v1.5")[1]


def test_export_says_what_it_wrote_and_spares_a_run(workdir, tmp_path, capsys):
    out = tmp_path / "new" / "hub"
    assert commands.main(["export", f"--workdir={workdir}", f"--out={out}"]) == 0
    assert capsys.readouterr().out.startswith(f"written: {out}/: ")
    assert {"config.json", "README.md", "tokenizer.json"} < {x.name for x in out.iterdir()}
    before = {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}
    with pytest.raises(UserError, match="is the workdir of a run; choose another folder"):
        export_folder(workdir, workdir)
    (tmp_path / "file").touch()
    bad = ["export", f"--workdir={workdir}", f"--out={tmp_path / 'file' / 'x'}/"]
    assert flags.run(lambda: commands.main(bad)) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}


@pytest.fixture
def loaded(folder, monkeypatch, tmp_path):
    """The model and the tokenizer as the transformers library loads them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    transformers = pytest.importorskip("transformers")
    autos = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
    return [auto.from_pretrained(str(folder), trust_remote_code=True) for auto in autos]


@pytest.mark.filterwarnings("default")
def test_transformers_writes_what_the_engine_writes(loaded, workdir):
    import torch

    model, tokenizer = loaded
    engine = load_engine(workdir, rows=1)
    length = 3 * engine.model.config.chunk_len + 5
    expected = "".join(engine.open(PROMPT).write(max_new_tokens=length, temperature=0))
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=length, do_sample=False)
    assert tokenizer.decode(made[0], skip_special_tokens=True) == PROMPT + expected

    with torch.no_grad():
        whole, state, parts = model(ids).logits, None, []
        for place in range(ids.shape[1]):
            out = model(ids[:, place : place + 1], past_key_values=state)
            state = out.get("cache", out.get("past_key_values"))
            parts.append(out.logits)
    assert state.get_seq_length() == ids.shape[1]
    largest = float(whole.abs().max())
    assert float((torch.cat(parts, dim=1) - whole).abs().max()) < 1e-5 * largest
    # two rows at once are each as they are alone
    two = torch.cat([ids, ids.flip(1)])
    both = model.generate(two, max_new_tokens=9, do_sample=False)
    assert torch.equal(both[0], made[0, : both.shape[1]])
    alone = model.generate(two[1:], max_new_tokens=9, do_sample=False)
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], both[1])
    mask = torch.ones_like(two).index_fill_(1, torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="rows of a batch must be equally long"):
        model(two, attention_mask=mask)


@pytest.mark.filterwarnings("default")
def test_an_end_token_begins_a_new_document(loaded):
    import torch

    model, tokenizer = loaded
    ids = tokenizer(PROMPT * 3, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        alone, after = model(ids).logits, model(torch.cat([ids.flip(1)[:, :7], ids], dim=1)).logits
        inside = model(torch.cat([ids.flip(1)[:, :7], ids[:, 1:]], dim=1)).logits
    # before the chunk's border, where the place in the chunk says nothing yet
    assert torch.allclose(alone[:, :5], after[:, 7:12], atol=1e-4)
    # the control: without the end token what was read before is seen
    assert not torch.allclose(alone[:, 1:5], inside[:, 7:11], atol=1e-3)
