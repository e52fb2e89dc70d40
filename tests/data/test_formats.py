"""Each format of data, well-formed and broken: what is read, and what is refused in one line."""

import gzip
import io
import json

import pyarrow
import pytest
from pyarrow import parquet

from rmat_jax.config import DataConfig
from rmat_jax.data import formats
from rmat_jax.data.sources import make_source
from rmat_jax.errors import UserError

TEXTS = ["one text", "日本語 and\na line", "a \N{GRINNING FACE}", 'quoted "and", more\r\n']


def json_lines(texts):
    rows = [{"text": text, "id": str(i)} for i, text in enumerate(texts)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def separated(texts, mark):
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    return "\n".join([f"id{mark}text", *(f"{i}{mark}{q}" for i, q in enumerate(quoted))]).encode()


def as_parquet(texts):
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "text": texts}), out)
    return out.getvalue()


def as_arrow(texts):
    out, table = io.BytesIO(), pyarrow.table({"text": texts})
    with pyarrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


FORMATS = {
    "a.jsonl": json_lines(TEXTS),
    "a.json": json_lines(TEXTS),
    # told by its first bytes
    "unnamed": json_lines(TEXTS),
    "bom.jsonl": b"\xef\xbb\xbf" + json_lines(TEXTS),
    "crlf.jsonl": json_lines(TEXTS).replace(b"\n", b"\r\n"),
    "a.csv": separated(TEXTS, ","),
    "bom.csv": b"\xef\xbb\xbf" + separated(TEXTS, ","),
    "a.tsv": separated(TEXTS, "\t"),
    "a.parquet": as_parquet(TEXTS),
    "a.arrow": as_arrow(TEXTS),
}
PACKED = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True),
}


def read(file, feature=""):
    return list(formats.documents(file, formats.kind_of(file), feature))


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", FORMATS)
def test_every_row_is_a_document(tmp_path, name, ending):
    file = tmp_path / (name + ending)
    file.write_bytes(PACKED[ending](FORMATS[name]))
    assert read(file, "text") == [text.encode() for text in TEXTS]
    assert formats.kind_of(file).rows


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize(
    "text", ["plain\r\n", "{not JSON}\n", "[1] a list of notes", "\ufeffwith a mark", "{", "é" * 99]
)
def test_text_is_one_document_as_it_is(tmp_path, text, ending):
    file = tmp_path / f"a.txt{ending}"
    file.write_bytes(PACKED[ending](text.encode()))
    assert read(file) == [text.encode()]
    # bytes that are not UTF-8 are text too
    file.write_bytes(PACKED[ending](b"caf\xe9 " * 40_000))
    assert read(file) == [b"caf\xe9 " * 40_000]


def test_the_field_is_text_or_the_only_one_of_text(tmp_path):
    file = tmp_path / "a.jsonl"
    for row, feature, found in (
        ({"text": "this", "title": "not this"}, "", b"this"),
        ({"body": "this", "year": 1999}, "", b"this"),
        ({"body": "not this", "title": "this"}, "title", b"this"),
    ):
        file.write_text(json.dumps(row) + "\n")
        assert read(file, feature) == [found]
    # rows without text are left out
    file.write_text('{"text": ""}\n{"text": null}\n\n{"text": "this"}\n')
    assert read(file, "text") == [b"this"]


CUT = gzip.compress(json_lines(TEXTS * 50))[:-30]
BROKEN = {
    "cut.jsonl.gz": (CUT, "", "cut.jsonl.gz cannot be read: .*bring back a copy"),
    "bits.gz": (CUT[:40] + b"\xff" * 9 + CUT[49:], "", "cannot be read: .*bring back a copy"),
    "cut.zst": (PACKED[".zst"](json_lines(TEXTS * 50))[:-9], "", "cannot be read: .*bring back"),
    "cut.parquet": (as_parquet(TEXTS)[:-30], "", "cannot be read: .*bring back a copy"),
    "cut.arrow": (as_arrow(TEXTS)[:-60], "", "cannot be read: .*bring back a copy"),
    "lacks.jsonl": (b'{"text": "a"}\n{"txt": "b"}\n', "", "line 2 has no field 'text'; it has txt"),
    "other.jsonl": (b'{"text": "a"}\n', "body", "line 1 has no field 'body'; it has text; set dat"),
    "mixed.jsonl": (b'{"text": "a"}\n{"text": 3}\n', "", "line 2: field 'text' holds int, not tex"),
    "number.jsonl": (b'{"text": "a"}\n3\n', "", "line 2 is no record"),
    "half.jsonl": (b'{"text": "a"}\n{"text": "b\n', "", "half.jsonl, line 2 is not JSON"),
    "many.jsonl": (b'{"a": "x", "b": "y"}\n', "", "line 1 has 2 fields of text; set data.feature"),
    "none.jsonl": (b'{"a": 1}\n', "", "line 1 has 0 fields of text; set data.feature to one of a"),
    "list.json": (b'[{"text": "a"}]', "", "is one JSON list; write a record a line"),
    "pretty.json": (b'{\n "text": "a"\n}', "", "holds no JSON lines: .*data.format=text"),
    "short.csv": (b"id,text\n1\n", "text", "line 2 has not as many values"),
    "long.csv": (b"id,text\n1,a,b\n", "text", "line 2 has not as many values"),
    "open.csv": (b'id,text\n1,"a\n', "text", "cannot be read: .*data.pattern"),
    "nul.txt": (b"text\0more", "", "is no text: byte 4 is 0; .*data.pattern, or data.format=text"),
    "image.png": (b"\x89PNG\r\n\x1a\n\0\0", "", "is no text: byte 8 is 0"),
    "a.zip": (b"PK\x03\x04rest", "", "is a zip archive; unpack it"),
    "a.bz2": (b"BZh91AY", "", "is compressed with bzip2; unpack it"),
    "a.xz": (b"\xfd7zXZ\0", "", "is compressed with xz; unpack it"),
    "a.pdf": (b"%PDF-1.7", "", "is a PDF; unpack it"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_or_no_text_is_one_line(tmp_path, name):
    data, feature, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name, feature)
    assert "\n" not in str(error.value) and name in str(error.value)
    # the control: asked for, it is read as it is
    source = DataConfig(path=str(tmp_path / name), format="text")
    assert b"".join([*make_source(source).train(), *make_source(source).heldout()]) == data


def test_a_lone_file_holds_out_every_nth_row(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(json_lines(map(str, range(60))))
    source = make_source(DataConfig(path=str(file), heldout_fraction=0.1))
    heldout = [int(text) for text in source.heldout()]
    assert heldout == [9, 19, 29, 39, 49, 59]
    assert sorted([*heldout, *map(int, source.train())]) == list(range(60))
    few = DataConfig(path=str(file), heldout_fraction=0.01)
    with pytest.raises(UserError, match="has 60 texts, too few to hold out one of 100"):
        make_source(few)


def test_a_lone_text_holds_out_its_end_compressed_or_not(tmp_path):
    text = b"".join(b"line %d\n" % i for i in range(500))
    for ending, pack in PACKED.items():
        file = tmp_path / f"a.txt{ending}"
        file.write_bytes(pack(text))
        source = make_source(DataConfig(path=str(file)))
        (train,), (heldout,) = source.train(), source.heldout()
        assert train + heldout == text and 0.04 < len(heldout) / len(text) < 0.06
