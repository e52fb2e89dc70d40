"""Writes a folder for the model hub, which the transformers library loads without JAX and without
this package.

    config.json, generation_config.json       settings, under the library's names and under ours
    model.safetensors                         the file of weights that `export` also writes alone
    tokenizer.json, tokenizer_config.json     none for a model without text
    modeling_rmat.py, configuration_rmat.py   the model
    reference.py, config.py, errors.py        the files that the model imports
    README.md                                 the model card; see `card.py`

The Python files are those of this package, with relative imports of each other.
"""

import json
import re
from pathlib import Path
from typing import Any

from rmat_jax.config import Config, to_saved
from rmat_jax.data.tokenizer import END, LETTERS, ByteTokenizer, Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.files import make_folder, write_whole
from rmat_jax.interop.card import model_card
from rmat_jax.interop.convert import read_run
from rmat_jax.interop.weights import IN_FOLDER, KIND
from rmat_jax.train.metrics import read_metrics

# the files of this package with the model and all that it imports
SOURCES = (
    "interop/modeling_rmat.py",
    "interop/configuration_rmat.py",
    "interop/reference.py",
    "config.py",
    "errors.py",
)
# the file of a sentencepiece model
MODEL = "tokenizer.model"


def export_folder(
    workdir: Path, folder: Path, dtype: str | None = None, step: int | str | None = None
) -> str:
    """Writes a checkpoint of a run as a folder for the hub.

    Args:
        workdir: the run's folder.
        folder: made if need be. Its files of the same names are replaced, `config.json` last.
        dtype: as `write_weights` takes it; None: that of the parameters.
        step: the checkpoint's step; None: the newest good one; "best": the lowest held-out loss.

    Returns:
        A line that says what was written.

    Raises:
        UserError: there is no checkpoint or no such step, no tokenizer where the config needs one,
            or the folder is a run's or cannot be written.
    """
    if (folder / "checkpoints").exists():
        raise UserError(f"--out={folder} is the workdir of a run; choose another folder")
    run = read_run(workdir, step)
    make_folder(folder)
    # the transformers library reads only files with its own word as `format`
    told = run.write(folder / IN_FOLDER, dtype, format="pt", kind=KIND)
    for name in SOURCES:
        write_whole(folder / Path(name).name, standalone(name))
    end = None
    if not run.config.data.synthetic:
        end = _write_tokenizer(run.tokenizer, folder)
    ends = {} if end is None else dict.fromkeys(("bos", "eos", "pad"), end)
    ends = {f"{name}_token_id": index for name, index in ends.items()}
    _write_json(folder / "generation_config.json", ends)
    records = read_metrics(workdir)
    card = model_card(run.config, folder, run.step, records, run.tensors, dtype)
    write_whole(folder / "README.md", card)
    saved = dtype or run.config.model.param_dtype
    _write_json(folder / "config.json", _config(run.config, saved) | ends)
    return f"{folder}/: {told}"


def _write_tokenizer(tokenizer: Tokenizer | None, folder: Path) -> int:
    """Writes the files of a tokenizer, and returns the id that ends a document.

    A sentencepiece model stays as it is, without a config: the class of the library that reads it
    depends on its maker.
    """
    files = {} if tokenizer is None else tokenizer.files()
    if MODEL in files:
        write_whole(folder / MODEL, files[MODEL])
        return tokenizer.end
    spec = json.loads(files["tokenizer.json"]) if files else byte_tokenizer()
    end = ByteTokenizer.end if tokenizer is None else tokenizer.end
    spelling = _with_end(spec, end)
    _write_json(folder / "tokenizer.json", spec)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(spelling))
    return end


def standalone(name: str) -> str:
    """The text of a file of this package, with relative imports."""
    text = (Path(__file__).parent.parent / name).read_text("utf-8")
    return re.sub(r"^from rmat_jax\.(?:\w+\.)*(\w+) import", r"from .\1 import", text, flags=re.M)


def _config(config: Config, dtype: str) -> dict[str, Any]:
    model = "modeling_rmat.RMATForCausalLM"
    return {
        "architectures": ["RMATForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_rmat.RMATHubConfig",
            "AutoModelForCausalLM": model,
        },
        "model_type": "rmat",
        "dtype": dtype,
        # the name in versions before 4.56
        "torch_dtype": dtype,
        "vocab_size": config.model.vocab_size,
        "hidden_size": config.model.width,
        "num_hidden_layers": config.model.num_layers,
        "num_attention_heads": config.model.num_heads,
        "tie_word_embeddings": False,
        "rmat": to_saved(config.model),
    }


def byte_tokenizer() -> dict[str, Any]:
    """The JSON of a tokenizer whose ids are the bytes, for the tokenizers library."""
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    vocabulary = {letter: byte for byte, letter in enumerate(LETTERS)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": bytewise | {"use_regex": False},
        "post_processor": None,
        "decoder": bytewise | {"use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def _with_end(tokenizer: dict[str, Any], end: int) -> str:
    """Adds the end token to the JSON of a tokenizer, and lets every text begin with it, as a
    session does. Returns the token's spelling.
    """
    added = tokenizer.setdefault("added_tokens", [])
    known = [token["content"] for token in added if token["id"] == end]
    known += [text for text, index in _vocabulary(tokenizer).items() if index == end]
    spelling = known[0] if known else END
    if not known:
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added.append({"id": end, "content": spelling, **plain, "special": True})
    start = {"SpecialToken": {"id": spelling, "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, texts[0]],
        "pair": [start, texts[0], start, texts[1]],
        "special_tokens": {spelling: {"id": spelling, "ids": [end], "tokens": [spelling]}},
    }
    return spelling


def _vocabulary(tokenizer: dict[str, Any]) -> dict[str, int]:
    found = tokenizer["model"].get("vocab", {})
    return found if isinstance(found, dict) else {}


def _tokenizer_config(end: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _write_json(file: Path, values: dict[str, Any]) -> None:
    write_whole(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
