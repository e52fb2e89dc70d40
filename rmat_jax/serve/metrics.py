"""Counts what a server does, for Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts requests, tokens and seconds of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rmat_requests", "Requests, by address and status.", ["route", "status"], **self._here
        )
        self.read = Counter("rmat_tokens_read", "Tokens of prompts.", **self._here)
        self.written = Counter("rmat_tokens_written", "Tokens of answers.", **self._here)
        self.seconds = Histogram(
            "rmat_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            **self._here,
        )
        self.first = Histogram(
            "rmat_first_token_seconds",
            "Seconds from a request's body to the first token of its answer.",
            buckets=SECONDS,
            **self._here,
        )

    @property
    def _here(self) -> dict:
        return {"registry": self.registry}

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a number that is computed when it is asked for."""
        Gauge(f"rmat_{name}", text, **self._here).set_function(value)

    def page(self) -> Response:
        """Returns all metrics in Prometheus' text format."""
        return Response(
            generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class Counted:
    """Counts the requests to an app, and the seconds they take."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # 499: the client left before it was answered
        status, start = 499, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # Unknown addresses count as one, or each would add a line.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, f"{status}").inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
