"""The app: its table of addresses, its check of API keys, and its handling of errors."""

import contextlib
import hmac
import ipaddress
from collections.abc import AsyncIterator, Sequence
from importlib import resources

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rmat_jax.errors import UserError
from rmat_jax.serve import completions, responses, sessions
from rmat_jax.serve.metrics import Counted
from rmat_jax.serve.refusals import Json, Refusal, of_user_error
from rmat_jax.serve.service import Gone, Service

# These addresses need no key, since they tell nothing of anybody's texts.
OPEN = ("/", "/health")
# The page needs nothing from other sites, and may load nothing from there.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def make_app(service: Service, keys: Sequence[str] = (), *, local: bool = False) -> Starlette:
    """Makes the app.

    Args:
        service: what all requests share. Its worker runs as long as the app does.
        keys: the API keys, any of which opens the app; none: it is open to all.
        local: whether only this machine shall reach the app. Without a key, a page of another site
            in a browser of this machine is refused.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            await service.worker.stop()

    # one address a line, with the function that answers there
    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/models/{id}", model),
        Route("/v1/completions", completions.completions, methods=["POST"]),
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/responses/{id}", responses.retrieve),
        Route("/v1/responses/{id}", responses.delete, methods=["DELETE"]),
        Route("/v1/sessions", sessions.upload, methods=["POST"]),
        Route("/v1/sessions/{id}", sessions.look),
        Route("/v1/sessions/{id}/state", sessions.download),
        Route("/v1/sessions/{id}/fork", sessions.fork, methods=["POST"]),
        Route("/v1/score", sessions.score, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Counted, metrics=service.metrics),
            Middleware(Guarded, keys=keys, local=local),
        ],
        exception_handlers={
            Refusal: lambda _, error: error.response(),
            UserError: lambda _, error: of_user_error(error).response(),
            HTTPException: _http_error,
            Gone: _nobody,
            ClientDisconnect: _nobody,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    return app


async def page(request: Request) -> Response:
    """Answers `GET /`."""
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})


async def health(request: Request) -> Response:
    """Answers `GET /health`, with 200 while requests are taken."""
    service: Service = request.app.state.service
    failed = service.worker.failure is not None
    status = "failed" if failed else "ending" if service.closing else "ok"
    return Json({"status": status}, 200 if status == "ok" else 503)


async def metrics(request: Request) -> Response:
    """Answers `GET /metrics`."""
    return request.app.state.service.metrics.page()


async def models(request: Request) -> Response:
    """Answers `GET /v1/models`."""
    return Json({"object": "list", "data": [_model(request.app.state.service)]})


async def model(request: Request) -> Response:
    """Answers `GET /v1/models/{id}`."""
    service: Service = request.app.state.service
    service.check_model(request.path_params["id"])
    return Json(_model(service))


def _model(service: Service) -> dict:
    return {
        "id": service.name,
        "object": "model",
        "created": service.started,
        "owned_by": "rmat_jax",
        "state_bytes": service.engine.state_bytes,
    }


async def _http_error(_: Request, error: HTTPException) -> Response:
    """Answers a request for an unknown address or method."""
    return Refusal(error.status_code, error.detail, headers=error.headers).response()


async def _nobody(_: Request, __: Exception) -> Response:
    """Answers a request whose client has gone."""
    return Response(status_code=499)


async def _failed(_: Request, __: Exception) -> Response:
    """Answers a request after an error of the server, which is logged elsewhere."""
    return Refusal(500, "the server failed; its log says why").response()


class Guarded:
    """Lets requests in that have a key, or come from this machine if there are no keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], local: bool):
        self._app, self._local = app, local
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            headers = Headers(scope=scope)
            refusal = self._wrong_key(headers) if self._keys else self._elsewhere(headers)
            if refusal is not None:
                return await refusal.response()(scope, receive, send)
        await self._app(scope, receive, send)

    def _wrong_key(self, headers: Headers) -> Refusal | None:
        kind, _, key = headers.get("authorization", "").partition(" ")
        # all keys are compared, so that the time tells nothing
        found = [hmac.compare_digest(key.strip().encode(), known) for known in self._keys]
        if kind.lower() == "bearer" and any(found):
            return None
        return Refusal(
            401,
            "the key is missing or wrong; send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _elsewhere(self, headers: Headers) -> Refusal | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return Refusal(403, f"pages of {origin[:60]!r} may not send requests without a key")
        if self._local and not _is_here(host):
            message = f"{host[:60]!r} is not this machine; give the server an --api_key_file"
            return Refusal(403, message)
        return None


def _is_here(host: str) -> bool:
    """Tells whether a Host header names this machine."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
