"""Which documents are read, which are held out, and what is said when there are none."""

import heapq
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmat_jax.config import DataConfig
from rmat_jax.data.sources import (
    blocks,
    cut_near,
    make_source,
    split_files,
    stdlib_source,
    text_source,
    tfds_source,
)
from rmat_jax.errors import UserError


def fill(folder, count, size=10):
    for i in range(count):
        (folder / f"file{i:03}.txt").write_bytes(bytes([65 + i % 26]) * size)
    return folder


def test_standard_library_has_its_code_and_neither_tests_nor_packages():
    source = stdlib_source(0.05)
    train, heldout = list(source.train()), list(source.heldout())
    with open(heapq.__file__, "rb") as file:
        assert file.read() in train + heldout
    with open(pytest.__file__, "rb") as file:
        assert file.read() not in train + heldout
    assert b"".join(train).count(b"import unittest") < 10 < b"".join(train).count(b"import re\n")
    assert 0.01 < len(heldout) / (len(train) + len(heldout)) < 0.1
    assert not set(train) & set(heldout)
    assert list(stdlib_source(0.05).heldout()) == heldout
    assert ".".join(map(str, sys.version_info[:2])) in source.describe


@given(
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=40, unique=True),
    st.floats(0, 1, exclude_max=True),
)
def test_held_out_files_are_disjoint_from_the_others_and_neither_side_is_empty(
    tmp_path_factory, names, fraction
):
    root = tmp_path_factory.getbasetemp()
    files = sorted(root / name for name in names)
    train, heldout = split_files(files, root, fraction)
    assert train and heldout and sorted(train + heldout) == files
    # Where the hash alone decides, a file keeps its side when others go.
    if len(heldout) > 1 and len(train) > 1:
        fewer = [file for file in files if file != train[0]]
        assert split_files(fewer, root, fraction) == (train[1:], heldout)


def test_held_out_share_follows_the_fraction_and_not_the_folder(tmp_path):
    files = [tmp_path / str(i) for i in range(2000)]
    for fraction in (0.05, 0.5):
        assert abs(len(split_files(files, tmp_path, fraction)[1]) / 2000 - fraction) < 0.03
    moved = [tmp_path / "elsewhere" / str(i) for i in range(2000)]
    names = [[file.name for file in split_files(f, f[0].parent, 0.05)[1]] for f in (files, moved)]
    assert names[0] == names[1]
    # in the order of their hashes
    assert names[0] != sorted(names[0])


def test_folder_is_read_file_by_file_without_hidden_and_empty_ones(tmp_path):
    fill(tmp_path, 9)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "bytes.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_bytes(b"secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"secret")
    (tmp_path / "empty.txt").touch()
    source = text_source(str(tmp_path), format="text")
    everything = [*source.train(), *source.heldout()]
    assert sorted(everything) == sorted(
        [bytes([65 + i]) * 10 for i in range(9)] + [b"\xff\xfe\x00"]
    )
    # one file matches: it is split itself
    only = text_source(str(tmp_path), pattern="*.bin", heldout_fraction=0.4, format="text")
    assert b"".join([*only.train(), *only.heldout()]) == b"\xff\xfe\x00"


def test_folder_where_the_hash_holds_out_nothing_still_holds_out_one_file(tmp_path):
    fill(tmp_path, 2)
    source = text_source(str(tmp_path), heldout_fraction=1e-9)
    assert len(list(source.train())) == len(list(source.heldout())) == 1


def test_single_file_holds_out_its_end_at_a_line_break(tmp_path):
    text = b"".join(b"line %d\n" % i for i in range(1000))
    file = tmp_path / "book.txt"
    file.write_bytes(text)
    source = text_source(str(file), heldout_fraction=0.1)
    (train,), (heldout,) = source.train(), source.heldout()
    assert train + heldout == text
    assert train.endswith(b"\n") and abs(len(heldout) / len(text) - 0.1) < 0.01
    assert text_source(str(file), heldout_fraction=0.2).key != source.key


@given(st.text(min_size=1), st.data())
def test_cut_never_splits_a_character_and_stays_near(text, data):
    raw = text.encode()
    if len(raw) < 2:
        return
    at = data.draw(st.integers(1, len(raw) - 1))
    place = cut_near(raw, at)
    assert 0 < place <= at
    if b"\n" in raw[:at]:
        assert raw[place - 1 : place] == b"\n"
    elif len(text[0].encode()) <= at:
        # else there is no border to cut at
        raw[:place].decode()
        assert at - place < 4


@given(st.binary(max_size=500), st.integers(4, 50))
def test_blocks_are_small_and_lose_nothing(data, size):
    pieces = list(blocks(data, size))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= size for piece in pieces)


def test_held_out_path_is_not_trained_on_when_it_lies_in_the_path(tmp_path):
    fill(tmp_path, 5)
    (tmp_path / "valid").mkdir()
    fill(tmp_path / "valid", 2, size=3)
    source = text_source(str(tmp_path), heldout_path=str(tmp_path / "valid"))
    assert list(source.heldout()) == [b"AAA", b"BBB"]
    # with the two it would be seven
    assert len(list(source.train())) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere"}, "data.path='.*nowhere' does not exist"),
        (
            {"path": "full", "heldout_path": "nowhere"},
            "data.heldout_path='.*nowhere' does not exist",
        ),
        ({"path": "hollow"}, "holds no text"),
        ({"path": "full", "pattern": "*.md"}, r"holds no text: .* data.pattern='\*.md'"),
        ({"path": "full", "pattern": ""}, "data.pattern is empty"),
        ({"path": "full", "heldout_path": "full"}, "leaves nothing of data.path"),
        ({"path": "full", "heldout_fraction": 0.0}, "data.heldout_fraction=0 leaves no text"),
        ({"heldout_fraction": 0.0}, "data.heldout_fraction=0 leaves no text"),
        ({"path": "byte.txt"}, "has 1 byte"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, settings, message):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "empty.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "byte.txt").write_bytes(b"x")
    fill(tmp_path / "full", 3)
    paths = {key: str(tmp_path / value) for key, value in settings.items() if key.endswith("path")}
    with pytest.raises(UserError, match=message) as caught:
        make_source(DataConfig(**settings | paths))
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read_is_named(tmp_path):
    fill(tmp_path, 3)
    source = text_source(str(tmp_path))
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"file\d+.txt cannot be read: No such file"):
        list(source.train())


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A prepared TFDS set, `small_texts`, of five texts to train on and two held out."""
    import tensorflow_datasets as tfds

    class SmallTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        # TFDS looks for a package's metadata if there is a dot
        __module__ = "small_texts"

        def _info(self):
            text = tfds.features.Text()
            features = {"text": text, "title": text, "number": tfds.features.Scalar(np.int32)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, download):
            return {
                "train": self._generate_examples("train", 5),
                "validation": self._generate_examples("valid", 2),
            }

        def _generate_examples(self, name, count):
            for i in range(count):
                yield i, {"text": f"{name} téxt {i}\n", "title": "title", "number": i}

    folder = tmp_path_factory.mktemp("tfds")
    SmallTexts(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def test_tfds_gives_the_texts_of_its_splits_as_bytes(tfds_folder):
    config = DataConfig(
        tfds="small_texts", feature="text", tfds_dir=tfds_folder, tfds_train="train[:80%]"
    )
    source = make_source(config)
    assert {document[:-2] for document in source.train()} == {"train téxt ".encode()}
    assert len(list(source.train())) == 4
    assert sorted(source.heldout()) == [f"valid téxt {i}\n".encode() for i in range(2)]


def test_tfds_takes_the_only_text_feature_of_a_catalogued_set():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=3):
        documents = list(tfds_source("pg19", "train", "validation").train())
        assert len(documents) == 3 and all(
            isinstance(document, bytes) and document for document in documents
        )
        with pytest.raises(UserError, match="multi_news has 2 text features; .* document, summary"):
            next(tfds_source("multi_news", "train", "validation").train())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tfds": "small_text"},
            "data.tfds='small_text', .* is neither in TFDS nor in .* did you mean 'small_texts'",
        ),
        (
            {"tfds": "small_texts/nope"},
            "data.tfds='small_texts/nope', split 'train', cannot be read: .*nope",
        ),
        ({"tfds_train": "nope"}, "split 'nope', cannot be read: Unknown split 'nope'"),
        (
            {"feature": "nope"},
            "data.feature='nope' is not a feature of small_texts; it has .*text",
        ),
        ({"feature": ""}, "small_texts has 2 text features; set data.feature"),
        ({"feature": "number"}, "feature 'number' of small_texts holds .*, not text"),
    ],
)
def test_bad_tfds_names_are_one_clear_line(tfds_folder, settings, message):
    config = DataConfig(
        **{"tfds": "small_texts", "feature": "text", "tfds_dir": tfds_folder} | settings
    )
    with pytest.raises(UserError, match=message) as caught:
        next(make_source(config).train())
    assert "\n" not in str(caught.value)


def test_tfds_that_is_not_installed_or_cannot_download_says_what_to_do(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(tfds, "data_source", offline)
    with pytest.raises(
        UserError, match="cannot be read: no route to host; check .* network"
    ) as caught:
        next(tfds_source("pg19", "train", "validation").train())
    assert "story" not in str(caught.value)

    def lacking(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'beam'", name="beam")

    monkeypatch.setattr(tfds, "data_source", lacking)
    with pytest.raises(UserError, match="run: pip install beam"):
        next(tfds_source("pg19", "train", "validation").train())

    def without_tensorflow(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    # as its builder of pg19 does
    monkeypatch.setattr(tfds, "data_source", without_tensorflow)
    with pytest.raises(UserError, match="once, which is not installed; .*, run: pip ins") as caught:
        next(tfds_source("pg19/1.0.0", "train", "validation", data_dir="DIR").train())
    told = str(caught.value)
    assert "tfds.builder('pg19', data_dir='DIR', file_format='array_record').download" in told
    assert "then set data.tfds_dir=DIR, or use the set's plain files" in told and "\n" not in told
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"run: pip install 'rmat_jax\[tfds\]'"):
        next(tfds_source("pg19", "train", "validation").train())


def write_files(root, **texts):
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def read(path, **settings):
    source = make_source(DataConfig(path=str(path), **settings))
    return sorted([*source.train(), *source.heldout()])


def test_links_are_followed_and_each_file_is_read_once(tmp_path):
    root = write_files(tmp_path / "text", a_txt="a", b_txt="b", below__c_txt="c")
    elsewhere = write_files(tmp_path / "elsewhere", d_txt="d")
    (root / "link").symlink_to(elsewhere)
    (root / "again").symlink_to(root / "below")
    (root / "same.txt").symlink_to(root / "a.txt")
    (root / "below" / "loop").symlink_to(root)
    assert read(root) == [b"a", b"b", b"c", b"d"]


def test_a_run_below_the_text_is_not_text(tmp_path):
    root = write_files(tmp_path, a_txt="a", b_txt="b", run__config_json="{}", other__x_txt="x")
    (root / "run" / "config.json").write_text("{}", encoding="utf-8")
    assert b"{}" in read(root, format="text")
    (root / "run" / "checkpoints").mkdir()
    assert read(root) == [b"a", b"b", b"x"]


def test_a_pattern_for_all_folders_holds_for_the_top_as_well(tmp_path):
    root = write_files(tmp_path, a_txt="a", below__c_txt="c", b_md="no")
    assert read(root, pattern="**/*.txt") == [b"a", b"c"]


def test_what_holds_out_most_of_the_text_says_so(tmp_path, capsys):
    # of these two names input.txt has the smaller hash
    root = write_files(tmp_path, input_txt="long " * 100, README="short")
    read(root)
    assert "warning: most of data.path" in (told := capsys.readouterr().err) and "input.txt" in told
    read(root, pattern="*.txt")
    assert not capsys.readouterr().err
