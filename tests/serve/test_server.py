"""A real server on a real port: signals, deadlines, clients that vanish; the command's flags."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time

import pytest

from rmat_jax.commands.serve import serve as command
from rmat_jax.errors import UserError
from rmat_jax.infer import Engine
from rmat_jax.serve import limits as fixed
from rmat_jax.serve import server
from rmat_jax.serve.limits import Limits
from tests.infer.letters import make_engine
from tests.serve.conftest import ROWS, sharp_params
from tests.serve.test_texts import PROMPT, alone


def ask(port, method, path, **fields):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, json.dumps(fields) if fields else None)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def play(scene, folder=None, *, number=signal.SIGTERM, **limits):
    """Serves in this thread while `scene(port)` is played in another, and then ends by a signal.

    Returns:
        What the scene returned.
    """
    engine = make_engine(rows=ROWS, params=sharp_params())
    done, failures = [], []

    def run(port):
        try:
            while True:
                try:
                    assert ask(port, "GET", "/health") == (200, {"status": "ok"})
                    break
                except OSError:
                    time.sleep(0.02)
            done.append(scene(port))
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), number)

    with server.listen("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=run, args=(sock.getsockname()[1],))
        thread.start()
        taken = Limits(rows=ROWS, **limits)
        server.serve(engine, "tiny", sock, taken, keys=[], sessions_dir=folder)
        thread.join(30)
    if failures:
        raise failures[0]
    assert engine.traffic == (0, 0)
    return done[0]


@pytest.fixture
def unhurried(monkeypatch):
    """Texts are still being written when a signal comes. Steps take as long as a large model's."""
    step = Engine.step

    def slow(self):
        time.sleep(0.02)
        step(self)

    monkeypatch.setattr(Engine, "step", slow)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_texts_end_and_keeps_sessions(engine, tmp_path, number, capsys):
    rules = {"temperature": 2.0, "seed": 1}
    found = []

    def scene(port):
        def write():
            fields = {"input": PROMPT, "max_output_tokens": 2000} | rules
            found.append(ask(port, "POST", "/v1/responses", **fields))

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.15)
        assert thread.is_alive() and not found
        return thread

    play(scene, tmp_path, number=number).join(30)
    status, record = found[0]
    assert status == 200 and record["usage"]["output_tokens"] == 2000
    told = capsys.readouterr().err
    assert "serving at http://127.0.0.1:" in told and f"{signal.Signals(number).name}: end" in told

    def again(port):
        fields = {"input": "ab", "previous_response_id": record["id"], "max_output_tokens": 20}
        return ask(port, "POST", "/v1/responses", **fields | rules)

    status, second = play(again, tmp_path)
    expected = engine.open(PROMPT)
    "".join(expected.write(max_new_tokens=2000, **rules))
    expected.read("ab")
    text = "".join(expected.write(max_new_tokens=20, **rules))
    assert status == 200 and second["output"][0]["content"][0]["text"] == text


@pytest.mark.usefixtures("unhurried")
def test_texts_that_take_too_long_are_cut_and_kept(engine, tmp_path):
    found = {}
    texts = {
        "/v1/responses": {"input": PROMPT, "max_output_tokens": 4096, "temperature": 2.0},
        "/v1/completions": {"prompt": PROMPT, "max_tokens": 4096, "n": 2, "temperature": 2.0},
    }

    def scene(port):
        def write(path):
            found[path] = ask(port, "POST", path, **texts[path])

        threads = [threading.Thread(target=write, args=(path,)) for path in texts]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        return threads

    for thread in play(scene, tmp_path, grace=0.0):
        thread.join(30)
    status, record = found["/v1/responses"]
    assert status == 200 and record["incomplete_details"] == {"reason": "server_ending"}
    assert 0 < record["usage"]["output_tokens"] < 4096
    # what has no session to go on from is refused
    assert found["/v1/completions"][0] == 503
    again = play(lambda port: ask(port, "GET", f"/v1/responses/{record['id']}"), tmp_path)
    assert again == (200, record)


def test_slow_senders_are_left_and_vanished_clients_free_their_rows(monkeypatch):
    monkeypatch.setattr(fixed, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server, "LAST_SECONDS", 0.2)

    def metric(port, name):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))

    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"

    def scene(port):
        for sent in (b"", b"POST /v1/compl", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: "):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
                slow.sendall(sent)
                start = time.perf_counter()
                # a reset, if the kernel has it that way
                with contextlib.suppress(ConnectionResetError):
                    assert slow.recv(10) == b""
                assert 0.1 < time.perf_counter() - start < 5
        # one that is refused, and sends on
        with socket.create_connection(("127.0.0.1", port), timeout=10) as refused:
            refused.sendall(head % 10**8)
            assert refused.recv(1000).startswith(b"HTTP/1.1 413")
            start = time.perf_counter()
            with pytest.raises(ConnectionError):
                while time.perf_counter() - start < 10:
                    refused.sendall(b"a" * 1000)
                    time.sleep(0.01)
        body = json.dumps({"prompt": PROMPT, "max_tokens": 4096, "stream": True, "n": 3}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as gone:
            gone.sendall(head % len(body) + body)
            assert gone.recv(20).startswith(b"HTTP/1.1 200")
            assert metric(port, "rmat_streams ") == 3
        start = time.perf_counter()
        while metric(port, "rmat_streams ") or metric(port, "rmat_rows_busy"):
            assert time.perf_counter() - start < 10

    play(scene)


def test_a_model_that_fails_ends_the_server(monkeypatch):
    engine = make_engine()
    with server.listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]

        def run():
            while True:
                try:
                    ask(port, "GET", "/health")
                    break
                except OSError:
                    time.sleep(0.02)
            monkeypatch.setattr(engine, "step", lambda: 1 // 0)
            assert ask(port, "POST", "/v1/completions", prompt="a")[0] == 500

        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(UserError, match="stopped working .*by zero.*; start the server again"):
            server.serve(engine, "tiny", sock, Limits(rows=3), keys=[], sessions_dir=None)
        thread.join(10)


def test_after_warming_up_nothing_is_compiled(engine):
    from rmat_jax.infer import scoring, streams

    fresh = make_engine(rows=ROWS, params=sharp_params())
    server.warm_up(fresh)
    functions = [
        *(streams.read, streams.read_chunks, streams.decode, streams.take, streams.put),
        scoring._score,
    ]
    programs = [function._cache_size() for function in functions]
    assert alone(fresh, "a", "b" * 17, "c" * 200, stop="ab", temperature=2.0, top_k=3)
    assert list(fresh.score("a" * 200))
    assert [function._cache_size() for function in functions] == programs


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70000}, "port=70000 must lie in 0..65535"),
        ({"host": "no.such.host.invalid"}, "is no address"),
        ({"host": "192.0.2.1"}, "cannot listen on"),
        ({"rows": 0}, "rows=0 must be at least 1"),
        ({"grace": -1.0}, "grace=-1.0 must be at least 0"),
        ({"grace": float("nan")}, "grace=nan must be at least 0"),
    ],
)
def test_bad_flags(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        command(tmp_path, **{"port": 0} | flags)


@pytest.mark.parametrize("keys", ["", "\n \n", "two words", "schlüssel"])
def test_bad_keys(tmp_path, keys):
    (tmp_path / "keys").write_text(keys)
    with pytest.raises(UserError, match="must hold keys"):
        command(tmp_path, port=0, api_key_file=tmp_path / "keys")


def test_keys_and_ports(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        server.read_keys(tmp_path / "none")
    (tmp_path / "keys").write_text("one\r\n\n two\n")
    assert server.read_keys(tmp_path / "keys") == ["one", "two"] and server.read_keys(None) == []
    with server.listen("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(UserError, match="choose another port"):
            server.listen("127.0.0.1", first.getsockname()[1])
