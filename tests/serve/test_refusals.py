"""What is refused, with which status, and that nothing is left of it."""

import asyncio
import json
import time

import jax
import numpy as np
import pytest

from rmat_jax.infer.job import AHEAD
from rmat_jax.infer.streams import ROOM
from rmat_jax.serve import limits
from rmat_jax.serve.app import make_app
from tests.infer.letters import make_engine
from tests.serve.conftest import client_of, make_service

COMPLETIONS, RESPONSES, SCORE = "/v1/completions", "/v1/responses", "/v1/score"


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert len(error["message"]) < 600
    return error


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": {}}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETIONS, {"prompt": [1, 11]}, "prompt"),
        (COMPLETIONS, {"prompt": [10**30]}, "prompt"),
        (COMPLETIONS, {"prompt": "\ud800"}, "prompt"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 4097}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": True}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": "9"}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "temperature": -1}, "temperature"),
        (COMPLETIONS, {"prompt": "a", "temperature": 10**400}, "temperature"),
        (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, "temperature"),
        (COMPLETIONS, {"prompt": "a", "top_p": 0}, "top_p"),
        (COMPLETIONS, {"prompt": "a", "top_k": -1}, "top_k"),
        (COMPLETIONS, {"prompt": "a", "n": 0}, "n"),
        (COMPLETIONS, {"prompt": "a", "n": 12}, "n"),
        (COMPLETIONS, {"prompt": ["a"] * 6, "n": 2}, "n"),
        (COMPLETIONS, {"prompt": [""] * 500_000}, "n"),
        (COMPLETIONS, {"prompt": "a", "seed": 0.5}, "seed"),
        (COMPLETIONS, {"prompt": "a", "stop": [""]}, "stop"),
        (COMPLETIONS, {"prompt": "a", "stop": ["a"] * 5}, "stop"),
        (COMPLETIONS, {"prompt": "a", "stop": "a" * 257}, "stop"),
        (COMPLETIONS, {"prompt": "a", "stop": "\ud800"}, "stop"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 5}, "logprobs"),
        (COMPLETIONS, {"prompt": "a", "logprobs": True}, "logprobs"),
        (COMPLETIONS, {"prompt": "a", "stream": 1}, "stream"),
        (COMPLETIONS, {"prompt": "a", "stream_options": {"x": 1}}, "stream_options"),
        (COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
        (COMPLETIONS, {"prompt": "a", "echo": 0}, "echo"),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {"1": 2}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "a", "x" * 5000: 1}, "x" * 60),
        (COMPLETIONS, {"prompt": "a", "\ud800": 1}, "\ud800"),
        (COMPLETIONS, {"prompt": "a", "model": 1}, "model"),
        (RESPONSES, {"input": 1}, "input"),
        (RESPONSES, {"input": ["a"]}, "input"),
        (RESPONSES, {"input": [{"role": "system", "content": "a"}]}, "input.role"),
        (RESPONSES, {"input": [{"role": "user", "content": 1}]}, "input.content"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input.content"),
        (RESPONSES, {"input": "a", "instructions": "b"}, "instructions"),
        (RESPONSES, {"input": "a", "tools": [{}]}, "tools"),
        (RESPONSES, {"input": "a", "metadata": 1}, "metadata"),
        (RESPONSES, {"input": "a", "metadata": {"a": "b" * 20_000}}, "metadata"),
        (RESPONSES, {"input": "a", "max_tokens": 5}, "max_tokens"),
        (RESPONSES, {"input": "a", "previous_response_id": 5}, "previous_response_id"),
        (SCORE, {}, "input"),
        (SCORE, {"input": ""}, "input"),
        (SCORE, {"input": ["a", 1]}, "input"),
        (SCORE, {"input": [1, 2]}, "input"),
        (SCORE, {"input": "a", "stream": True}, "stream"),
    ],
)
def test_a_bad_field_is_refused_by_name(client, path, fields, param):
    assert error_of(client.post(path, content=json.dumps(fields)), 400)["param"] == param


def test_what_changes_nothing_is_taken(client):
    same = {"echo": False, "best_of": 1, "presence_penalty": 0.0, "logit_bias": {}, "suffix": None}
    rules = {"prompt": "abc", "temperature": 0, "logprobs": None, "user": "me"}
    assert client.post(COMPLETIONS, json=rules | same).status_code == 200
    odd = {"input": "a", "metadata": {"a": "\ud800"}}
    for more in ({}, {"stream": True}):
        assert "\\ud800" in client.post(RESPONSES, content=json.dumps(odd | more)).text
    same = {"tools": [], "truncation": "disabled", "instructions": None, "background": False}
    assert client.post(RESPONSES, json={"input": "a", "store": False} | same).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b"\xff\xfe", b'{"prompt": NaN}', b"[" * 100_000, b"1" * 10_000],
)
def test_what_is_no_json_object_is_refused(client, body):
    assert error_of(client.post(COMPLETIONS, content=body), 400)["code"] == "invalid_json"


def test_other_addresses_models_and_methods(client):
    error_of(client.get("/v1/nothing"), 404)
    error_of(client.get(COMPLETIONS), 405)
    error_of(client.get("/v1/models/gpt"), 404)
    for path, name in ((COMPLETIONS, "prompt"), (RESPONSES, "input"), (SCORE, "input")):
        error = error_of(client.post(path, json={name: "a", "model": "gpt"}), 404)
        assert error["code"] == "model_not_found" and "'tiny' is" in error["message"]
    for name in ("resp_" + "0" * 32, "..", "resp_%2e%2e%2fserver.lock", "x" * 1000):
        for path in (f"{RESPONSES}/{name}", f"/v1/sessions/{name}/state"):
            assert client.get(path).status_code == 404


def test_long_bodies_and_prompts(engine):
    with client_of(engine, body_bytes=1000, prompt_tokens=30, answer_tokens=10) as client:
        long = {"prompt": "a" * 1000}
        error_of(client.post(COMPLETIONS, json=long), 413)
        # also where nobody says how long it is
        error_of(client.post(COMPLETIONS, content=iter([b'{"prompt":"', b"a" * 1000])), 413)
        error = error_of(client.post(COMPLETIONS, json={"prompt": "a" * 31}), 400)
        assert error["code"] == "context_length_exceeded" and error["param"] == "prompt"
        error_of(client.post(RESPONSES, json={"input": "a" * 31}), 400)
        error_of(client.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 11}), 400)
        # the controls
        answer = client.post(COMPLETIONS, json={"prompt": "a" * 30}).json()
        assert answer["usage"]["completion_tokens"] == 10
        assert client.post(RESPONSES, json={"input": "a"}).json()["max_output_tokens"] == 10


def test_keys(engine):
    with client_of(engine, keys=["one", "two"]) as client:
        for headers in ({}, {"Authorization": "Bearer thr"}, {"Authorization": "Basic one"}):
            for path in ("/v1/models", "/metrics", "/nowhere"):
                answer = client.get(path, headers=headers)
                assert error_of(answer, 401)["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.get("/v1/models", headers=headers).status_code == 200
        # these tell nothing
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_pages_of_other_sites_may_not_ask_without_a_key(engine):
    with client_of(engine, local=True) as client:
        for host in ("127.0.0.1:8000", "localhost", "localhost:80", "[::1]:8000", "127.3.4.5"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200
            same = {"Host": host, "Origin": f"http://{host}"}
            assert client.get("/v1/models", headers=same).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example:8000", ""):
            error_of(client.get("/v1/models", headers={"Host": host}), 403)
        other = {"Host": "localhost:8000", "Origin": "http://evil.example"}
        error_of(client.get("/v1/models", headers=other), 403)
    with client_of(engine, keys=["one"], local=True) as client:
        # whoever has the key is asked nothing else
        headers = {"Host": "evil.example", "Authorization": "Bearer one"}
        assert client.get("/v1/models", headers=headers).status_code == 200


class Caller:
    """One request to an app, without a client that waits for its end."""

    def __init__(self, app, path, fields, *, more=False, reads=None):
        """Args: more: the body does not end; reads: nothing more is read before that."""
        self.sent, self._reads = [], reads
        self.left, self.written = asyncio.Event(), asyncio.Event()
        self._body = [{"body": json.dumps(fields).encode(), "more_body": more}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "state": {},
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._body:
            return {"type": "http.request"} | self._body.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.sent.append(message)
        if message.get("body"):
            self.written.set()
            if self._reads:
                await self._reads.wait()

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None


def called(engine, play, folder=None, **limits):
    """Plays a scene with an app whose worker runs."""

    async def scene():
        service = make_service(engine, folder, **limits)
        app = make_app(service)
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(play(app, service), 60)
        service.store.close()

    asyncio.run(scene())


async def idle(service):
    """Waits until nothing is left to do."""
    while service.engine.traffic != (0, 0) or service.streams:
        await asyncio.sleep(0.005)


LONG = {"temperature": 2.0, "stream": True}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (COMPLETIONS, {"prompt": "abc", "max_tokens": 4000, "n": 2} | LONG),
        (COMPLETIONS, {"prompt": "abc", "max_tokens": 4000} | LONG | {"stream": False}),
        (COMPLETIONS, {"prompt": "abcd" * 200_000, "max_tokens": 1}),
        (COMPLETIONS, {"prompt": "abcd" * 200_000, "max_tokens": 1, "n": 2, "stream": True}),
        (RESPONSES, {"input": "abc", "max_output_tokens": 4000} | LONG),
        (RESPONSES, {"input": "abcd" * 200_000, "stream": True}),
        (SCORE, {"input": "abcd" * 200_000}),
    ],
)
def test_a_client_that_leaves_frees_its_rows(engine, path, fields):
    async def play(app, service):
        caller = Caller(app, path, fields)
        while not (service.streams and (sum(service.engine.traffic) or path == SCORE)):
            await asyncio.sleep(0.005)
        if fields.get("stream") and len(fields.get("prompt", fields.get("input", ""))) < 9:
            await caller.written.wait()
        # the control: it would go on
        assert not caller.task.done()
        caller.left.set()
        start = time.perf_counter()
        await caller.task
        await idle(service)
        assert time.perf_counter() - start < 5
        assert service.store.in_memory == 0
        # others are answered
        other = Caller(app, COMPLETIONS, {"prompt": "abc"})
        await other.task
        assert other.status == 200

    called(engine, play)


def test_more_than_may_wait_is_refused_and_the_rest_is_answered(engine):
    async def play(app, service):
        fields = {"prompt": "abc", "max_tokens": 300, "temperature": 2.0}
        callers = [Caller(app, COMPLETIONS, fields) for _ in range(9)]
        done = await asyncio.gather(*(caller.task for caller in callers))
        assert len(done) == 9
        statuses = sorted(caller.status for caller in callers)
        assert statuses == [200] * 5 + [429] * 4
        refused = next(caller for caller in callers if caller.status == 429)
        assert (b"retry-after", b"1") in refused.sent[0]["headers"]
        too_many = Caller(app, COMPLETIONS, fields | {"n": 6})
        await too_many.task
        assert too_many.status == 400
        await idle(service)

    called(engine, play, waiting=2)


def test_a_slow_reader_holds_neither_its_row_nor_the_others(engine):
    async def play(app, service):
        reads = asyncio.Event()
        slow = Caller(app, COMPLETIONS, {"prompt": "abc", "max_tokens": 3000} | LONG, reads=reads)
        await slow.written.wait()
        while engine.traffic != (0, 0):
            await asyncio.sleep(0.005)
        # it is not over, and waits for its reader
        (answer,) = service._answers
        held = sum(len(piece.tokens) for piece in answer.job.ready)
        assert not answer.job.ended and AHEAD <= held < AHEAD + ROOM
        other = Caller(app, COMPLETIONS, {"prompt": "abc"})
        await other.task
        assert other.status == 200 and not slow.task.done()
        reads.set()
        await slow.task
        text = b"".join(m["body"] for m in slow.sent if "body" in m).decode()
        found = [json.loads(part[6:]) for part in text.split("\n\n")[:-2]]
        assert sum(len(part["choices"][0]["text"]) for part in found) == 3000

    called(engine, play)


def test_a_body_that_does_not_come_is_given_up(engine, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)

    async def play(app, service):
        caller = Caller(app, COMPLETIONS, {"prompt": "abc"}, more=True)
        await caller.task
        assert caller.status == 408
        # a part of it, and then nobody
        caller = Caller(app, COMPLETIONS, {"prompt": "abc"}, more=True)
        caller.left.set()
        await caller.task
        assert caller.status == 499

    called(engine, play)


def test_a_state_that_somebody_made_up(engine, tmp_path):
    """It is sealed, and its numbers are none: it harms only whoever sent it."""
    session = engine.open("abc").fork()
    stream = session.ticket.stream
    nan = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, stream)
    session.ticket.stream = nan
    session.save(tmp_path / "nan")
    with client_of(engine) as client:
        answer = client.post("/v1/sessions", content=(tmp_path / "nan").read_bytes())
        name = answer.json()["id"]
        assert answer.status_code == 201
        fields = {"input": "a", "previous_response_id": name}
        error = error_of(client.post(RESPONSES, json=fields), 400)
        assert "not finite" in error["message"]
        told = client.post(RESPONSES, json=fields | {"stream": True}).text
        assert "event: response.failed" in told and "not finite" in told
        assert client.post(RESPONSES, json={"input": "a"}).status_code == 200
        assert engine.traffic == (0, 0) and client.service.streams == 0


def test_a_model_that_fails_is_told_and_ends_the_worker(monkeypatch):
    engine = make_engine()

    def fails():
        raise RuntimeError("out of memory")

    with client_of(engine) as client:
        monkeypatch.setattr(engine, "step", fails)
        for _ in range(2):
            error_of(client.post(COMPLETIONS, json={"prompt": "a"}), 500)
        assert client.get("/health").status_code == 503
        assert client.get("/health").json() == {"status": "failed"}
        assert isinstance(client.service.worker.failure, RuntimeError)
        assert client.service.streams == 0
