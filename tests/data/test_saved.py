"""Folders of Hugging Face `datasets`, as its version 5.2 writes them."""

import json

import pyarrow
import pytest

from rmat_jax.config import DataConfig
from rmat_jax.data.sources import make_source
from rmat_jax.errors import UserError

TEXTS = [f"text {i}" for i in range(60)]


def save(folder, rows, shards=1):
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for index, name in enumerate(names):
        table = pyarrow.Table.from_pylist(
            rows[index * len(rows) // shards :][: len(rows) // shards]
        )
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "abc",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text('{\n  "citation": "",\n  "features": {}\n}')
    return folder


def rows(texts):
    return [{"text": text, "id": index} for index, text in enumerate(texts)]


def read(path, **settings):
    source = make_source(DataConfig(path=str(path), **settings))
    return [[text.decode() for text in side()] for side in (source.train, source.heldout)]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_dataset_is_read_in_its_order_and_holds_out_every_nth_row(tmp_path, shards):
    folder = save(tmp_path / "set", rows(TEXTS), shards)
    train, heldout = read(folder)
    assert heldout == TEXTS[19::20] and sorted([*train, *heldout]) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text not in heldout]
    # what a cache left beside it is not read
    (folder / "cache-0123.arrow").write_bytes(
        (folder / f"data-00000-of-{shards:05}.arrow").read_bytes()
    )
    assert read(folder) == [train, heldout]


def test_the_splits_of_a_dict_are_what_they_say(tmp_path, capsys):
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    save(tmp_path / "dict" / "train", rows(TEXTS))
    save(tmp_path / "dict" / "test", rows(["held", "out"]))
    assert read(tmp_path / "dict") == [TEXTS, ["held", "out"]]
    assert "has splits: training on" in capsys.readouterr().err
    # a text to hold out goes before the split; both may be a dict
    save(tmp_path / "other", rows(["other"]))
    assert read(tmp_path / "dict", heldout_path=str(tmp_path / "other")) == [TEXTS, ["other"]]
    given = read(tmp_path / "other", heldout_path=str(tmp_path / "dict"))
    assert given == [["other"], ["held", "out"]]
    # one split alone, by whatever name
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert read(tmp_path / "dict", heldout_fraction=0.5) == [["held"], ["out"]]
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["a", "b"]}')
    with pytest.raises(UserError, match="has the splits a, b; give the folder of one, such as .*a"):
        read(tmp_path / "dict")


def test_dialogues_in_a_dataset_are_learned_by_their_answers(tmp_path):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    folder = save(tmp_path / "set", [{"messages": said}] * 4)
    train, heldout = read(folder, format="messages", heldout_fraction=0.5)
    assert train == heldout == ["<|user|>\nHi\n<|assistant|>\nYes.\n"] * 2


def no_files(folder):
    (folder / "state.json").write_text('{"_data_files": []}')


def no_list(folder):
    (folder / "state.json").write_text("[]")


def lost(folder):
    (folder / "data-00001-of-00003.arrow").unlink()


def damaged(folder):
    file = folder / "data-00001-of-00003.arrow"
    file.write_bytes(file.read_bytes()[:-60])


BROKEN = {
    no_files: "set holds no Arrow file; save the dataset again",
    no_list: "state.json cannot be read as a list of Arrow files",
    lost: "state.json lists data-00001-of-00003.arrow, which is not there; bring it back",
    damaged: "data-00001-of-00003.arrow cannot be read: .*bring back a copy",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_folder_is_one_line(tmp_path, damage):
    folder = save(tmp_path / "set", rows(TEXTS), 3)
    assert read(folder)
    damage(folder)
    with pytest.raises(UserError, match=BROKEN[damage]) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_a_broken_list_of_splits_is_one_line(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a list of splits"):
        read(tmp_path)
