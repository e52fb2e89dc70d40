"""What is written over HTTP is what the engine alone writes: completions, responses, scores."""

import json

import numpy as np
import pytest

from rmat_jax.infer.scoring import score
from rmat_jax.model import RMAT
from tests.infer.letters import Letters
from tests.serve.conftest import sharp_params

GREEDY = {"temperature": 0}
PROMPT = "abcdefghijabcabc"


def alone(engine, *texts, count=20, **rules):
    """What a session writes after the last of `texts`; after each of the others it wrote too."""
    session, written = engine.open(), ""
    for text in texts:
        session.read(text)
        written = "".join(session.write(max_new_tokens=count, **rules))
    return written


def post(client, path, status=200, **fields):
    answer = client.post(f"/v1/{path}", json=fields)
    assert answer.status_code == status, answer.text
    return answer.json()


def events(client, path, **fields):
    """The names and contents of a stream's events."""
    answer = client.post(f"/v1/{path}", json=fields | {"stream": True})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        *name, data = block.split("\n")
        content = data.removeprefix("data: ")
        found.append((name, content if content == "[DONE]" else json.loads(content)))
    return found


def test_a_completion_is_the_engines(client, engine):
    found = post(client, "completions", prompt=PROMPT, max_tokens=20, model="tiny", **GREEDY)
    (choice,) = found["choices"]
    assert choice["text"] == alone(engine, PROMPT, temperature=0)
    assert choice["finish_reason"] == "length" and choice["logprobs"] is None
    assert found["usage"] == {"prompt_tokens": 16, "completion_tokens": 20, "total_tokens": 36}
    ids = Letters().encode(PROMPT.encode()).tolist()
    same = post(client, "completions", prompt=ids, max_tokens=20, **GREEDY)
    assert same["choices"] == found["choices"]
    # the control: the prompt counts
    rules = {"temperature": 2.0, "seed": 1}
    texts = [
        post(client, "completions", prompt=prompt, max_tokens=20, **rules)["choices"][0]["text"]
        for prompt in (PROMPT, PROMPT[::-1])
    ]
    assert texts == [alone(engine, prompt, **rules) for prompt in (PROMPT, PROMPT[::-1])]
    assert texts[0] != texts[1]


def test_sixteen_tokens_where_nobody_says_how_many(client):
    assert len(post(client, "completions", prompt="a")["choices"][0]["text"]) == 16


def test_copies_differ_by_their_seeds(client, engine):
    rules = {"temperature": 3.0, "top_k": 7, "top_p": 0.9}
    prompts = [PROMPT, "bcd"]
    found = post(client, "completions", prompt=prompts, n=2, seed=2**32 + 5, max_tokens=20, **rules)
    expected = [alone(engine, text, seed=seed, **rules) for text in prompts for seed in (5, 6)]
    assert [choice["text"] for choice in found["choices"]] == expected
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert len(set(expected)) == 4
    assert found["usage"]["prompt_tokens"] == 19
    # without a seed they differ from call to call
    twice = [post(client, "completions", prompt=["a", "a"], temperature=3.0) for _ in range(2)]
    assert len({choice["text"] for found in twice for choice in found["choices"]}) == 4


def test_a_text_ends_before_a_stop_sequence(client, engine):
    whole = alone(engine, PROMPT, count=100, temperature=2.0, seed=4)
    stop = whole[30:33]
    rules = {"prompt": PROMPT, "max_tokens": 100, "temperature": 2.0, "seed": 4, "stop": stop}
    (choice,) = post(client, "completions", **rules)["choices"]
    assert choice["text"] == whole[: whole.index(stop)] and choice["finish_reason"] == "stop"
    parts = [content for _, content in events(client, "completions", **rules)][:-1]
    assert "".join(part["choices"][0]["text"] for part in parts) == choice["text"]


def test_log_probabilities_are_those_of_the_tokens(client, engine):
    session = engine.open(PROMPT)
    pieces = list(session.write_pieces(max_new_tokens=90, temperature=0))
    rules = {"prompt": PROMPT, "max_tokens": 90, "logprobs": 0, **GREEDY}
    (choice,) = post(client, "completions", **rules)["choices"]
    expected = np.concatenate([piece.logprobs for piece in pieces])
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], expected, atol=1e-5)
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["logprobs"]["text_offset"] == list(range(90))
    parts = [content["choices"][0] for _, content in events(client, "completions", **rules)[:-1]]
    for name in ("tokens", "token_logprobs", "text_offset"):
        told = [value for part in parts for value in part["logprobs"][name]]
        assert told == choice["logprobs"][name]


def test_a_stream_is_the_same_text_in_pieces(client, engine):
    rules = {"prompt": [PROMPT, "ab"], "n": 2, "max_tokens": 200, "seed": 1, "temperature": 2.0}
    whole = post(client, "completions", **rules)
    *parts, last, done = events(
        client, "completions", stream_options={"include_usage": True}, **rules
    )
    assert done == ([], "[DONE]")
    assert last[1]["choices"] == [] and last[1]["usage"] == whole["usage"]
    texts, reasons = [""] * 4, [None] * 4
    for _, content in parts:
        (choice,) = content["choices"]
        assert reasons[choice["index"]] is None
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert reasons == ["length"] * 4
    # the control: it came in pieces
    assert len(parts) > 12


def test_a_response_goes_on_from_another(client, engine):
    """Law: what a session is told in several requests, it was told in one session alone."""
    # Its draws are the same whatever it has read: only that makes the texts differ.
    rules = {"temperature": 2.0, "seed": 1}
    asked = rules | {"max_output_tokens": 20}
    first = post(client, "responses", input=PROMPT, metadata={"a": "b"}, **asked)
    assert first["output"][0]["content"][0]["text"] == alone(engine, PROMPT, **rules)
    assert first["status"] == "incomplete" and first["metadata"] == {"a": "b"}
    assert first["incomplete_details"] == {"reason": "max_output_tokens"}
    assert first["session"] == {"tokens": 37, "state_bytes": engine.state_bytes}

    def text(found):
        return found["output"][0]["content"][0]["text"]

    # several go on from one, and nothing changes it
    others = []
    for more in ("ab", "jih", "ab", ""):
        second = post(client, "responses", input=more, previous_response_id=first["id"], **asked)
        assert text(second) == alone(engine, PROMPT, more, **rules)
        third = post(client, "responses", input="c", previous_response_id=second["id"], **asked)
        assert text(third) == alone(engine, PROMPT, more, "c", **rules)
        assert third["previous_response_id"] == second["id"]
        assert third["session"]["state_bytes"] == first["session"]["state_bytes"]
        assert third["usage"]["input_tokens"] == 1 and third["usage"]["output_tokens"] == 20
        others.append(text(second) != alone(engine, "jjjihg", more, **rules))
    # the control: what was read before counts
    assert any(others)
    assert client.get(f"/v1/responses/{third['id']}").json() == third


def test_a_response_is_deleted_and_its_children_stay(client):
    first = post(client, "responses", input=PROMPT, max_output_tokens=3)
    second = post(client, "responses", previous_response_id=first["id"], max_output_tokens=3)
    gone = client.delete(f"/v1/responses/{first['id']}")
    assert gone.json() == {"id": first["id"], "object": "response", "deleted": True}
    for again in (client.get, client.delete):
        assert again(f"/v1/responses/{first['id']}").status_code == 404
    found = post(client, "responses", 404, previous_response_id=first["id"])
    assert found["error"]["code"] == "not_found" and first["id"] in found["error"]["message"]
    assert post(client, "responses", previous_response_id=second["id"], max_output_tokens=3)


def test_a_response_that_is_not_stored_is_nowhere(client):
    found = post(client, "responses", input="a", store=False, max_output_tokens=3)
    assert client.get(f"/v1/responses/{found['id']}").status_code == 404


def test_messages_of_the_user_are_text(client, engine):
    parts = [{"type": "input_text", "text": "ab"}, {"type": "input_text", "text": "c"}]
    messages = [{"role": "user", "content": parts}, {"role": "user", "content": "d"}]
    found = post(client, "responses", input=messages, max_output_tokens=20, **GREEDY)
    assert found["output"][0]["content"][0]["text"] == alone(engine, "abcd", temperature=0)


@pytest.mark.parametrize("ends", [False, True])
def test_the_events_of_a_response(client, engine, ends):
    rules = {"input": PROMPT, "max_output_tokens": 150, "temperature": 2.0, "seed": 3}
    whole = alone(engine, PROMPT, count=150, temperature=2.0, seed=3)
    rules |= {"stop": whole[140:144]} if ends else {}
    found = events(client, "responses", **rules)
    kinds = [content["type"] for _, content in found]
    deltas = kinds.count("response.output_text.delta")
    last = "response.completed" if ends else "response.incomplete"
    assert deltas > 2 and kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        last,
    ]
    assert [content["sequence_number"] for _, content in found] == list(range(len(found)))
    assert [name for name, _ in found] == [[f"event: {kind}"] for kind in kinds]
    text = "".join(c["delta"] for _, c in found if c["type"] == "response.output_text.delta")
    assert text == found[-4][1]["text"] == whole[: whole.index(rules["stop"])] if ends else whole
    record = found[-1][1]["response"]
    assert record["output"] == [found[-2][1]["item"]]
    # what the stream ended with is what is kept
    assert client.get(f"/v1/responses/{record['id']}").json() == record


def test_a_score_is_that_of_the_command(client, engine):
    texts = ["abcdefghij" * 20, "aaaa"]
    found = post(client, "score", input=texts, model="tiny")["data"]
    model = RMAT(engine.model.config)
    for index, text in enumerate(texts):
        pieces = [Letters().encode(text.encode())]
        *_, expected = score(model, sharp_params(), pieces, Letters.end)
        bits = expected.nats / np.log(2)
        assert found[index]["tokens"] == expected.tokens == len(text) + 1
        np.testing.assert_allclose(found[index]["bits"], bits, rtol=1e-6)
        np.testing.assert_allclose(found[index]["bits_per_byte"], bits / len(text), rtol=1e-6)
        nats = found[index]["nats_per_token"]
        np.testing.assert_allclose(nats * expected.tokens, expected.nats, rtol=1e-6)
    assert found[0]["bits_per_byte"] != found[1]["bits_per_byte"]
    (single,) = post(client, "score", input=texts[1])["data"]
    assert single["bits"] == found[1]["bits"]


def test_the_model_and_the_page(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["state_bytes"] == client.service.engine.state_bytes
    assert client.get("/v1/models/tiny").json() == model
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html") and "<title>" in page.text
    # it loads nothing from elsewhere, and its policy would not let it
    assert "http://" not in page.text and "https://" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/health").json() == {"status": "ok"}


def test_metrics_count(client):
    def value(name):
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = value("rmat_tokens_written_total"), value("rmat_tokens_read_total")
    post(client, "responses", input=PROMPT, max_output_tokens=20)
    client.get("/nowhere")
    assert value("rmat_tokens_written_total") - before[0] == 20
    assert value("rmat_tokens_read_total") - before[1] == 16
    assert value('rmat_requests_total{route="/v1/responses",status="200"}') == 1
    assert value('rmat_requests_total{route="other",status="404"}') == 1
    assert value('rmat_request_seconds_count{route="/v1/responses"}') == 1
    assert value("rmat_first_token_seconds_count") == 1
    assert value("rmat_sessions_memory") == 1
    assert value("rmat_state_bytes") == value("rmat_session_bytes") > 0
    assert value("rmat_rows_busy") == value("rmat_streams_waiting") == 0
    assert value("rmat_rows ") == 3
