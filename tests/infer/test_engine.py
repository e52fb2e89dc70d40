"""Sessions compute what one pass computes, whoever shares the batch with them.

They join, leave, fork, are saved and return meanwhile.
"""

import asyncio
import importlib
import signal
import threading
import time

import jax
import numpy as np
import pytest

from rmat_jax.errors import UserError
from tests import reference
from tests.infer.letters import (
    CONFIG,
    Letters,
    bits,
    make_engine,
    one_pass,
    quiet_params,
    random_text,
    stands,
)
from tests.models import assert_same, facts, make_params, tiny

pure = importlib.import_module("rmat_jax.infer.streams")
PROMPT = b"abcdefghijabcabcabcdefghijabcdefghij"


def run(config, tmp_path, seed=0, deeds=90):
    """Plays a day of an engine.

    Sessions open, read texts of 1 to 150 letters, write, fork, are saved and restored, and are
    dropped.

    Returns:
        [(session, the tokens it should have read)] of those still there at the end.
    """
    rng, engine = np.random.default_rng(seed), make_engine(config)
    # told and writing by session: its tokens, its pieces that are being written
    told, writing, done = {}, {}, []

    def listen(session, pieces=10**6):
        """Hears the next pieces of a session that writes."""
        for _ in range(pieces if session in writing else 0):
            piece = next(writing[session], None)
            if piece is None:
                del writing[session]
                return
            told[session] += piece.tokens.tolist()

    for _ in range(deeds):
        text = Letters().encode(random_text(rng, int(rng.choice([1, 5, 16, 17, 70, 150])))).tolist()
        deed = str(
            rng.choice(
                ["open", "read", "write", "fork", "restore", "drop"],
                p=[0.15, 0.2, 0.35, 0.1, 0.1, 0.1],
            )
        )
        if deed == "open" or not told:
            told[engine.open(text)] = [Letters.end, *text]
            continue
        session = list(told)[rng.integers(len(told))]
        if deed != "write":
            listen(session)
        elif session not in writing:
            options = {
                "temperature": float(rng.choice([0, 1.5])),
                "stop": [[], [b"c"], [b"ab", b"ii"]][rng.integers(3)],
            }
            writing[session] = session.write_pieces(
                max_new_tokens=int(rng.integers(1, 90)), **options
            )
        if deed == "read":
            session.read(text)
            told[session] += text
        elif deed == "fork":
            told[session.fork()] = list(told[session])
        elif deed == "restore":
            session.save(tmp_path / "session")
            told[engine.load(tmp_path / "session")] = told.pop(session)
        elif deed == "drop":
            del told[session]
        done.append(deed)
        for other in rng.permutation(len(told))[:2]:
            listen(list(told)[other], 1)
    assert min(map(done.count, ("read", "write", "fork", "restore", "drop"))) > 2
    for session in told:
        listen(session)
        session.catch_up()
        assert session.tokens == len(told[session])
    return list(told.items())


def test_sessions_are_one_pass(tmp_path):
    """Law 2 holds through the engine.

    Sums of up to 16 terms of order 1 come in another order, which is some hundred float32 roundings
    of 6e-8.
    """
    alive = run(CONFIG, tmp_path)
    assert len(alive) > 4 and max(len(told) for _, told in alive) > 300
    for session, told in alive:
        logits, state = stands(session)
        expected, expected_state = one_pass(CONFIG, told)
        np.testing.assert_allclose(logits, expected[-1], rtol=0, atol=2e-5)
        assert_same(facts(CONFIG, state), facts(CONFIG, expected_state), 2e-5)
    here, told = stands(alive[0][0])[0], alive[0][1]
    # The controls are the history of another session, and one token less.
    for other in ([other for _, other in alive[1:]], [told[:-1]]):
        assert (
            max(np.abs(here - one_pass(CONFIG, history)[0][-1]).max() for history in other) > 1e-2
        )


def test_sessions_are_one_pass_in_bfloat16(tmp_path):
    """Sessions are as near to the exact answer as one pass in bfloat16 is: both only round."""
    config = tiny(**{**CONFIG.__dict__, "dtype": "bfloat16"})
    alive = run(config, tmp_path, seed=3)
    with jax.enable_x64(True):
        exact = [exact_logits(config, told) for _, told in alive]
    rounding = max(
        np.abs(one_pass(config, told)[0][-1] - expected).max()
        for (_, told), expected in zip(alive, exact, strict=True)
    )
    assert 0 < rounding < 8 * float(jax.numpy.finfo("bfloat16").eps)
    for (session, _), expected in zip(alive, exact, strict=True):
        assert np.abs(stands(session)[0] - expected).max() < 2 * rounding
    # the control
    assert max(np.abs(stands(alive[0][0])[0] - other).max() for other in exact[1:]) > 4 * rounding


def exact_logits(config, told):
    params = jax.tree.map(np.float64, quiet_params(config))
    (lane,) = reference.read(config, params, np.array([told]), np.zeros((1, len(told)), int))
    return lane.logits_TV[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_company_changes_nothing(dtype):
    """A session alone equals, bit for bit, one in another row among others that come and go."""
    config = tiny(**{**CONFIG.__dict__, "dtype": dtype})

    def speak(company):
        rng, engine, others = np.random.default_rng(1), make_engine(config), []
        for _ in range(company):
            others.append(engine.open(random_text(rng, int(rng.integers(1, 40)))))
            others[-1].write(
                max_new_tokens=int(rng.integers(1, 60)), temperature=2.0, top_p=0.9, stop="a"
            )
            engine.step()
        session, pieces = engine.open(PROMPT), []
        for piece in session.write_pieces(
            max_new_tokens=100, temperature=1.5, seed=5, stop=[b"jjjj"]
        ):
            pieces.append(piece)
            if company:
                others.append(engine.open(random_text(rng, 20)))
                others[-1].write(max_new_tokens=3)
        return (
            np.concatenate([p.tokens for p in pieces]),
            np.concatenate([p.logprobs for p in pieces]),
            bits(session),
        )

    tokens, logprobs, state = speak(0)
    for company in (1, 2, 5):
        other_tokens, other_logprobs, other_state = speak(company)
        np.testing.assert_array_equal(other_tokens, tokens)
        np.testing.assert_array_equal(other_logprobs, logprobs)
        assert other_state == state


def test_nothing_is_compiled_again():
    """After one session of each width all programs are there, whoever joins, leaves or forks."""
    engine = make_engine()
    for length in (1, 17, 150):
        "".join(engine.open(b"a" * length).write(max_new_tokens=3))
    programs = [
        function._cache_size() for function in (pure.read, pure.decode, pure.take, pure.put)
    ]
    rng, sessions = np.random.default_rng(0), []
    for _ in range(12):
        sessions.append(engine.open(random_text(rng, int(rng.integers(1, 150)))))
        sessions.append(sessions[0].fork())
        texts = [
            s.write(max_new_tokens=int(rng.integers(1, 9)), temperature=1.0, top_k=2, stop="a")
            for s in sessions
        ]
        assert all(sum(len(piece) for piece in text) <= 9 for text in texts)
    assert programs == [
        function._cache_size() for function in (pure.read, pure.decode, pure.take, pure.put)
    ]
    make_engine(rows=2).open(b"a").catch_up()
    # The control: another number of rows is another program.
    assert programs[0] < pure.read._cache_size()


def test_the_state_does_not_grow():
    """Law 10 holds through the engine: a session keeps as much after 20,000 tokens as after 10."""
    engine = make_engine()
    session = engine.open(b"abcabcabc")
    short = [len(leaf) for leaf in bits(session)]
    session.read(b"abcdefghij" * 1500)
    for _ in session.write(max_new_tokens=5000):
        pass
    assert session.tokens == 20_010 and [len(leaf) for leaf in bits(session)] == short
    # Beside the state there are the logits and the number of written tokens.
    assert session.state_bytes == sum(short) - 11 * 4 - 4


def test_seeds_and_going_on():
    """The same seed gives the same text, in one call or in two.

    The session numbers its draws, so that two texts one after the other are one.
    """
    engine = make_engine()
    start = engine.open(PROMPT)
    texts = [
        "".join(start.fork().write(max_new_tokens=60, temperature=3.0, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    session = start.fork()
    parts = [
        "".join(session.write(max_new_tokens=count, temperature=3.0, seed=1)) for count in (25, 35)
    ]
    assert "".join(parts) == texts[0]


def test_log_probabilities():
    """They are the model's own, whatever the temperature and the cuts."""
    session = make_engine().open(PROMPT)
    told = [Letters.end, *Letters().encode(PROMPT)]
    pieces = list(session.write_pieces(max_new_tokens=50, temperature=2.0, top_k=4))
    tokens = np.concatenate([piece.tokens for piece in pieces])
    logits, _ = one_pass(CONFIG, told + tokens.tolist())
    expected = np.asarray(jax.nn.log_softmax(logits))[
        np.arange(len(told) - 1, len(told) + 49), tokens
    ]
    np.testing.assert_allclose(
        np.concatenate([piece.logprobs for piece in pieces]), expected, atol=2e-5
    )


def test_stop_sequences():
    """The text ends before the first one.

    The session has read up to the last letter of the sequence, and no further.
    """
    engine = make_engine()
    start = engine.open(PROMPT)
    whole = "".join(start.fork().write(max_new_tokens=200, temperature=2.0, seed=4))
    for stop in ([whole[50:52]], [whole[120:125], whole[60:62]], ["k"], [whole[0]], whole[30:34]):
        session = start.fork()
        text = "".join(session.write(max_new_tokens=200, temperature=2.0, seed=4, stop=stop))
        found = [
            (whole.find(s) + len(s), s)
            for s in ([stop] if isinstance(stop, str) else stop)
            if s in whole
        ]
        read, first = min(found, default=(200, ""))
        assert text == whole[: read - len(first)] and session.tokens == start.tokens + read
        assert session.ended == ("stop" if found else "length")
        told = [Letters.end, *Letters().encode(PROMPT + whole[:read].encode())]
        np.testing.assert_allclose(stands(session)[0], one_pass(CONFIG, told)[0][-1], atol=2e-5)


def test_the_end_of_a_document_is_not_read():
    """The session stands before it, and can be told more of the same document."""
    # This model ends documents, unlike the quiet one.
    params = make_params(CONFIG)
    session = make_engine(params=params).open(PROMPT)
    text = "".join(session.write(max_new_tokens=1000, temperature=2.0))
    assert session.ended == "end" and session.tokens == 1 + len(PROMPT) + len(text)
    told = [Letters.end, *Letters().encode(PROMPT + text.encode())]
    np.testing.assert_allclose(stands(session)[0], one_pass(CONFIG, told, params)[0][-1], atol=2e-5)
    assert (
        sum(
            piece.tokens.tolist().count(Letters.end)
            for piece in session.write_pieces(max_new_tokens=100)
        )
        == 0
    )


def test_the_end_of_a_document_in_a_prompt_begins_the_next():
    """What follows it is read as if nothing had been, as in training."""
    engine, prompt = make_engine(), Letters().encode(PROMPT).tolist()
    # it fills whole chunks with the token before it, so that both stand at a chunk's start
    before = random_text(np.random.default_rng(0), 3 * CONFIG.chunk_len - 1)

    def logits(session):
        return np.asarray(engine.standing(session)[0].logits_BV)

    found = {}
    for opener in (Letters.end, 0):
        session = engine.open(before)
        session.read([opener, *prompt])
        found[opener] = logits(session)
    alone = logits(engine.open(prompt))
    np.testing.assert_allclose(found[Letters.end], alone, rtol=0, atol=1e-4)
    # the control: another token begins none
    assert np.abs(found[0] - alone).max() > 1e-2


def test_rows_are_taken_in_turns():
    """While a session waits for a row, no other writes more than two turns."""
    engine = make_engine(rows=2)
    sessions = [engine.open(PROMPT) for _ in range(5)]
    writing = [session.write_pieces(max_new_tokens=2000, temperature=2.0) for session in sessions]
    # by session: the tokens of all when it last wrote
    heard, worst = [np.zeros(5, int) for _ in sessions], 0
    while not all(session.ended for session in sessions):
        engine.step()
        tokens = np.array([session.tokens for session in sessions])
        for index, session in enumerate(sessions):
            if session.ticket.job.ready:
                worst = max(worst, (tokens - heard[index])[np.arange(5) != index].max())
                heard[index] = tokens
                # Somebody listened.
                session.ticket.job.ready.clear()
    assert all(session.ended == "length" for session in sessions) and len(writing) == 5
    # At least one turn passed, since there were more sessions than rows.
    assert 256 <= worst <= 2 * (256 + 64)


def test_a_long_prompt_lets_others_read():
    """One prompt is read a step. The long one came first, and takes turns with the short ones."""
    engine = make_engine(prompts=1)
    long, *short = [engine.open(b"abcdefghij" * length) for length in (100, 1, 1)]
    for _ in range(3):
        engine.step()
    assert [session.tokens for session in short] == [11, 11]
    assert 0 < long.tokens < 1001 and long.ticket.unread


def test_one_session_does_not_silence_the_others():
    """While one reads a long prompt or waits for a row, the others' text goes on, step by step."""
    engine = make_engine(rows=2)
    talker = engine.open(PROMPT)
    pieces, seen, done = (
        talker.write_pieces(max_new_tokens=None, temperature=2.0),
        [],
        threading.Event(),
    )
    next(pieces)

    def read():
        "".join(engine.open(b"abcdefghij" * 2000).write(max_new_tokens=1))
        done.set()

    steps, thread = engine._steps, threading.Thread(target=read)
    thread.start()
    while not done.is_set():
        before = engine._steps
        next(pieces)
        seen.append(engine._steps - before)
    thread.join()
    # The control: the prompt took so many steps.
    assert engine._steps - steps > 200
    # steps between two pieces
    assert len(seen) > 20 and max(seen) < 20


def test_ids_that_the_tokenizer_does_not_know_are_not_written():
    engine = make_engine(tiny(**{**CONFIG.__dict__, "vocab_size": 40}))
    texts = [
        engine.open(PROMPT).write(max_new_tokens=30, temperature=1000.0, seed=seed)
        for seed in range(40)
    ]
    assert set("".join(map("".join, texts))) == set("abcdefghij")


def test_weights_that_are_no_numbers_end_a_text_by_name():
    params = jax.tree.map(np.copy, quiet_params(CONFIG))
    params["layers"]["fusion"][:] = np.nan
    with pytest.raises(UserError, match="NaN"):
        "".join(make_engine(params=params).open(PROMPT).write())


def test_a_step_that_was_torn_says_so(monkeypatch):
    """The control to the interrupted steps: between two lines of a step the rows are lost."""
    engine = make_engine()
    session = engine.open(PROMPT)
    module, decode = importlib.import_module("rmat_jax.infer.rows"), pure.decode

    def torn(*arguments):
        decode(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decode", torn)
    with pytest.raises(KeyboardInterrupt):
        "".join(session.write(max_new_tokens=20))
    with pytest.raises(UserError, match="make another one"):
        session.fork()


def test_sessions_that_nobody_holds_stop():
    engine = make_engine()
    for _ in range(5):
        engine.open(PROMPT).write(max_new_tokens=None, temperature=2.0)
    "".join(engine.open(PROMPT).write(max_new_tokens=3))
    engine.step()
    assert not engine._wanting and engine._seats == [None] * 3


def test_more_sessions_than_rows():
    """They take turns; one that is ahead of its reader gives its row away."""
    engine = make_engine(rows=1)
    endless = [
        engine.open(PROMPT).write(max_new_tokens=None, temperature=2.0, seed=seed)
        for seed in (0, 1)
    ]
    # The first one, which nobody reads, came before.
    assert len(next(endless[1])) > 0
    texts = [
        engine.open(PROMPT).write(max_new_tokens=70, temperature=2.0, seed=2) for _ in range(5)
    ]
    assert len({"".join(text) for text in texts}) == 1
    assert len(next(endless[0])) > 0


def test_giving_up_stops_a_session():
    engine = make_engine()
    session, other = engine.open(PROMPT), engine.open(PROMPT)
    for _ in session.write(max_new_tokens=10_000, temperature=2.0):
        break
    come = session.tokens
    "".join(other.write(max_new_tokens=200))
    assert session.ended == "given up" and session.tokens == come
    session.read(b"abc")
    session.catch_up()
    assert session.tokens == come + 3
    kept = other.write(max_new_tokens=10_000)
    with pytest.raises(UserError, match="writing already"):
        other.write()
    other.stop()
    assert (
        other.ended == "given up"
        and "".join(kept) == ""
        and len("".join(other.write(max_new_tokens=2, temperature=0))) <= 2
    )


@pytest.mark.parametrize("name", ["read", "decode"])
def test_an_interrupted_step_is_done_to_its_end(name, monkeypatch):
    """Ctrl-C in the middle of a call breaks neither the engine nor a session."""
    engine = make_engine()
    session, other = engine.open(PROMPT), engine.open(PROMPT[::-1])
    expected = "".join(make_engine().open(PROMPT[::-1]).write(max_new_tokens=20))
    function, module = getattr(pure, name), importlib.import_module("rmat_jax.infer.rows")

    def interrupted(*arguments):
        monkeypatch.setattr(module, name, function)
        signal.raise_signal(signal.SIGINT)
        return function(*arguments)

    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        "".join(session.write(max_new_tokens=20))
    assert session.ended == "given up"
    told = [Letters.end, *Letters().encode(PROMPT)]
    # These were written before the signal was heard.
    told += [t for piece in session.ticket.job.ready for t in piece.tokens.tolist()]
    assert session.tokens == len(told)
    np.testing.assert_allclose(stands(session)[0], one_pass(CONFIG, told)[0][-1], atol=2e-5)
    assert "".join(other.write(max_new_tokens=20)) == expected


def test_asyncio_is_the_same_text():
    """Eight sessions write on three rows, all at once."""
    alone = [
        "".join(
            make_engine().open(PROMPT[seed:]).write(max_new_tokens=90, temperature=2.0, seed=seed)
        )
        for seed in range(8)
    ]
    engine = make_engine()

    async def one(seed):
        pieces = [
            p
            async for p in engine.open(PROMPT[seed:]).stream(
                max_new_tokens=90, temperature=2.0, seed=seed
            )
        ]
        return "".join(pieces)

    async def everyone():
        return await asyncio.gather(*map(one, range(8)))

    assert asyncio.run(everyone()) == alone
    # the control
    assert len(set(alone)) > 4

    async def leaves():
        session = engine.open(PROMPT)
        async for _ in session.stream(max_new_tokens=10_000, temperature=2.0):
            raise KeyError
        return session

    with pytest.raises(KeyError):
        asyncio.run(leaves())

    async def heartbeat(silences):
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            silences.append(time.perf_counter() - before)

    async def busy():
        """A long prompt is read, sessions are opened, and the loop's other tasks go on."""
        silences, session = [], engine.open(b"abcdefghij" * 2000)
        task = asyncio.create_task(heartbeat(silences))
        start = time.perf_counter()
        async for _ in session.stream(max_new_tokens=20):
            engine.open(PROMPT)
        task.cancel()
        return time.perf_counter() - start, max(silences)

    whole, longest = asyncio.run(busy())
    assert longest < whole / 3


def test_threads_share_an_engine():
    engine, texts = make_engine(rows=2), {}

    def speak(seed):
        texts[seed] = "".join(
            engine.open(PROMPT).write(max_new_tokens=80, temperature=2.0, seed=seed)
        )

    threads = [threading.Thread(target=speak, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    again = make_engine(rows=2)
    expected = {
        s: "".join(again.open(PROMPT).write(max_new_tokens=80, temperature=2.0, seed=s))
        for s in range(6)
    }
    assert texts == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be an integer from 1 to"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        (
            {"max_new_tokens": 2**31},
            "max_new_tokens=2147483648 must be an integer from 1 to 2147483647",
        ),
        ({"top_k": 2**40}, "top_k="),
        ({"seed": "a"}, "seed='a'"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"stop": [5]}, "stop="),
        ({"stop": None}, "stop=None"),
        ({"errors": "foo"}, "errors='foo'"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"seed": -1}, "seed=-1"),
        ({"stop": ["a", ""]}, "stop="),
    ],
)
def test_rules_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        make_engine().open(PROMPT).write(**options)


def test_what_cannot_be_read():
    engine = make_engine()
    with pytest.raises(UserError, match="token id 11 is outside the vocabulary"):
        engine.open([3, 11])
    with pytest.raises(UserError, match="rows=0"):
        make_engine(rows=0)
    for prompt in ([1.7, 2.2], [[1, 2], [3, 4]], [[1], [2, 3]], ["a"], 3, None, iter([1])):
        with pytest.raises(UserError, match="a prompt must be text, bytes or a list of token ids"):
            engine.open(prompt)
    assert engine.open(bytearray(b"ab")).ticket.unread[0].tolist() == [Letters.end, 0, 1]
    # This session has read nothing but the beginning of a document.
    session = engine.open()
    assert (
        session.read(b"") is None
        and len("".join(session.write(max_new_tokens=5, temperature=0))) <= 5
    )
    assert session.tokens >= 1


def test_a_closed_engine_ends_what_waits_with_a_clear_error(tmp_path):
    with make_engine(CONFIG) as engine:
        sessions = [engine.open(PROMPT) for _ in range(3)]
        ends = []

        def write(session):
            try:
                ends.append("".join(session.write(max_new_tokens=None)))
            except UserError as error:
                ends.append(str(error))

        threads = [threading.Thread(target=write, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        while not all(session.tokens > len(PROMPT) + 10 for session in sessions):
            time.sleep(0.01)
    for thread in threads:
        thread.join(30)
    assert len(ends) == 3 and all("this engine is closed" in end for end in ends)
    for late in (lambda: engine.open(PROMPT), lambda: next(sessions[0].write())):
        with pytest.raises(UserError, match="this engine is closed"):
            late()
    # what was read is not lost
    sessions[0].save(tmp_path / "session")
    assert make_engine(CONFIG).load(tmp_path / "session").tokens == sessions[0].tokens


def test_a_closed_engine_ends_streams_of_asyncio():
    async def main():
        engine = make_engine(CONFIG)
        stream = engine.open(PROMPT).stream(max_new_tokens=None)
        assert await anext(stream)
        engine.close()
        with pytest.raises(UserError, match="this engine is closed"):
            async for _ in stream:
                pass

    asyncio.run(main())
