"""Answers `/v1/responses`: texts that go on from one another, each at the same cost.

A stored response is a session that does not change. `previous_response_id` forks it, so that
several answers may go on from one.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from rmat_jax.errors import UserError
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.session import Session
from rmat_jax.serve.bodies import Fields, read_fields, wrong
from rmat_jax.serve.completions import event, sampling
from rmat_jax.serve.limits import Limits
from rmat_jax.serve.refusals import Json, Refusal, ending, of_user_error
from rmat_jax.serve.service import Answer, Events, Service, while_there
from rmat_jax.serve.store import Kept, new_id

KNOWN = "POST /v1/responses takes the fields in docs/serving.md"
HARMLESS: dict[str, Sequence[Any]] = {
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "truncation": ("disabled",),
    "text": ({"format": {"type": "text"}},),
    "include": ([],),
    "background": (False,),
    "service_tier": ("auto", "default"),
}
# the most tokens of a text, where the request does not say
MAX_TOKENS = 256
METADATA_BYTES = 16 << 10


class Asked(NamedTuple):
    """Holds the fields of a request."""

    model: str | None
    text: str
    previous: str | None
    rules: Sampling
    store: bool
    stream: bool
    metadata: dict


def asked_for(fields: Fields, limits: Limits) -> Asked:
    """Reads the fields of a request. Raises Refusal, 400, which names the field."""
    asked = Asked(
        fields.text("model"),
        _text(fields.take("input", "")),
        fields.text("previous_response_id"),
        sampling(fields, "max_output_tokens", min(MAX_TOKENS, limits.answer_tokens), limits),
        fields.flag("store", True),
        fields.flag("stream"),
        fields.take("metadata", {}),
    )
    if not isinstance(asked.metadata, dict) or len(repr(asked.metadata)) > METADATA_BYTES:
        rule = f"must be an object of at most {METADATA_BYTES:,} characters"
        raise wrong("metadata", asked.metadata, rule)
    fields.text("user")
    fields.end(HARMLESS, KNOWN)
    return asked


def _text(value: Any) -> str:
    """Returns the input's text, which is a text or messages of the user."""
    if isinstance(value, str):
        return value
    rule = "must be a text, or messages of the role user that hold text"
    if not isinstance(value, list):
        raise wrong("input", value, rule)
    found = []
    for item in value:
        if not isinstance(item, dict) or item.get("type", "message") != "message":
            raise wrong("input", item, rule)
        if item.get("role") != "user":
            rule = "is no role that the model knows: it has no template; write roles into the text"
            raise wrong("input.role", item.get("role"), rule)
        content = item.get("content")
        parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else [None]:
            is_text = isinstance(part, dict) and part.get("type") == "input_text"
            if not is_text or not isinstance(part.get("text"), str):
                raise wrong("input.content", part, rule)
            found.append(part["text"])
    return "".join(found)


async def create(request: Request) -> Response:
    """Answers `POST /v1/responses`."""
    service: Service = request.app.state.service
    asked = asked_for(await read_fields(request, service.limits.body_bytes), service.limits)
    service.check_model(asked.model)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(service.admitted(1))
        tokens = await service.encode(asked.text, "input", first=asked.previous is None)
        if asked.previous is None:
            session = service.engine.open(tokens)
        else:
            session = (await service.store.find(asked.previous)).session.fork()
            session.read(tokens)
        stack.callback(service.worker.drop, [session])
        service.metrics.read.inc(len(tokens))
        writing = _Writing(service, asked, session, len(tokens))
        if asked.stream:
            return Events(writing.events(), stack.pop_all())
        return Json(await while_there(request, writing.whole()))


async def retrieve(request: Request) -> Response:
    """Answers `GET /v1/responses/{id}`."""
    service: Service = request.app.state.service
    return Json((await service.store.find(request.path_params["id"])).record)


async def delete(request: Request) -> Response:
    """Answers `DELETE /v1/responses/{id}`. Responses that went on from it stay."""
    service: Service = request.app.state.service
    name = request.path_params["id"]
    await service.store.delete(name)
    return Json({"id": name, "object": "response", "deleted": True})


class _Writing:
    """Writes one response."""

    def __init__(self, service: Service, asked: Asked, session: Session, read: int):
        self._service, self._asked, self._session, self._read = service, asked, session, read
        self._item = f"msg_{secrets.token_hex(16)}"
        rules = asked.rules
        self.record: dict[str, Any] = {
            "id": new_id(),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": rules.max_new_tokens,
            "metadata": asked.metadata,
            "model": service.name,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": asked.previous,
            "store": asked.store,
            "temperature": rules.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": rules.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _texts(self) -> AsyncIterator[tuple[int, str, Answer, bool]]:
        return self._service.write([self._session], 1, [self._asked.rules])

    async def whole(self) -> dict:
        """Writes the response to its end, and returns it."""
        texts = self._texts()
        async with contextlib.aclosing(texts):
            async for _, _, answer, over in texts:
                if over:
                    await self._end(answer)
        return self.record

    async def events(self) -> AsyncIterator[str]:
        """Yields the events that OpenAI's clients expect."""
        number = -1

        def tell(kind: str, **content) -> str:
            nonlocal number
            number += 1
            return event({"type": kind, "sequence_number": number} | content, kind)

        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        yield tell("response.created", response=self.record)
        yield tell("response.in_progress", response=self.record)
        item = self._message("in_progress", [])
        yield tell("response.output_item.added", output_index=0, item=item)
        yield tell("response.content_part.added", **place, part=_part(""))
        texts = self._texts()
        try:
            async with contextlib.aclosing(texts):
                async for _, text, answer, over in texts:
                    if text:
                        yield tell("response.output_text.delta", **place, delta=text, logprobs=[])
                    if over:
                        await self._end(answer)
        except (Refusal, UserError) as error:
            refusal = error if isinstance(error, Refusal) else of_user_error(error)
            told = {"code": "server_error", "message": refusal.content()["error"]["message"]}
            self.record |= {"status": "failed", "error": told}
            yield tell("response.failed", response=self.record)
            return
        (item,) = self.record["output"]
        (part,) = item["content"]
        yield tell("response.output_text.done", **place, text=part["text"], logprobs=[])
        yield tell("response.content_part.done", **place, part=part)
        yield tell("response.output_item.done", output_index=0, item=item)
        yield tell(f"response.{self.record['status']}", response=self.record)

    async def _end(self, answer: Answer) -> None:
        """Completes the record, and keeps the session."""
        if answer.cut and answer.session.ticket.unread:
            # nothing is written yet, and to read the rest takes too long
            raise ending()
        session = await self._service.worker.do(answer.session.fork)
        why = {"length": "max_output_tokens", "given up": "server_ending"}.get(answer.job.ended)
        status, written = "incomplete" if why else "completed", len(answer.tokens)
        self.record |= {
            "status": status,
            "incomplete_details": {"reason": why} if why else None,
            "output": [self._message(status, [_part(answer.text)])],
            "usage": {
                "input_tokens": self._read,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._read + written,
            },
            "session": {"tokens": session.tokens, "state_bytes": session.state_bytes},
        }
        if self._asked.store:
            await self._service.store.keep(self.record["id"], Kept(session, self.record))

    def _message(self, status: str, content: list) -> dict:
        return {
            "id": self._item,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


def _part(text: str) -> dict:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
