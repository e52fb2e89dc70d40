"""Facts stand where the cell says, are asked for as they were told, and right answers are counted
where they belong.
"""

import dataclasses
import math

import jax
import numpy as np
import pytest

from rmat_jax.config import Config, DataConfig
from rmat_jax.data.recall import AFTER, BEFORE, DIGITS, NOISE, RecallLanes
from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suite import Options, Subject
from rmat_jax.evals.suites.recall import measure as measuring
from rmat_jax.evals.suites.recall.capacity import Change, capacity_cells, mapped, updates
from rmat_jax.evals.suites.recall.measure import Found, contexts, documents_of, measure
from rmat_jax.evals.suites.recall.needles import Cell, Pairs, PassKeys
from rmat_jax.evals.suites.recall.suite import DEPTHS, check, recall, verdict
from rmat_jax.train.heldout import Heldout
from rmat_jax.train.step import ASIDE, KEEP

C, SENTENCE = 32, len(BEFORE) + DIGITS + len(AFTER)


@pytest.fixture(scope="module")
def pairs_config(config):
    model = dataclasses.replace(config.model, vocab_size=24, chunk_len=C)
    return Config(
        model=model,
        data=DataConfig(synthetic="recall", recall_pairs=4),
        batch_size=2,
        chunks_per_step=6,
    )


@pytest.fixture(scope="module")
def pass_keys():
    haystack = np.random.default_rng(0).integers(ord("a"), ord("z"), 1000).astype(np.int32)
    return PassKeys(haystack, ByteTokenizer(), C)


def oracle(span, matched, most=1 << 30, last=True):
    """Stands for `evaluate_heldout`: a model that remembers `span` chunks of context and nothing of
    an emptied memory. It says what followed the last `matched` tokens where it sees them in what it
    remembers; of pairs it remembers the `most` that were told last, of two values the first or the
    last."""

    def evaluate(config, params, packed, num_bytes):
        batches = list(packed)
        rows = len(batches[0]["tokens"])
        lanes = {name: np.concatenate([b[name] for b in batches], axis=1) for name in batches[0]}
        found = []
        for lane, place in np.argwhere(lanes["targets"] >= 0):
            tokens, offset = lanes["tokens"][lane], lanes["offsets"][lane, place]
            chunk = place // C
            aside = lanes["forget"][lane, chunk] == ASIDE
            # behind it, in earnest, stands the aside
            context_end = chunk * C if aside else (chunk - 1) * C
            begin = max(place - offset, context_end - span * C)
            seen = [] if aside else tokens[begin:context_end].tolist()
            asked = tokens[place - matched + 1 : place + 1].tolist()
            says = [
                seen[i + matched]
                for i in range(len(seen) - matched)
                if seen[i : i + matched] == asked
                and len(asked)
                and sum(token >= NOISE for token in seen[i:]) <= 2 * most
            ]
            correct = (says[-1:] if last else says[:1]) == [lanes["targets"][lane, place]]
            number = (lanes["documents"][lane, place] + 1) * rows + lane
            found.append((0.5 if correct else 4.0, correct, place % C, offset, number, lane))
        columns = [np.array(column) for column in zip(*found, strict=True)]
        return Heldout(*columns, chunk_len=C, num_bytes=None)

    return evaluate


def grid_of(monkeypatch, config, needles, span, matched, cells):
    monkeypatch.setattr(measuring, "evaluate_heldout", oracle(span, matched))
    return measure(Subject(None, config, None, 0), needles, cells, seed=1)


@pytest.mark.parametrize("kind", ["pairs", "pass keys"])
def test_a_model_that_remembers_four_chunks_finds_what_stands_in_them(
    monkeypatch, kind, pairs_config, pass_keys
):
    needles, matched = (Pairs(pairs_config), 1) if kind == "pairs" else (pass_keys, 12)
    cells = [Cell(chunks, depth, 4) for chunks in (4, 16) for depth in DEPTHS for _ in range(3)]
    found = grid_of(monkeypatch, pairs_config, needles, 4, matched, cells)
    for chunks in (4, 16):
        for depth in DEPTHS:
            which = found.where(chunks=chunks, depth=depth)
            expected = 1.0 if chunks == 4 or depth == 1 else 0.0
            assert found.accuracy(which, found.kept).value == expected, (chunks, depth)
            assert found.exact(which, found.kept).value == expected
    assert not found.cut.any() and (found.cut_bits == 4.0 * found.asked).all()
    assert (found.asked == (4 if kind == "pairs" else DIGITS)).all()
    all_of_it = grid_of(monkeypatch, pairs_config, needles, 16, matched, cells)
    assert (all_of_it.kept == all_of_it.asked).all() and (
        all_of_it.kept_bits == 0.5 * all_of_it.asked
    ).all()
    assert found.gain(found.where(chunks=4)).value == 1.0


def test_errors_are_those_of_documents_whose_answers_stand_or_fall_together():
    asked, right = np.full(40, 5), 5 * (np.arange(40) < 30)
    found = Found([Cell(4, 0.0, 1)] * 40, asked, right, right, right, right)
    every = np.full(40, True)
    share, error, units = found.accuracy(every, found.kept)
    assert (share, units) == (0.75, 40) and (share, error, units) == found.exact(every, found.kept)
    assert error == pytest.approx((0.75 * 0.25 / 39) ** 0.5)
    # the control: as many right ones, in no document all
    spread = np.arange(200).reshape(40, 5) % 4 < 3
    apart = dataclasses.replace(found, kept=spread.sum(1))
    assert (
        apart.accuracy(every, apart.kept).value == 0.75
        and apart.accuracy(every, apart.kept).error < error / 2
    )


@pytest.mark.parametrize("depth", DEPTHS)
def test_pass_keys_stand_in_the_chunk_at_their_depth_at_any_place(pass_keys, depth):
    rng = np.random.default_rng(0)
    texts = (
        pass_keys.make(Cell(8, depth, 1), rng)["tokens"][: 8 * C].astype(np.uint8).tobytes()
        for _ in range(500)
    )
    first = 1 + math.floor(depth * (7 * C - SENTENCE))
    assert {text.index(BEFORE) for text in texts} == set(range(first, first + C))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_pass_key_is_asked_for_with_the_words_that_told_it(pass_keys, depth):
    made = pass_keys.make(Cell(8, depth, 1), np.random.default_rng(3))
    tokens, targets = made["tokens"], made["targets"]
    assert len(tokens) == len(targets) == 10 * C and made["forget"].tolist() == [KEEP] * 8 + [
        ASIDE,
        KEEP,
    ]
    text = bytes(np.where(tokens < 256, tokens, ord("|")).astype(np.uint8))
    assert text[:1] == b"|" and text.count(BEFORE) == 3 and text.count(AFTER) == 1
    key = text[text.index(BEFORE) + len(BEFORE) :][:DIGITS]
    assert key.isdigit()
    # the aside, and in earnest
    for begin in (8 * C, 9 * C):
        assert text[begin:].startswith(BEFORE + key)
        answers = np.flatnonzero(targets[begin : begin + C] >= 0)
        assert answers.tolist() == list(range(len(BEFORE) - 1, len(BEFORE) - 1 + DIGITS))
        assert bytes(targets[begin:][answers].tolist()) == key
    assert (targets[: 8 * C] == -1).all()
    other = pass_keys.make(Cell(8, depth, 1), np.random.default_rng(4))
    # another key in another text
    assert (other["tokens"] != tokens).mean() > 0.5


def test_pairs_at_the_depth_and_length_of_training_are_those_of_training(pairs_config):
    gap, pairs = pairs_config.data.recall_gap, 4
    lanes = RecallLanes(pairs_config, range(1), "heldout")
    trained = (
        lanes[0]["tokens"][0, : lanes.document_len],
        lanes[0]["targets"][0, : lanes.document_len],
    )
    made = Pairs(pairs_config).make(Cell(gap + 1, 0.0, pairs), np.random.default_rng(0))
    again = made["tokens"][: (gap + 2) * C], made["targets"][: (gap + 2) * C]
    for tokens, targets in (trained, again):
        asked = np.flatnonzero(targets >= 0)
        assert asked.tolist() == [(gap + 1) * C + 2 * n for n in range(pairs)]
        told = np.flatnonzero(tokens[: (gap + 1) * C] >= NOISE)
        assert len(told) == 2 * pairs and told[-1] < C
        said = dict(tokens[told].reshape(-1, 2).tolist())
        assert [said[key] for key in tokens[asked].tolist()] == targets[asked].tolist()


@pytest.mark.parametrize(("depth", "chunk"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_pairs_stand_in_the_chunk_of_their_depth(pairs_config, depth, chunk):
    tokens = Pairs(pairs_config).make(Cell(9, depth, 8), np.random.default_rng(0))["tokens"]
    told = np.flatnonzero(tokens[: 9 * C] >= NOISE)
    assert len(told) == 16 and set(told // C) == {chunk}


def test_cells_cost_alike():
    assert contexts(4) == [4] and contexts(63) == [4, 16, 63] and contexts(64) == [4, 16, 64]
    count = [documents_of(Cell(chunks, 0.5, 1), 64, 100) for chunks in contexts(4096)]
    assert count == [100, 100, 25, 8, 8, 8]
    assert documents_of(Cell(4096, 0.5, 1), 64, 3) == 3


def test_verdict_follows_the_numbers():
    tokens, sure, unsure = [64, 256, 1024], Mean(0.5, 0.01, 9), Mean(0.01, 0.01, 9)
    right, wrong = Mean(0.95, 0.01, 9), Mean(0.15, 0.01, 9)
    text = verdict(tokens, [right, wrong, wrong], [sure, sure, unsure], "value")
    assert (
        "Nine of ten answers are right up to 64 tokens" in text
        and "helps up to 256, where 15.0% are right" in text
    )
    assert "No value is found again" in verdict(tokens, [right] * 3, [unsure] * 3, "value")
    poor = verdict(tokens, [wrong] * 3, [unsure, sure, sure], "value")
    none = "Already in the shortest context fewer than nine of ten"
    assert none in poor and "though not" in poor
    assert none in verdict(tokens, [wrong, right, right], [sure] * 3, "value")
    assert "up to 64 tokens" in verdict(tokens, [right, wrong, right], [sure] * 3, "value")
    harmed = Mean(-0.3, 0.01, 9)
    for gains in ([sure, unsure, harmed], [unsure, unsure, harmed]):
        text = verdict(tokens, [right, right, wrong], gains, "value")
        assert "**The memory does harm at 1,024 tokens of context**: -0.300" in text
    assert "harm" not in verdict(tokens, [right] * 3, [sure, unsure, Mean(-0.01, 0.01, 9)], "value")


def test_a_model_of_pairs_is_asked_for_more_and_fewer_of_them(pairs_config, tmp_path):
    params = jax.jit(lambda: make_params(pairs_config))()
    section = recall(
        Subject(tmp_path, pairs_config, params, 0), Options(max_tokens=4 * C, examples=4), tmp_path
    )
    assert (tmp_path / "recall.png").exists() and (tmp_path / "keys.png").exists()
    assert section.values["context_tokens"] == [4 * C] and section.values["keys"]["pairs"] == [
        1,
        2,
        4,
        8,
    ]
    assert section.values["chance"] == 1 / 8
    assert "keys are held" in section.text and "keys.png" in section.text
    assert section.values["documents"] == [[4]] * 5


def test_contexts_beyond_far_are_asked_about_their_beginning_alone(
    monkeypatch, pairs_config, tmp_path
):
    for module in ("suite", "capacity"):
        monkeypatch.setattr(f"rmat_jax.evals.suites.recall.{module}.FAR", 4 * C)
    subject = Subject(tmp_path, pairs_config, jax.jit(lambda: make_params(pairs_config))(), 0)
    values = recall(subject, Options(max_tokens=16 * C, examples=2), tmp_path).values
    assert values["context_tokens"] == [4 * C, 16 * C]
    assert values["documents"] == [[2, 2], *[[2, 0]] * 4]
    far = [row[1].value for row in values["accuracy"]]
    assert far[0] == values["by_context"]["with_memory"][1].value and np.isnan(far[1:]).all()
    assert 16 * C not in values["capacity"]["context_tokens"]


def make_params(config):
    from rmat_jax.model import RMAT

    tokens = jax.numpy.zeros((1, C), "int32")
    return jax.tree.map(
        lambda x: 2 * x, RMAT(config.model).init(jax.random.key(0), tokens)["params"]
    )


def test_a_model_of_text_is_asked_for_pass_keys(text_subject, tmp_path):
    (tmp_path / "text.txt").write_text("A text that is read again and again. " * 9)
    options = Options(text=str(tmp_path / "text.txt"), max_tokens=16 * C, examples=2)
    section = recall(text_subject, options, tmp_path)
    assert (tmp_path / "recall.png").exists() and not (tmp_path / "keys.png").exists()
    values = section.values
    assert values["context_tokens"] == [4 * C, 16 * C] and np.shape(values["accuracy"]) == (5, 2, 3)
    # An untrained model does worse than a guesser of digits, and its memory changes what they cost.
    assert min(values["by_context"]["bits"]) > DIGITS * np.log2(10)
    assert min(abs(mean.value) for mean in values["by_context"]["bits_saved_by_memory"]) > 1e-4
    assert "guessing | 0.100 | 0.100 | 0.000 | 16.61" in section.text


def test_what_cannot_be_asked_is_an_error(text_subject, tmp_path):
    options = Options(text=str(tmp_path), max_tokens=4 * C)
    check(text_subject, options)
    with pytest.raises(UserError, match="max_tokens=127 must be at least 4 chunks, 128"):
        check(text_subject, dataclasses.replace(options, max_tokens=127))
    model = dataclasses.replace(text_subject.config.model, chunk_len=16)
    short = dataclasses.replace(
        text_subject, config=dataclasses.replace(text_subject.config, model=model)
    )
    message = "too short to ask for a pass key, which takes 22 tokens; use at least 22"
    with pytest.raises(UserError, match=f"chunk_len=16 is {message}"):
        check(short, options)


def capacity_of(monkeypatch, config, tmp_path, gap=4, **known):
    """The map of an oracle, and the report's text."""
    monkeypatch.setattr(measuring, "evaluate_heldout", oracle(matched=1, **known))
    data = dataclasses.replace(config.data, recall_gap=gap)
    subject = Subject(tmp_path, dataclasses.replace(config, data=data), None, 0)
    section = recall(subject, Options(max_tokens=64 * C, examples=8), tmp_path)
    return section.values["capacity"], section.text


def test_the_map_shows_how_many_pairs_are_held_how_long(monkeypatch, pairs_config, tmp_path):
    found, text = capacity_of(monkeypatch, pairs_config, tmp_path, span=16, most=2)
    # the trained length is among them
    assert found["context_tokens"] == [4 * C, 5 * C, 16 * C, 64 * C]
    assert found["pairs"] == [1, 2, 4, 8]
    share = [[mean.value for mean in row] for row in found["accuracy"]]
    assert share == [[1, 1, 1, 0], [1, 1, 1, 0], [0.5, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0]]
    assert {mean.value for mean in found["emptied"]} == {0}
    # Of one key all is known; of more, what is right is corrected for guessing among 8.
    assert found["held"] == pytest.approx([2, 2, 2, 0])
    assert "**0.0 keys are held over 2,048 tokens of noise**, 2.0 over 128" in text
    assert "The memory has 6 slots a layer." in text
    assert "| 4 pairs, told twice | 0.500 ± 0.000 | 0.500 ± 0.000 |" in text
    assert (tmp_path / "capacity.png").stat().st_size > 1000
    longer, _ = capacity_of(monkeypatch, pairs_config, tmp_path, span=64, most=4)
    assert longer["held"] == pytest.approx([4, 4, 4, 4])


def test_the_last_value_of_a_key_counts(monkeypatch, pairs_config, tmp_path):
    found, text = capacity_of(monkeypatch, pairs_config, tmp_path, span=64)
    assert [mean.value for mean in found["updated"]["accuracy"]] == [1, 1, 1, 1]
    assert "**Keys are updated**: of keys told twice the last value is found in 100.0%" in text
    # the control: it keeps the value that it read first
    stale, text = capacity_of(monkeypatch, pairs_config, tmp_path, span=65, last=False)
    assert [mean.value for mean in stale["updated"]["accuracy"]] == [0, 0, 0, 0]
    assert {mean.value for row in stale["accuracy"] for mean in row} == {1}
    assert (
        "**Updates are lost in part**: of keys told twice the last value is found in 0.0%" in text
    )
    # one that forgets all cannot be judged
    _, text = capacity_of(monkeypatch, pairs_config, tmp_path, span=0)
    assert "Whether keys are updated cannot be told: those told once" in text


def test_updated_pairs_are_told_twice_with_other_values(pairs_config):
    needles = Pairs(pairs_config)
    made = needles.make(Cell(6, 1 / 5, 4, updated=True), np.random.default_rng(0))
    tokens, targets = made["tokens"], made["targets"]
    before, after = (
        dict(part[part >= NOISE].reshape(-1, 2).tolist())
        for part in (tokens[:C], tokens[C : 2 * C])
    )
    assert before.keys() == after.keys() and len(after) == 4
    assert all(before[key] != after[key] for key in after)
    assert not (tokens[2 * C : 6 * C] >= NOISE).any()
    asked = np.flatnonzero(targets[-C:] >= 0)
    assert [after[key] for key in tokens[-C:][asked].tolist()] == targets[-C:][asked].tolist()
    # Those that are told once are as they were.
    once = needles.make(Cell(6, 1 / 5, 4), np.random.default_rng(0))["tokens"]
    assert not (once[:C] >= NOISE).any()


def test_the_map_is_bounded(pairs_config):
    assert mapped([1, 2, 4, 8]) == [1, 2, 4, 8] and mapped([1, 2, 4, 8, 16, 32]) == [2, 8, 32]
    model = dataclasses.replace(pairs_config.model, chunk_len=256, vocab_size=300)
    data = dataclasses.replace(pairs_config.data, recall_symbols=128, recall_gap=2)
    cells = capacity_cells(
        dataclasses.replace(pairs_config, model=model, data=data), Options(max_tokens=1 << 16)
    )
    here = [cell.facts for cell in cells if cell.chunks == 3]
    assert here == [1, 2, 4, 8, 16, 32, 64, 128]
    # Powers of two that are few enough, the trained number, and that once more.
    for chunks in (4, 16, 64, 256):
        once = [cell.facts for cell in cells if cell.chunks == chunks and not cell.updated]
        assert once == [2, 4, 8, 32, 128]
        twice = [cell for cell in cells if cell.chunks == chunks + 1 and cell.updated]
        assert [(cell.facts, round(cell.depth * (cell.chunks - 1))) for cell in twice] == [(4, 1)]


def test_a_single_document_tells_no_update():
    change = Change(Mean(1.0, math.nan, 1), Mean(1.0, 0.0, 1), Mean(0.0, math.nan, 1))
    assert "cannot be told from one document" in updates(change, 0.1)
    assert "cannot be told" in updates(change._replace(once=change.twice), 0.1)
