"""Tokenizers of other programs: the ids are the library's, and the text comes back as it came."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")

import tokenizers  # noqa: E402

from rmat_jax.config import Config, DataConfig, RMATConfig  # noqa: E402
from rmat_jax.data.corpus import build_corpus  # noqa: E402
from rmat_jax.data.heldout import HeldoutLanes  # noqa: E402
from rmat_jax.data.messages import render  # noqa: E402
from rmat_jax.data.tokenizer import BPETokenizer  # noqa: E402
from rmat_jax.data.tokenizer_files import (  # noqa: E402
    follow_tokenizer,
    load_tokenizer,
    make_tokenizer,
    open_tokenizer,
)
from rmat_jax.errors import UserError  # noqa: E402
from tests import outside  # noqa: E402

KINDS = [*outside.JSON, "sentencepiece", "exact"]
# of these the library gives any text back as it was
EXACT = {"gpt2", "llama", "exact"}
TEXTS = [
    "hello world",
    " the fox",
    "  two  spaces\n\n\tand a tab ",
    "日本語 テキスト ☃ 🎉 👩‍👧",
    "cafe\u0301 nai\u0308ve Ünï",
    "a\x00b \x1b[0m \u200b\ufeff",
    "text </s> <|im|> [UNK] text",
    "",
    " ",
    "the dog's tail. The end!",
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    return {kind: outside.write(folder / kind, kind) for kind in KINDS}


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind, paths):
    return open_tokenizer(str(paths[kind]))


@pytest.fixture(scope="module")
def plain(kind, paths):
    """The library alone: ids, text, and the text of ids."""
    if kind not in outside.JSON:
        made = sentencepiece.SentencePieceProcessor(model_file=str(paths[kind]))
        return made.encode, made.decode
    made = tokenizers.Tokenizer.from_file(str(paths[kind] / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    return lambda text: made.encode(text, add_special_tokens=False).ids, made.decode


def config(path, **model):
    return Config(model=RMATConfig(**model), data=DataConfig(tokenizer=str(path)))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_the_librarys(kind, tokenizer, plain, text):
    encode, decode = plain
    ids = tokenizer.encode(text.encode(), first=True)
    assert ids.dtype == np.int32 and ids.tolist() == encode(text)
    found = tokenizer.decode([tokenizer.end, *ids])
    if tokenizer.end not in ids:
        assert found.decode() == decode(ids.tolist())
        assert kind not in EXACT or found == text.encode()


def test_text_comes_token_by_token_as_it_would_come_at_once(tokenizer):
    text = "".join(TEXTS[:6]).encode()
    ids = tokenizer.encode(text, first=True)
    whole = tokenizer.decode(ids, first=True)
    parts = [tokenizer.decode([token], first=index == 0) for index, token in enumerate(ids)]
    assert b"".join(parts) == whole
    # the control: each as if it began a document
    alone = b"".join(tokenizer.decode([token], first=True) for token in ids)
    assert (alone == whole) == (
        tokenizer.decode([ids[-1]], first=True) == parts[-1] and not _puts_spaces(tokenizer)
    )


def _puts_spaces(tokenizer) -> bool:
    """Whether a text has a space in front that is no part of it."""
    ids = tokenizer.encode(b"hello", first=True)
    return tokenizer.decode(ids) != tokenizer.decode(ids, first=True)


def test_a_text_in_two_parts_is_the_text(kind, tokenizer):
    """The second part has no space in front, unless it has one."""
    for parts in (("hello wor", "ld"), ("hello", " world"), ("日本", "語")):
        ids = [
            token
            for index, part in enumerate(parts)
            for token in tokenizer.encode(part.encode(), first=index == 0)
        ]
        found = tokenizer.decode(ids, first=True).decode()
        # words are joined by a space there, whatever stood between them
        assert found == "".join(parts) or kind == "wordpiece"
    if _puts_spaces(tokenizer) and kind != "wordpiece":
        # the control
        ids = [*tokenizer.encode(b"hello wor", True), *tokenizer.encode(b"ld", True)]
        assert tokenizer.decode(ids, first=True) == b"hello wor ld"


@pytest.mark.parametrize("data", [*(text.encode() for text in TEXTS), b"a\xff\xfe \xe6\x97 b"])
def test_tokens_stand_for_all_bytes_of_the_text(tokenizer, data):
    ids, sizes = tokenizer.encode_sized(data, first=True)
    np.testing.assert_array_equal(ids, tokenizer.encode(data, first=True))
    assert len(sizes) == len(ids) and (sizes >= 0).all()
    assert sizes.sum() == len(data) * (len(ids) > 0)


def test_bytes_that_are_no_text_become_a_replacement_each(tokenizer):
    ids = tokenizer.encode(b"a\xff\xfe b", first=True)
    np.testing.assert_array_equal(ids, tokenizer.encode("a\ufffd\ufffd b".encode(), first=True))


def test_held_out_bytes_are_those_of_the_text(tokenizer, tmp_path):
    """Not those that the ids decode to."""
    documents = [("The  fox, " * 9).encode(), "日本語 ☃☃ hello".encode(), b"b\xff\n\n" * 30]
    corpus = build_corpus(lambda: iter(documents), tokenizer, tmp_path, "heldout", "x")
    lanes = HeldoutLanes(corpus, 2, 8, 10_000, tokenizer)
    assert lanes.num_bytes == corpus.num_bytes == sum(map(len, documents))
    decoded = sum(map(len, lanes.texts()))
    # the control: at least the replaced bytes differ
    assert decoded != lanes.num_bytes
    part = HeldoutLanes(corpus, 2, 8, 20, tokenizer).num_bytes
    assert 0 < part < corpus.num_bytes
    (tmp_path / "heldout" / "sizes.npy").unlink()
    again = build_corpus(lambda: iter(documents), tokenizer, tmp_path, "heldout", "x")
    np.testing.assert_array_equal(again.sizes, corpus.sizes)


def test_held_out_bytes_of_dialogues_are_those_of_the_answers(tokenizer, tmp_path):
    """Bytes of prompts, and of the template, do not count."""
    said = ["  The  fox", "日本語 ☃"]
    dialogues = [
        render([("user", b"why, fox?"), ("assistant", text.encode()), ("user", b"hello")])
        for text in said
    ]
    corpus = build_corpus(lambda: iter(dialogues), tokenizer, tmp_path, "heldout", "x")
    lanes = HeldoutLanes(corpus, 1, 8, 10_000, tokenizer)
    assert lanes.num_bytes == sum(len(text.encode()) for text in said) < corpus.num_bytes


def test_the_end_is_chosen_in_this_order(tmp_path):
    """tokenizer_config.json, special_tokens_map.json, a special token with a usual name."""
    outside.gpt2(special=["<eos>", "<|endoftext|>", "<a>", "<b>"]).save(
        str(tmp_path / "tokenizer.json")
    )

    def end():
        found = open_tokenizer(str(tmp_path))
        assert open_tokenizer(str(tmp_path / "tokenizer.json")).describe == found.describe
        return found._library.id_to_token(found.end)

    assert end() == "<|endoftext|>"
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<a>"}}')
    assert end() == "<a>"
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null}')
    assert end() == "<a>"
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<b>"}')
    assert end() == "<b>"


def test_a_run_keeps_its_own_copy(kind, paths, tmp_path):
    """Under the vocabulary size of the tokenizer, also when the file is gone."""
    source = outside.write(tmp_path / "source", kind)
    settings = follow_tokenizer(config(source))
    tokenizer = open_tokenizer(str(source))
    assert settings.model.vocab_size == tokenizer.vocab_size
    made = make_tokenizer(settings, tmp_path / "kept", lambda: iter([]))
    assert made.describe == tokenizer.describe
    (tmp_path / "source").rename(tmp_path / "moved")
    for kept in (
        load_tokenizer(settings, tmp_path / "kept"),
        make_tokenizer(settings, tmp_path / "kept", lambda: iter([])),
        open_tokenizer(str(tmp_path / "kept")),
    ):
        assert (kept.describe, kept.end) == (tokenizer.describe, tokenizer.end)
        np.testing.assert_array_equal(kept.encode(b"hello fox"), tokenizer.encode(b"hello fox"))
    assert follow_tokenizer(config(source), tmp_path / "kept") == settings
    whole = next(x for x in (tmp_path / "kept").iterdir() if x.stem == "tokenizer")
    sound = whole.read_bytes()
    whole.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(UserError, match="is damaged: it is not what"):
        load_tokenizer(settings, tmp_path / "kept")
    whole.write_bytes(sound)
    # the control: another tokenizer at the same place
    other = "wordpiece" if kind in outside.JSON and kind != "wordpiece" else "unigram"
    outside.write(tmp_path / "source", other)
    if source.is_dir():
        with pytest.raises(UserError, match="is tokenizer.json of .*another tokenizer than that"):
            make_tokenizer(settings, tmp_path / "kept", lambda: iter([]))


def test_the_same_text_has_the_same_ids_each_time(tmp_path):
    made = outside.gpt2()
    made.model.dropout = 0.5
    made.save(str(tmp_path / "tokenizer.json"))
    text = "hello world this is a test " * 9
    found = open_tokenizer(str(tmp_path))
    assert len({tuple(found.encode(text.encode())) for _ in range(9)}) == 1
    # the control
    made.no_truncation()
    assert len({tuple(made.encode(text).ids) for _ in range(9)}) > 1


def test_our_own_file_is_what_it_was_and_takes_any_bytes(tmp_path):
    made = BPETokenizer.train(iter([b"some text, some words " * 20]), 300)
    (tmp_path / "tokenizer.json").write_bytes(made.files()["tokenizer.json"])
    found = open_tokenizer(str(tmp_path))
    assert found.describe == made.describe and found.exact
    assert found.decode(found.encode(b"\xff some \x80")) == b"\xff some \x80"


def test_vocabularies_that_differ_are_one_line_with_both(paths, tmp_path, capsys):
    size = open_tokenizer(str(paths["gpt2"])).vocab_size
    small, large = (config(paths["gpt2"], vocab_size=n) for n in (100, 1000))
    assert follow_tokenizer(small) == small
    with pytest.raises(UserError, match=f"vocab_size=100 knows fewer; set .*vocab_size={size}"):
        make_tokenizer(small, tmp_path / "a", lambda: iter([]))
    assert not (tmp_path / "a").exists()
    # room to spare is allowed: a mesh may need it
    assert make_tokenizer(large, tmp_path / "b", lambda: iter([])).vocab_size == size
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "vocab_size=1000" in said and f"the {size} entries" in said


def broken(folder, paths):
    """Path -> what the line says."""
    text = (paths["gpt2"] / "tokenizer.json").read_text()
    files = {
        "cut.json": (text[: len(text) // 2], "is not JSON"),
        "list.json": ("[1, 2]", "is a JSON list, not the object"),
        "empty.json": ("", "is not JSON"),
        "other.json": ('{"some": "thing"}', "is not a tokenizer"),
        "no.model": ("this is no model", "is not a tokenizer"),
        "empty.model": ("", "is empty"),
        "bytes.json": (b"\xff\xfe", "is not JSON"),
    }
    spec = json.loads(text)
    spec["added_tokens"] = []
    files["endless.json"] = (json.dumps(spec), "none is known to end a document .* eos_token")
    for name, (content, _) in files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(content)
    (folder / "eosless.model").write_bytes(outside.sentencepiece_model(eos_id=-1))
    wrong = folder / "wrong"
    outside.write(wrong, "gpt2")
    (wrong / "tokenizer_config.json").write_text('{"eos_token": "<nowhere>"}')
    listed = folder / "listed"
    outside.write(listed, "gpt2")
    (listed / "special_tokens_map.json").write_text('{"eos_token": [1]}')
    (folder / "nothing").mkdir()
    return {folder / name: message for name, (_, message) in files.items()} | {
        folder / "eosless.model": "has 120 entries and no end token|entries and no end token",
        wrong: "has .* entries and the end token '<nowhere>' is none of them",
        listed: r"eos_token in special_tokens_map.json of .* is \[1\], not a text",
        folder / "nothing": "holds no tokenizer.json or tokenizer.model",
        folder / "nowhere.json": "does not exist; give a tokenizer.json, its folder, or",
    }


def test_broken_files_are_one_line(paths, tmp_path):
    for path, message in broken(tmp_path, paths).items():
        with pytest.raises(UserError, match=message) as caught:
            open_tokenizer(str(path))
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        with pytest.raises(UserError):
            follow_tokenizer(config(path))


def test_a_missing_library_is_named(paths, monkeypatch):
    for kind, package in (("gpt2", "tokenizers"), ("exact", "sentencepiece")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=r"run: pip install 'rmat_jax\[text\]'"):
            open_tokenizer(str(paths[kind]))


def test_a_word_that_is_neither_a_tokenizer_nor_a_path():
    with pytest.raises(UserError, match="data.tokenizer=bep is not one of bytes, bpe, words, and"):
        DataConfig(tokenizer="bep")
    assert DataConfig(tokenizer="./bep").tokenizer_kind == "file"
