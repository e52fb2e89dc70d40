"""Answers `/v1/sessions`, the state of a response as a file or a fork, and `/v1/score`."""

import asyncio
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rmat_jax.errors import UserError
from rmat_jax.infer.snapshot import REMEDY
from rmat_jax.serve.bodies import copy_body, read_fields, wrong
from rmat_jax.serve.refusals import Json, Refusal, ending
from rmat_jax.serve.service import Service, while_there
from rmat_jax.serve.store import Kept, new_id

KNOWN = "POST /v1/score takes model and input"
# the most texts of one request to score
TEXTS = 1000


async def look(request: Request) -> Response:
    """Answers `GET /v1/sessions/{id}`."""
    service: Service = request.app.state.service
    name = request.path_params["id"]
    return Json(_told(name, await service.store.find(name)))


async def fork(request: Request) -> Response:
    """Answers `POST /v1/sessions/{id}/fork` with the same session under another name."""
    service: Service = request.app.state.service
    kept = await service.store.find(request.path_params["id"])
    return await _keep(service, Kept(kept.session, kept.record | {"id": new_id()}))


async def download(request: Request) -> Response:
    """Answers `GET /v1/sessions/{id}/state` with the file that `Session.save` writes."""
    service: Service = request.app.state.service
    name = request.path_params["id"]
    kept = await service.store.find(name)
    return Response(
        await asyncio.to_thread(_saved, kept),
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}.safetensors"'},
    )


async def upload(request: Request) -> Response:
    """Answers `POST /v1/sessions`, whose body is such a file. Anybody may have made the file."""
    service: Service = request.app.state.service
    if service.closing:
        raise ending()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        with file.open("wb") as opened:
            await copy_body(request, service.store.file_bytes, opened)
        try:
            session = await asyncio.to_thread(service.store.load, file)
        except UserError as error:
            # the client does not know the file's name
            message = f"{error}".replace(f"{file}", "the body")
            message = message.replace(REMEDY, "send what GET /v1/sessions/{id}/state gives")
            raise Refusal(400, message, code="invalid_session") from error
    record: dict[str, Any] = {
        "id": new_id(),
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": service.name,
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "tool_choice": "none",
        "tools": [],
        "session": {"tokens": session.tokens, "state_bytes": session.state_bytes},
    }
    return await _keep(service, Kept(session, record))


async def score(request: Request) -> Response:
    """Answers `POST /v1/score` with what texts cost as documents, as `rmat score` does."""
    service: Service = request.app.state.service
    fields = await read_fields(request, service.limits.body_bytes)
    service.check_model(fields.text("model"))
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= TEXTS:
        raise wrong("input", given, f"must be a text, or a list of 1 to {TEXTS:,} texts")
    if not all(isinstance(text, str) and text for text in texts):
        raise wrong("input", given, "must hold texts, none of them empty")
    fields.end({}, KNOWN)
    with service.admitted(1):
        costs = await while_there(request, _costs(service, texts))
    data = []
    for index, (text, (tokens, nats)) in enumerate(zip(texts, costs, strict=True)):
        size, bits = len(text.encode("utf-8", "surrogateescape")), nats / math.log(2)
        data.append(
            {
                "index": index,
                "tokens": tokens,
                "bytes": size,
                "bits": bits,
                "nats_per_token": nats / tokens,
                "bits_per_byte": bits / size,
            }
        )
    return Json({"object": "list", "model": service.name, "data": data})


def _saved(kept: Kept) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        kept.session.save(Path(folder) / "state.safetensors")
        return (Path(folder) / "state.safetensors").read_bytes()


async def _costs(service: Service, texts: list[str]) -> list[tuple[int, float]]:
    return [await service.score(text) for text in texts]


async def _keep(service: Service, kept: Kept) -> Response:
    name = kept.record["id"]
    await service.store.keep(name, kept)
    return Json(_told(name, kept), 201)


def _told(name: str, kept: Kept) -> dict:
    return {
        "id": name,
        "object": "session",
        "tokens": kept.session.tokens,
        "state_bytes": kept.session.state_bytes,
    }
