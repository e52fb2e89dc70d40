"""Listens for requests, and at the end finishes the texts in progress and keeps the sessions."""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rmat_jax.errors import UserError
from rmat_jax.files import check_regular
from rmat_jax.infer.engine import Engine
from rmat_jax.infer.streams import PREFILL_CHUNKS, call_width
from rmat_jax.progress import say
from rmat_jax.serve import limits as fixed
from rmat_jax.serve.app import make_app
from rmat_jax.serve.limits import Limits
from rmat_jax.serve.service import Service
from rmat_jax.serve.store import Store
from rmat_jax.serve.worker import Worker
from rmat_jax.signals import Signals

# seconds that clients have to read the end of an answer, when the server ends or refuses them
LAST_SECONDS = 5.0


def listen(host: str, port: int) -> socket.socket:
    """Binds a socket to an address. Nobody can connect before the server runs.

    Raises:
        UserError: the address is none of this machine's, or another program has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(f"--host={host} --port={port} is no address: {error}") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        taken.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on --host={host} --port={port}: {reason}; choose another port"
        ) from error
    return taken


def read_keys(file: Path | None) -> list[str]:
    """Reads keys, one a line. Raises UserError where there are none, or one cannot be sent."""
    if file is None:
        return []
    remedy = "write a key into it, one a line"
    check_regular(file, remedy, f"--api_key_file={file}")
    keys = file.read_text(encoding="utf-8", errors="replace").split("\n")
    keys = [key.strip() for key in keys if key.strip()]
    if not keys or not all(re.fullmatch(r"[!-~]+", key) for key in keys):
        raise UserError(
            f"--api_key_file={file} must hold keys of letters, digits and signs; {remedy}"
        )
    return keys


def serve(
    engine: Engine,
    name: str,
    sock: socket.socket,
    limits: Limits,
    *,
    keys: list[str],
    sessions_dir: Path | None,
) -> None:
    """Answers requests until a signal ends the server.

    Args:
        engine: the model, with `limits.rows` rows. It belongs to the server.
        name: the model's name for clients.
        sock: the socket that `listen` made.
        limits: the server's limits.
        keys: the API keys, any of which opens the server; none: it is open to all.
        sessions_dir: the folder that keeps sessions; None: they end with the server.

    Raises:
        UserError: the folder cannot be used, or the model stopped working.
    """
    host, port = sock.getsockname()[:2]
    local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    store = Store(engine, sessions_dir, limits)
    say("compiling")
    warm_up(engine)
    service = Service(engine, Worker(engine), store, limits, name)
    app = make_app(service, keys, local=local)
    config = uvicorn.Config(
        app,
        http=Punctual,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        # Clients are told their own errors. Only errors of the server are logged.
        log_level="error",
        access_log=False,
        limit_concurrency=fixed.CONNECTIONS,
        server_header=False,
        proxy_headers=False,
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"{name} has {limits.rows} rows, and {engine.state_bytes:,} bytes of state a session")
    if store.in_folder:
        say(f"{store.in_folder:,} sessions are in {sessions_dir}")
    if not local and not keys:
        say("warning: everybody who reaches this address may use it; see --api_key_file")
    with contextlib.closing(store):
        _Server(config, service, lambda: say(f"serving at http://{shown}:{port}")).run([sock])
    if service.worker.failure is not None:
        failure = " ".join(f"{service.worker.failure}".split())
        raise UserError(f"the model stopped working ({failure}); start the server again")


def warm_up(engine: Engine) -> None:
    """Compiles all programs that requests need, so that none of them has to wait."""
    session, most = engine.open(), PREFILL_CHUNKS * engine.model.config.chunk_len
    width = 0
    while width < most:
        width = call_width(width + 1, engine.model.config.chunk_len)
        session.read([engine.tokenizer.end] * width)
    # a long prompt is read in whole chunks from the next border on
    session.read([engine.tokenizer.end] * (engine.model.config.chunk_len + engine.whole))
    "".join(session.write(max_new_tokens=1, top_p=0.5))
    session.fork()
    for _ in engine.score([engine.tokenizer.end]):
        pass
    # computed from the weights, which takes a while if they are large
    assert engine.fingerprint


class Punctual(H11Protocol):
    """Speaks HTTP, and disconnects clients that send or read more slowly than the limits allow."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        # what must come in time, or the connection is closed
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._expect("head", fixed.HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.SEND_BODY:
            self._came("rest")
        # IDLE: a request's head is not complete
        if self.conn.their_state is not h11.IDLE:
            self._came("head")
        elif "head" not in self._timers:
            self._expect("head", fixed.HEAD_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A client that was refused while sending has time to read why, but not to send for ever.
        if self.conn.their_state is h11.SEND_BODY:
            self._expect("rest", LAST_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect("reading", fixed.WRITE_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._came("reading")

    def connection_lost(self, error: Exception | None) -> None:
        for what in list(self._timers):
            self._came(what)
        super().connection_lost(error)

    def _expect(self, what: str, seconds: float) -> None:
        self._timers[what] = self.loop.call_later(seconds, self.transport.abort)

    def _came(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()


class _Server(uvicorn.Server):
    """Ends at a signal, as all commands do, or when the model stops working."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]):
        super().__init__(config)
        self._service, self._ready, self._signals = service, ready, None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        grace = self._service.limits.grace
        saying = f"ending; texts that are being written have {grace:g} s"
        with Signals(saying) as self._signals:
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        wished = self._signals.caught or self._service.worker.failure is not None
        return await super().on_tick(counter) or bool(wished)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop, grace = asyncio.get_running_loop(), self._service.limits.grace
        self._service.closing = True
        timers = [
            loop.call_later(grace, self._service.cut),
            loop.call_later(grace + LAST_SECONDS, self._abort),
        ]
        await super().shutdown(sockets)
        for timer in timers:
            timer.cancel()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
