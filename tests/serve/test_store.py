"""Sessions that are kept: in memory, in a folder, over a restart, as files."""

import json
import subprocess
import sys

import pytest

from rmat_jax.errors import UserError
from tests.infer.letters import make_engine
from tests.serve.conftest import ROWS, client_of, make_service, sharp_params
from tests.serve.test_texts import PROMPT, alone, post

RULES = {"temperature": 2.0, "seed": 1}
ASKED = RULES | {"max_output_tokens": 20}


def text(found):
    return found["output"][0]["content"][0]["text"]


def test_sessions_are_there_after_a_restart(engine, tmp_path):
    with client_of(engine, tmp_path / "kept") as client:
        first = post(client, "responses", input=PROMPT, **ASKED)
    # another process, as far as the server can tell
    with client_of(make_engine(rows=ROWS, params=sharp_params()), tmp_path / "kept") as client:
        assert client.service.store.in_folder == 1 and client.service.store.in_memory == 0
        assert client.get(f"/v1/responses/{first['id']}").json() == first
        second = post(client, "responses", input="ab", previous_response_id=first["id"], **ASKED)
        assert text(second) == alone(engine, PROMPT, "ab", **RULES)
        # the control: what was read before counts
        assert text(second) != alone(engine, "ab", **RULES)
    with client_of(engine) as client:
        post(client, "responses", 404, previous_response_id=first["id"])


def test_memory_is_bounded_and_the_folder_has_the_rest(engine, tmp_path):
    with client_of(engine, tmp_path, sessions=2, stored=4) as client:
        found = [post(client, "responses", input=letter, **ASKED) for letter in "abcd"]
        store = client.service.store
        assert (store.in_memory, store.in_folder) == (2, 4)
        # it is read again, and is the last one to be dropped now
        name = found[0]["id"]
        second = post(client, "responses", input="j", previous_response_id=name, **ASKED)
        assert text(second) == alone(engine, "a", "j", **RULES)
        assert (store.in_memory, store.in_folder) == (2, 4)
        there = [client.get(f"/v1/responses/{f['id']}").status_code for f in [*found, second]]
        assert there == [200, 404, 200, 200, 200]
        assert len(list(tmp_path.glob("resp_*"))) == 8
        client.delete(f"/v1/responses/{name}")
        assert len(list(tmp_path.glob("resp_*"))) == 6


def test_without_a_folder_the_least_recently_used_is_dropped(engine):
    with client_of(engine, sessions=2) as client:
        found = [post(client, "responses", input="a", **ASKED)["id"] for _ in range(2)]
        assert client.get(f"/v1/responses/{found[0]}").status_code == 200
        found.append(post(client, "responses", input="a", **ASKED)["id"])
        there = [client.get(f"/v1/responses/{name}").status_code for name in found]
        assert there == [200, 404, 200]


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_session_is_forked_downloaded_and_uploaded(engine, tmp_path, in_folder):
    with client_of(engine, tmp_path if in_folder else None) as client:
        first = post(client, "responses", input=PROMPT, **ASKED)
        name, told = first["id"], first["session"]
        shown = client.get(f"/v1/sessions/{name}").json()
        assert shown == {"id": name, "object": "session"} | told
        twin = post(client, f"sessions/{name}/fork", 201)
        assert twin["tokens"] == told["tokens"] and twin["id"] != name
        file = client.get(f"/v1/sessions/{name}/state")
        assert file.headers["content-disposition"] == f'attachment; filename="{name}.safetensors"'
        up = client.post("/v1/sessions", content=file.content)
        assert up.status_code == 201 and up.json()["tokens"] == told["tokens"]
        # they do not need the one that they are of
        client.delete(f"/v1/responses/{name}")
        for other in (twin["id"], up.json()["id"]):
            found = post(client, "responses", input="ab", previous_response_id=other, **ASKED)
            assert text(found) == alone(engine, PROMPT, "ab", **RULES)
            assert client.get(f"/v1/responses/{other}").json()["id"] == other
    # the engine alone takes the file, too
    (tmp_path / "state").write_bytes(file.content)
    session = engine.load(tmp_path / "state")
    session.read("ab")
    assert "".join(session.write(max_new_tokens=20, **RULES)) == text(found)


def test_what_is_uploaded_is_checked(engine, tmp_path):
    session = engine.open(PROMPT)
    session.save(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    other = make_engine(rows=ROWS)
    other.open(PROMPT).save(tmp_path / "other")
    broken = bytearray(good)
    broken[-1] ^= 1
    cases = {
        b"": "no safetensors file",
        b"x" * 500: "no safetensors file",
        good[:-1]: "no safetensors file",
        bytes(broken): "not those of its sha256",
        (tmp_path / "other").read_bytes(): "other weights",
    }
    with client_of(engine) as client:
        for body, message in cases.items():
            answer = client.post("/v1/sessions", content=body)
            error = answer.json()["error"]
            assert answer.status_code == 400 and error["code"] == "invalid_session"
            assert message in error["message"] and "state.safetensors" not in error["message"]
        long = good + bytes(client.service.store.file_bytes)
        assert client.post("/v1/sessions", content=long).status_code == 413
        # the control
        assert client.post("/v1/sessions", content=good).status_code == 201
        assert client.service.store.in_memory == 1


def test_files_that_are_damaged_or_gone_are_told(engine, tmp_path):
    with client_of(engine, tmp_path, sessions=1) as client:
        found = [post(client, "responses", input="a", **ASKED)["id"] for _ in range(4)]
        data = bytearray((tmp_path / f"{found[0]}.safetensors").read_bytes())
        data[-1] ^= 1
        (tmp_path / f"{found[0]}.safetensors").write_bytes(data)
        (tmp_path / f"{found[1]}.safetensors").unlink()
        (tmp_path / f"{found[2]}.json").write_text("{")
        error = post(client, "responses", 409, previous_response_id=found[0])["error"]
        assert "sha256" in error["message"]
        post(client, "responses", 404, previous_response_id=found[1])
        post(client, "responses", 409, previous_response_id=found[2])
        assert client.get(f"/v1/responses/{found[3]}").status_code == 200


def test_a_full_disk_is_told_and_leaves_nothing(engine, tmp_path, monkeypatch):
    def full(*_):
        raise UserError("no room")

    with client_of(engine, tmp_path) as client:
        monkeypatch.setattr("rmat_jax.serve.store.write_whole", full)
        error = post(client, "responses", 507, input="a", **ASKED)["error"]
        assert "no room" in error["message"]
        told = client.post("/v1/responses", json={"input": "a", "stream": True} | ASKED).text
        assert "event: response.failed" in told and "no room" in told
        assert not list(tmp_path.glob("resp_*")) and client.service.store.in_memory == 0
        # who keeps nothing is answered
        assert post(client, "responses", input="a", store=False, **ASKED)


def test_two_servers_do_not_share_a_folder(engine, tmp_path):
    """Locks are a process's own: another process holds it here."""
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "server.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="in use by another server"):
            make_service(engine, tmp_path)
        other.communicate()
    make_service(engine, tmp_path).store.close()


def test_other_files_of_the_folder_are_left_alone(engine, tmp_path):
    for name in ("notes.txt", "resp_x.json", "resp_" + "0" * 31 + "g.json"):
        (tmp_path / name).write_text(json.dumps({}))
    service = make_service(engine, tmp_path)
    assert service.store.in_folder == 0 and len(list(tmp_path.iterdir())) == 4
    service.store.close()
