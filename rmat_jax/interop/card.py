"""The model card of an exported folder: how the model was trained, its figures, how to load it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmat_jax.config import Config, DataConfig, to_dict
from rmat_jax.infer import open_chunk

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- rmat
- jax
- pytorch
- recurrent-memory
---

# {name}

A Recurrent Memory-Augmented Transformer with Chunked Attention
([arXiv 2507.00453](https://arxiv.org/abs/2507.00453)), trained with rmat_jax. It reads and writes
streams of any length, and its state has a fixed size.

| | |
|---|---|
{facts}

## Load it

{loading}

Rows of a batch must be equally long, since there is no padding. An end token begins a new document.

## Settings

```json
{settings}
```
"""
TEXT = """\
With rmat_jax (JAX):

```python
from rmat_jax import load_engine
session = load_engine("{place}", rows=1).open("{prompt}")
print("".join(session.write(max_new_tokens=200, temperature=0)))
```

With transformers (PyTorch), which needs neither JAX nor rmat_jax:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = (x.from_pretrained("{place}", trust_remote_code=True)
                    for x in (AutoTokenizer, AutoModelForCausalLM))
prompt = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=200)[0]))
```"""
IDS = """\
The model reads token ids, not text.

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{place}", trust_remote_code=True)
```"""


def model_card(
    config: Config,
    folder: Path,
    step: int,
    records: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray],
    dtype: str | None,
) -> str:
    """Returns the card.

    Args:
        config: the run's config.
        folder: the folder of the card.
        step: the step of the weights.
        records: the lines of the run's metrics.jsonl; figures that they lack are left out.
        tensors: the weights.
        dtype: the type in which they are written; None: that of the parameters.
    """
    state = jax.eval_shape(lambda: open_chunk.initial_state(config.model, 1))
    count = sum(x.size for x in tensors.values())
    facts = {
        "parameters": f"{count:,} ({dtype or config.model.param_dtype})",
        "state of a stream": f"{state.num_bytes():,} bytes, whatever it has read",
        "data": _data(config.data),
        "tokenizer": config.data.tokenizer if not config.data.synthetic else "none",
        "optimiser steps": f"{step:,}, of {config.batch_size * config.segment_len:,} tokens each",
        **_heldout(records, step),
    }
    loading = IDS if config.data.synthetic else TEXT
    # names are text that may hold anything
    rows = (f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in facts.items())
    prompt = config.log.sample_prompt or "The "
    return CARD.format(
        name=folder.resolve().name,
        facts="\n".join(rows),
        loading=loading.format(place=folder, prompt=json.dumps(prompt)[1:-1]),
        settings=json.dumps(to_dict(config), indent=1),
    )


def _data(data: DataConfig) -> str:
    """The training data, as the run names it."""
    named = data.path or data.tfds or data.synthetic
    return f"`{named}`" if named else "the Python standard library's source code"


def _heldout(records: Sequence[Mapping[str, Any]], step: int) -> dict[str, str]:
    """The last measurement on held-out text, if it was made at this step."""
    found = [r for r in records if r["split"] == "heldout" and r["step"] == step]
    names = {
        "bits_per_byte": "held-out bits per byte",
        "bits_per_byte_without_memory": "the same with the memory emptied before each chunk",
        "bits_per_token": "held-out bits per token",
        "accuracy": "held-out accuracy",
    }
    return {
        text: f"{found[-1][key]:.4f}" for key, text in names.items() if found and key in found[-1]
    }
