"""Runs the text tasks of the lm-evaluation-harness on a model of this project.

    python -m rmat_jax.interop.harness --model rmat --model_args workdir=runs/mine --tasks NAME

This is the harness' own command with one more model, so it takes the harness' arguments. `workdir`
is as in `generate`, and may be left out; `rows` is the number of texts that are read at a time.
Texts of any length are read whole, at constant memory: none is cut, and no window slides.

docs/export.md has an example with a task of your own.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from rmat_jax.errors import UserError
from rmat_jax.infer.engine import Engine
from rmat_jax.interop.trained import load_trained
from rmat_jax.model import RMAT
from rmat_jax.progress import Progress, say

# the length of a text, where a task sets none
MAX_NEW_TOKENS = 256


@register_model("rmat")
class Harness(TemplateLM):
    """Answers the harness' three kinds of requests with an engine."""

    def __init__(self, workdir: str | None = None, rows: int = 8, **unused: Any):
        """Loads the weights.

        Args:
            workdir: as `load_trained` takes it.
            rows: the number of texts that are read at a time.
            unused: what the harness passes to all models, such as a batch size and a device.

        Raises:
            UserError: there are no weights, or `rows` is below 1.
        """
        super().__init__()
        found = load_trained(workdir)
        model, tokenizer = RMAT(found.config.model), found.tokenizer()
        self.engine = Engine(model, found.params, tokenizer, rows=rows, prompts=rows)

    @property
    def eot_token_id(self) -> int:
        """Returns the token that ends a document, and stands before its first."""
        return self.engine.tokenizer.end

    def tok_encode(self, string: str, *unused: Any, **unused_too: Any) -> list[int]:
        """Turns text into token ids, without the end of the document."""
        return self.engine.encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
    ) -> list[tuple[float, bool]]:
        """Computes what each continuation costs after its context, which is read once."""
        asked = [(self._inside(context), text) for _, context, text in requests]
        order = sorted(range(len(asked)), key=lambda index: asked[index])
        found: dict[int, tuple[float, bool]] = {}
        for part in self._parts(order, "continuations"):
            contexts = {tuple(asked[index][0]) for index in part}
            sessions = {context: self.engine.open(context) for context in contexts}
            costs = self.engine.costs(
                [(sessions[tuple(asked[index][0])], asked[index][1]) for index in part]
            )
            found |= {
                index: (-cost.total, bool(cost.correct.all()))
                for index, cost in zip(part, costs, strict=True)
            }
        return [found[index] for index in range(len(asked))]

    def loglikelihood_rolling(self, requests: list[Instance], **unused: Any) -> list[float]:
        """Computes what each text costs as a document of its own, with its end, as in `score`."""
        texts = [[*self.tok_encode(request.args[0]), self.eot_token_id] for request in requests]
        # Sorted by length, so that short texts do not wait for long ones.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found: dict[int, float] = {}
        for part in self._parts(order, "documents"):
            start = self.engine.open()
            costs = self.engine.costs([(start, texts[index]) for index in part])
            found |= {index: -cost.total for index, cost in zip(part, costs, strict=True)}
        return [found[index] for index in range(len(texts))]

    def generate_until(self, requests: list[Instance], **unused: Any) -> list[str]:
        """Goes on with each context, all rows together, up to one of the task's stop sequences."""
        found: list[str] = []
        for part in self._parts(range(len(requests)), "texts"):
            writing = []
            for index in part:
                context, how = requests[index].args
                writing.append(self.engine.open(context).write(**sampling(how)))
            found += ["".join(pieces) for pieces in writing]
        return found

    def _inside(self, context: list[int]) -> list[int]:
        """The context without the end token, with which each session begins anyway."""
        return context[1:] if context[:1] == [self.eot_token_id] else context

    def _parts(self, order: Sequence[int], what: str) -> Iterator[Sequence[int]]:
        """Cuts an order into parts of as many texts as there are rows, and shows progress."""
        progress, size = Progress(), self.engine.prompts
        for start in range(0, len(order), size):
            yield order[start : start + size]
            if progress.due():
                say(f"  {min(start + size, len(order)):,} of {len(order):,} {what}")


def sampling(how: dict[str, Any]) -> dict[str, Any]:
    """The rules of `Sampling` for a task's `generation_kwargs`. Greedy unless the task samples."""
    stop = how.get("until") or []
    sampled = how.get("do_sample", how.get("temperature", 0) > 0)
    names = ("temperature", "top_k", "top_p", "seed") if sampled else ()
    return {
        "max_new_tokens": how.get("max_gen_toks", MAX_NEW_TOKENS),
        "stop": [stop] if isinstance(stop, str) else stop,
        "temperature": 1.0 if sampled else 0.0,
        **{name: how[name] for name in names if name in how},
    }


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except UserError as error:
        sys.exit(f"error: {error}")
