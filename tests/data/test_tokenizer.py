"""Tokenizers lose nothing, whatever the bytes; ids outside the vocabulary are refused."""

import json
import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmat_jax.config import Config, DataConfig, RMATConfig
from rmat_jax.data.tokenizer import (
    PIECES,
    BPETokenizer,
    ByteTokenizer,
    count_words,
    from_letters,
    letters,
)
from rmat_jax.data.tokenizer_files import keep_tokenizer, load_tokenizer, make_tokenizer
from rmat_jax.errors import UserError

TEXT = b"".join(
    b"def function_%d(self, value):\n    return self.value + value * %d\n\n" % (i, i)
    for i in range(300)
)


def config(tokenizer="bpe", vocab_size=400, **data):
    return Config(
        model=RMATConfig(vocab_size=vocab_size), data=DataConfig(tokenizer=tokenizer, **data)
    )


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(iter([TEXT, "ünïcödé 中文 text".encode() * 50]), vocab_size=400)


@pytest.fixture(params=["bytes", "bpe", "words"], scope="module")
def tokenizer(request, bpe):
    made = {
        "bytes": ByteTokenizer,
        "bpe": lambda: bpe,
        "words": lambda: BPETokenizer.of_words(iter([TEXT]), 300),
    }
    return made[request.param]()


@given(
    st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.text("def  self\n\t\r\v\f\xa0\x85é中").map(str.encode),
    )
)
def test_any_bytes_come_back(tokenizer, data):
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.end not in ids
    assert tokenizer.decode(ids) == data
    assert tokenizer.decode([tokenizer.end, *ids, tokenizer.end]) == data


@pytest.mark.parametrize("wrong", [-1, "vocab_size"])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, wrong):
    wrong = tokenizer.vocab_size if wrong == "vocab_size" else wrong
    tokenizer.decode(range(tokenizer.vocab_size))
    with pytest.raises(
        UserError,
        match=f"token id {wrong} is outside the vocabulary; ids lie in 0..{tokenizer.end}",
    ):
        tokenizer.decode([1, wrong, 2])


def test_byte_pairs_shorten_text_like_their_corpus_and_no_other(bpe):
    noise = np.random.default_rng(0).integers(256, size=2000, dtype=np.uint8).tobytes()
    assert len(bpe.encode(TEXT)) < len(TEXT) / 2.5
    assert len(bpe.encode(noise)) > len(noise) / 1.2


def test_training_is_deterministic_and_the_kept_vocabulary_is_the_trained_one(tmp_path, bpe):
    made = make_tokenizer(config(), tmp_path, lambda: iter([TEXT]))
    assert made.vocab_size == 400
    assert made.describe == BPETokenizer.train(iter([TEXT]), 400).describe != bpe.describe

    def unread():
        raise AssertionError("the kept tokenizer is not trained again")

    for kept in (make_tokenizer(config(), tmp_path, unread), load_tokenizer(config(), tmp_path)):
        assert kept.describe == made.describe
        np.testing.assert_array_equal(kept.encode(TEXT), made.encode(TEXT))
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["tokenizer.json", "tokenizer.json.sha256"]


def test_words_are_tokens_as_the_text_separates_them(tmp_path):
    """As WikiText-2 counts: a word or a line break is one token; a word outside the vocabulary, as
    many as it has bytes.
    """
    text = b" \n = Cats = \n \n the cat saw the <unk> , the @-@ caf\xc3\xa9 \n"
    made = make_tokenizer(config("words", 1000), tmp_path, lambda: iter([text]))
    lines = text.split(b"\n")[:-1]
    assert len(made.encode(text)) == sum(len(line.split()) + 1 for line in lines)
    # the break, with the space before it
    assert made.vocab_size == 257 + len({*text.split()}) + 1
    known, unknown = made.encode(b" the cat"), made.encode(b" the dog")
    assert (len(known), len(unknown)) == (2, 1 + len(" dog")) and made.decode(
        unknown
    ) == b" the dog"
    kept = load_tokenizer(config("words", 1000), tmp_path)
    np.testing.assert_array_equal(kept.encode(text), made.encode(text))
    # room for the two most frequent
    fewer = BPETokenizer.of_words(iter([text]), 259)
    assert (len(fewer.encode(b" the")), len(fewer.encode(b" cat"))) == (1, len(" cat"))


def test_text_with_few_pairs_makes_a_smaller_vocabulary_that_fits(tmp_path):
    made = make_tokenizer(config(vocab_size=5000), tmp_path, lambda: iter([b"abcabc"]))
    assert 257 <= made.vocab_size < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tokenizer": "bytes", "vocab_size": 256},
            "token ids outside the vocabulary: .* set model.vocab_size=257",
        ),
        ({"vocab_size": 399}, "token ids outside the vocabulary: .* set model.vocab_size=400"),
        ({"synthetic": "recall"}, "data.synthetic='recall' has no text"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path, bpe, settings, message):
    keep_tokenizer(bpe.files(), tmp_path)
    assert load_tokenizer(config(), tmp_path).describe == bpe.describe
    with pytest.raises(UserError, match=message):
        load_tokenizer(config(**settings), tmp_path)


def test_vocabulary_below_the_bytes_is_refused_and_not_kept(tmp_path):
    with pytest.raises(UserError, match="data.tokenizer='bpe' .* set model.vocab_size=257"):
        make_tokenizer(config(vocab_size=256), tmp_path, lambda: iter([TEXT]))
    assert make_tokenizer(config(vocab_size=400), tmp_path, lambda: iter([TEXT])).vocab_size == 400


def test_missing_and_damaged_tokenizers_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="tokenizer.json does not exist; train a model"):
        load_tokenizer(config(), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json is not a tokenizer"):
        load_tokenizer(config(), tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"run: pip install 'rmat_jax\[text\]'"):
        load_tokenizer(config(), tmp_path)


def test_a_flipped_bit_in_a_tokenizer_is_noticed(tmp_path):
    made = make_tokenizer(config(), tmp_path, lambda: iter([TEXT]))
    file = tmp_path / "tokenizer.json"
    whole = file.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 50):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="tokenizer.json (is damaged|cannot be read)"):
            load_tokenizer(config(), tmp_path)
    # as one does who trains another, by hand: the old digest does not stand in the way
    file.unlink()
    assert make_tokenizer(config(), tmp_path, lambda: iter([TEXT])).describe == made.describe
    # the control: without the digest, other merges are taken as they are
    merges = json.loads(whole)
    merges["model"]["merges"].reverse()
    file.write_text(json.dumps(merges))
    (tmp_path / "tokenizer.json.sha256").unlink()
    assert load_tokenizer(config(), tmp_path).describe != made.describe


SPLIT = {
    "type": "Split",
    "pattern": {"String": letters(b" ")},
    "behavior": "Removed",
    "invert": False,
}
WRONG = {
    "lower case": (
        lambda x: x.update(normalizer={"type": "Lowercase"}),
        r"b'\\x00' does not come back",
    ),
    "no spaces": (
        lambda x: x["pre_tokenizer"]["pretokenizers"].append(SPLIT),
        "b' ' does not come back",
    ),
    "no Q": (lambda x: x["model"]["vocab"].pop("Q"), "its ids are not 0..397"),
    "an id too high": (lambda x: x["model"]["vocab"].update(more=500), "its ids are not 0..399"),
    "other letters": (lambda x: x["model"]["vocab"].update({"\u2603": 399}), "maps to <undefined>"),
    "another model": (lambda x: x["model"].update(type="Unigram"), "is not a tokenizer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_tokenizer_that_loses_bytes_is_refused(case, bpe):
    change, message = WRONG[case]
    text = bpe.files()["tokenizer.json"].decode()
    model = json.loads(text)
    change(model)
    with pytest.raises(UserError, match=message) as caught:
        BPETokenizer.checked(json.dumps(model), "it")
    assert "\n" not in str(caught.value)
    # the control
    assert BPETokenizer.checked(text, "it").describe


@pytest.mark.parametrize("drawn", ["ACGT", " \n", "0123", "+-", "\xe9\xff"])
def test_a_text_without_white_space_is_cut_into_short_pieces(drawn):
    """The time of training grows with the square of a piece."""
    library = pytest.importorskip("tokenizers")
    split = library.pre_tokenizers.Split(library.Regex(PIECES), "isolated")
    text = "".join(random.Random(0).choice(drawn) for _ in range(10_000)).encode("latin-1")
    pieces = [from_letters(piece) for piece, _ in split.pre_tokenize_str(letters(text))]
    assert b"".join(pieces) == text and max(map(len, pieces)) <= 65
    # the control: what is short is not cut
    short = split.pre_tokenize_str(letters(b"a short line\n"))
    assert [from_letters(piece) for piece, _ in short] == [b"a", b" short", b" line", b"\n"]


def test_words_are_counted_as_the_words_tokenizer_takes_them():
    text = b"the cat sat \n on  the\nmat"
    known = BPETokenizer.of_words(iter([text]), 300)
    assert count_words([text]) == len(known.encode(text)) == 9
    # the control: a word that the vocabulary lacks is many tokens, and one word
    assert count_words([b"the zebra"]) == 2 < len(known.encode(b"the zebra"))
