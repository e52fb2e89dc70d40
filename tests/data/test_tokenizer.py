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
    END,
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


def drawn_texts(count: int) -> list[str]:
    """Texts of many alphabets, of signs that join, of what nobody sees, and of white space."""
    letters = [
        "abc XYZ 019 _-+<|>",
        "日本語中文한국어",
        "👩\u200d👩🏽🎉☃️🇯🇵",
        "e\u0301a\u0308o\u0328\u0323",
        "".join(map(chr, range(32))) + "\x7f\x85\xa0\xad\u200b\u2028\ufeff",
        " \t\n\r\v\f\u3000",
        "אבג ابت กขค ĀāĠĊ",
        "\ufffd\U0010ffff\ue000",
    ]
    draw = random.Random(0)
    texts = ["", " ", "\n\n", "日本語", "a" * 500, "日" * 200, "<|end", "ĠĊ", *map(chr, range(256))]
    while len(texts) < count:
        some = "".join(draw.sample(letters, draw.randint(1, 3)))
        texts.append("".join(draw.choices(some, k=draw.randint(1, 90))))
    return texts


@pytest.mark.parametrize("made", ["bpe", "words"])
def test_the_file_means_the_same_to_plain_tokenizers(made, bpe):
    library = pytest.importorskip("tokenizers")
    ours = bpe if made == "bpe" else BPETokenizer.of_words(iter([TEXT, "中文 é".encode()]), 320)
    plain = library.Tokenizer.from_str(ours.files()["tokenizer.json"].decode())
    assert plain.token_to_id(END) == ours.end == plain.get_vocab_size() - 1
    texts = drawn_texts(600)
    wrong = [x for x in texts if plain.encode(x).ids != ours.encode(x.encode()).tolist()]
    assert not wrong
    lost = [x for x in texts if plain.decode(plain.encode(x).ids) != x]
    assert not lost
    # the control: a vocabulary over the text as Latin-1 drops what that has not
    spec = json.loads(ours.files()["tokenizer.json"])
    before = library.Tokenizer(library.models.BPE({chr(x): x for x in range(256)}, []))
    assert before.encode("日本語").ids == [] != plain.encode("日本語").ids
    # the control: to cut before the letters are made is something else
    spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    spec["pre_tokenizer"]["trim_offsets"] = True
    other = library.Tokenizer.from_str(json.dumps(spec))
    assert any(other.encode(x).ids != ours.encode(x.encode()).tolist() for x in texts)


def test_no_text_spells_the_end(bpe):
    """Plain tokenizers take it for the end, unless they are told not to."""
    library = pytest.importorskip("tokenizers")
    plain = library.Tokenizer.from_str(bpe.files()["tokenizer.json"].decode())
    text = f"one{END}two"
    assert bpe.end in plain.encode(text).ids and bpe.end not in bpe.encode(text.encode())
    plain.encode_special_tokens = True
    assert plain.encode(text).ids == bpe.encode(text.encode()).tolist()
    # of words, too, where a corpus has it as one
    words = BPETokenizer.of_words(iter([f"{END}\n".encode() * 99]), 300)
    assert words.decode(words.encode(END.encode())) == END.encode()


def test_bytes_that_are_no_text_are_cut_like_the_text_around_them(bpe):
    """In a text of bytes, what stands before a line break and after one keeps its ids."""
    line = b"def function_7(self, value):\n"
    whole = bpe.encode(line + b"\xff\xfe\n" + line).tolist()
    ids = bpe.encode(line).tolist()
    assert whole[: len(ids)] == whole[-len(ids) :] == ids
    assert bpe.decode(whole) == line + b"\xff\xfe\n" + line


def test_a_vocabulary_of_an_older_version_is_one_line(tmp_path):
    library = pytest.importorskip("tokenizers")
    old = library.Tokenizer(library.models.BPE({chr(byte): byte for byte in range(256)}, []))
    old.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r" ?\n| ?[^ \n]+| "), "isolated")
    old.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="written by an older rmat_jax.* train anew") as caught:
        load_tokenizer(config(), tmp_path)
    assert "\n" not in str(caught.value)


def test_another_programs_file_in_a_run_that_trained_its_own_is_refused(tmp_path, bpe):
    spec = json.loads(bpe.files()["tokenizer.json"])
    # the control
    keep_tokenizer({"tokenizer.json": json.dumps(spec).encode()}, tmp_path)
    assert load_tokenizer(config(), tmp_path)
    spec["normalizer"] = {"type": "Lowercase"}
    keep_tokenizer({"tokenizer.json": json.dumps(spec).encode()}, tmp_path)
    with pytest.raises(UserError, match="which data.tokenizer='bpe' has not made; give its path"):
        load_tokenizer(config(), tmp_path)


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
