"""Answers `POST /v1/completions`, which goes on with one or more prompts and keeps no session."""

import codecs
import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.infer.sampling import Sampling
from rmat_jax.serve.bodies import Fields, read_fields, wrong
from rmat_jax.serve.limits import STOP_BYTES, STOPS, Limits
from rmat_jax.serve.refusals import Json, Refusal, ending, of_user_error
from rmat_jax.serve.service import Answer, Events, Service, while_there

KNOWN = "POST /v1/completions takes the fields in docs/serving.md"
# Values that change nothing, which many clients send.
HARMLESS: dict[str, Sequence[Any]] = {
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}
# OpenAI's default
MAX_TOKENS = 16
REASONS = {"length": "length", "stop": "stop", "end": "stop"}


class Asked(NamedTuple):
    """Holds the fields of a request."""

    model: str | None
    prompts: list
    # the number of texts for each prompt
    copies: int
    # the rules of each text
    rules: list[Sampling]
    logprobs: bool
    stream: bool
    # whether a last event tells the counts
    counts: bool


def sampling(fields: Fields, most: str, default: int, limits: Limits) -> Sampling:
    """Takes the rules by which a text is written. OpenAI's defaults apply.

    Args:
        fields: the request's fields.
        most: the name of the field that says how many tokens a text may have.
        default: the value of that field if it is missing.
        limits: the server's limits.

    Raises:
        Refusal: a field has another type, or is outside its range.
    """
    seed = fields.whole("seed", None, -(2**63), 2**63 - 1)
    rules = {
        "max_new_tokens": fields.whole(most, default, 1, limits.answer_tokens),
        "temperature": fields.number("temperature", 1.0),
        "top_p": fields.number("top_p", 1.0),
        "top_k": fields.whole("top_k", 0, 0, 2**31 - 1),
        # another text each time, where the request gives no seed
        "seed": random_seed() if seed is None else seed % 2**32,
        "stop": fields.texts("stop", STOPS, STOP_BYTES),
    }
    try:
        return Sampling(**rules)
    except UserError as error:
        raise of_user_error(error) from error


def random_seed() -> int:
    """Draws a seed."""
    return secrets.randbits(32)


def asked_for(fields: Fields, limits: Limits) -> Asked:
    """Reads the fields of a request. Raises Refusal, 400, which names the field."""
    model, prompt = fields.text("model"), fields.take("prompt")
    if prompt is None:
        raise Refusal(400, "prompt is missing; give a text or a list of token ids", param="prompt")
    # a list of ids is one prompt
    many = isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list)
    prompts = prompt if many else [prompt]
    if not all(isinstance(p, str | list) for p in prompts):
        raise wrong("prompt", prompt, "must be a text, token ids, or a list of such")
    copies = fields.whole("n", 1, 1, limits.texts)
    if copies * len(prompts) > limits.texts:
        asks = f"{len(prompts):,} prompts with n={copies} are {copies * len(prompts):,} texts"
        raise Refusal(400, f"{asks}; at most {limits.texts} are possible", param="n")
    seeded = fields.has("seed")
    rules = sampling(fields, "max_tokens", min(MAX_TOKENS, limits.answer_tokens), limits)
    logprobs = fields.take("logprobs")
    # true is 1 in Python
    if logprobs is not None and (logprobs is True or logprobs != 0):
        raise wrong("logprobs", logprobs, "must be 0: only the written tokens have them")
    stream, options = fields.flag("stream"), fields.take("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage"}:
        raise wrong("stream_options", options, "may hold include_usage only")
    counts = Fields(options).flag("include_usage")
    fields.text("user")
    fields.end(HARMLESS, KNOWN)
    # Texts of one prompt differ by their seeds, which do not depend on the other prompts.
    each = [
        dataclasses.replace(rules, seed=(rules.seed + copy) % 2**32 if seeded else random_seed())
        for _ in prompts
        for copy in range(copies)
    ]
    return Asked(
        model, prompts, copies, each, logprobs is not None and logprobs is not False, stream, counts
    )


async def completions(request: Request) -> Response:
    """Answers the request."""
    service: Service = request.app.state.service
    asked = asked_for(await read_fields(request, service.limits.body_bytes), service.limits)
    service.check_model(asked.model)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(service.admitted(len(asked.rules)))
        prompts = [await service.encode(prompt, "prompt") for prompt in asked.prompts]
        sessions = [service.engine.open(tokens) for tokens in prompts]
        stack.callback(service.worker.drop, sessions)
        count = sum(map(len, prompts))
        service.metrics.read.inc(count)
        texts = service.write(sessions, asked.copies, asked.rules)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.name,
        }
        if asked.stream:
            return Events(_events(service, asked, texts, head, count), stack.pop_all())
        content = await while_there(request, _whole(service, asked, texts, head, count))
        return Json(content)


async def _whole(service: Service, asked: Asked, texts, head: dict, count: int) -> dict:
    done: dict[int, Answer] = {}
    async with contextlib.aclosing(texts):
        async for place, _, answer, over in texts:
            if over:
                done[place] = answer
    answers = [done[place] for place in range(len(asked.rules))]
    if any(answer.cut for answer in answers):
        raise ending()
    choices = []
    for place, answer in enumerate(answers):
        found = _Logprobs(service.engine.tokenizer).more(answer) if asked.logprobs else None
        choices.append(_choice(place, answer.text, found, REASONS[answer.job.ended]))
    return head | {"choices": choices, "usage": _usage(answers, count)}


async def _events(
    service: Service, asked: Asked, texts, head: dict, count: int
) -> AsyncIterator[str]:
    """Yields an event for each new piece, and the last events that OpenAI's clients expect."""
    answers: dict[int, Answer] = {}
    logprobs = [_Logprobs(service.engine.tokenizer) for _ in asked.rules]
    try:
        async with contextlib.aclosing(texts):
            async for place, text, answer, over in texts:
                answers[place] = answer
                if over and answer.cut:
                    raise ending()
                found = logprobs[place].more(answer) if asked.logprobs else None
                if text or over or (found and found["tokens"]):
                    reason = REASONS[answer.job.ended] if over else None
                    yield event(head | {"choices": [_choice(place, text, found, reason)]})
    except (Refusal, UserError) as error:
        refusal = error if isinstance(error, Refusal) else of_user_error(error)
        yield event(refusal.content())
        return
    if asked.counts:
        yield event(head | {"choices": [], "usage": _usage(answers.values(), count)})
    yield "data: [DONE]\n\n"


def event(content: dict, name: str = "") -> str:
    """Formats a server-sent event."""
    return f"{f'event: {name}' + chr(10) if name else ''}data: {json.dumps(content)}\n\n"


def _choice(place: int, text: str, logprobs: dict | None, reason: str | None) -> dict:
    return {"index": place, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _usage(answers, count: int) -> dict:
    written = sum(len(answer.tokens) for answer in answers)
    return {
        "prompt_tokens": count,
        "completion_tokens": written,
        "total_tokens": count + written,
    }


class _Logprobs:
    """Gives the log-probabilities of a text's tokens, each once.

    The tokens of a stop sequence are among them.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        # given already: tokens, characters of the text, and the beginning of a character
        self._tokens = self._at = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def more(self, answer: Answer) -> dict:
        """Returns the log-probabilities that have come since the last call."""
        first, self._tokens = self._tokens, len(answer.tokens)
        texts, offsets = [], []
        for token in answer.tokens[first:]:
            data = self._tokenizer.decode([token])
            # Some bytes of a longer character make no character.
            texts.append(data.decode("utf-8", "backslashreplace"))
            offsets.append(self._at)
            self._at += len(self._characters.decode(data))
        return {
            "tokens": texts,
            "token_logprobs": answer.logprobs[first:],
            "top_logprobs": None,
            "text_offset": offsets,
        }
