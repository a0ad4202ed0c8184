"""What a table holds: line numbers, separators, worksheets, images inside Parquet."""

import datetime
import gzip
import json
import pathlib

import pytest
from loading import load, refusal, write, write_images

from tl_app.data.readers import unlabelled


def test_an_id_is_the_line_on_which_the_row_begins(tmp_path):
  text = 'text,label\r\n"two\r\nlines",a\r\n\r\n"three\nlong\nlines",b\r\nlast,a\r\n'
  assert list(load(f"table:{write(tmp_path / 't.csv', text)}").ids) == ["t.csv:2", "t.csv:5", "t.csv:8"]
  text = '{"text": "x", "label": "a"}\n\n{"text": "y", "label": "b"}\n'
  assert list(load(f"table:{write(tmp_path / 't.jsonl', text)}").ids) == ["t.jsonl:1", "t.jsonl:3"]
  file = write(tmp_path / "bad.csv", 'text,label\n"a\nb",x\none,two,three\n')
  assert "bad.csv:4: line 4 has 3 fields, the header has 2" in refusal(f"table:{file}")


@pytest.mark.parametrize(
  ("text", "name"),
  [
    ("text;label\none, two;a\nthree;b\n", "semicolons"),
    ("text\tlabel\none, two\ta\nthree\tb\n", "tabs"),
    ('"text"|"label"\n"one, two"|a\nthree|b\n', "vertical bars"),
    ("sep=;\ntext;label\none, two;a\nthree;b\n", "semicolons"),
    ("text;label;size, in cm\none, two;a;1,5\nthree;b;2\n", "semicolons"),
  ],
)
def test_the_separator_of_a_csv_is_detected_and_reported(tmp_path, text, name):
  examples = load(f"table:{write(tmp_path / 't.csv', text)}")
  assert list(zip(examples.inputs.array(), examples.labels)) == [("one, two", "a"), ("three", "b")]
  assert examples.notes == [f"{tmp_path}/t.csv: its fields are separated by {name}"]
  assert examples.ids[0] == f"t.csv:{3 if text.startswith('sep=') else 2}"


def test_commas_stay_the_separator_of_a_csv(tmp_path):
  text = "text,label\na; b; c,x\nd; e; f,y\n"
  examples = load(f"table:{write(tmp_path / 't.csv', text)}")
  assert list(examples.inputs.array()) == ["a; b; c", "d; e; f"] and examples.notes == []
  lines = unlabelled.read(str(write(tmp_path / "one.csv", "text\na; b\nc\n")), "text")
  assert [row.values[0] for row in lines] == [b"a; b", b"c"]


def test_the_first_worksheet_of_a_workbook(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  book = openpyxl.Workbook()
  book.active.append(("text", "label", "day"))
  book.active.append(("good", 1, datetime.date(2026, 1, 2)))
  book.active.append(())
  book.active.append(("bad", 0.0, datetime.date(2026, 1, 3)))
  book.create_sheet("Notes").append(("about",))
  book.save(tmp_path / "t.xlsx")
  examples = load(f"table:{tmp_path / 't.xlsx'}", time_column="day")
  assert list(zip(examples.ids, examples.inputs.array(), examples.labels)) == [
    ("t.xlsx:2", "good", "1"),
    ("t.xlsx:4", "bad", "0"),
  ]
  assert examples.times[0].startswith("2026-01-02")
  assert examples.notes == [f"{tmp_path}/t.xlsx: the worksheet 'Sheet' is read; not read are 'Notes'"]
  assert "not an .xlsx workbook" in refusal(f"table:{write(tmp_path / 'fake.xlsx', 'text,label')}")


def test_a_worksheet_may_have_holes_in_its_header_and_not_repeat_it(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  book = openpyxl.Workbook()
  for row in (("text", None, "label", None, "n"), ("a", None, "x", None, 1), ("text", None, "label", None, "n")):
    book.active.append(row)
  book.save(tmp_path / "t.xlsx")
  examples = load(f"table:{tmp_path / 't.xlsx'}", on_bad_example="skip")
  assert list(examples.labels) == ["x"]
  assert examples.skipped == [{"id": "t.xlsx:3", "reason": "row 3 repeats the header: remove it"}]


def test_other_forms_of_tables_are_told_what_to_do(tmp_path):
  assert "save it as .xlsx or .csv" in refusal(f"table:{write(tmp_path / 't.xls', '')}")
  assert "one JSON object per line" in refusal(f"table:{write(tmp_path / 't.json', '[]')}")


def hugging_face(path, images):
  """Writes a Parquet file as datasets.Dataset.to_parquet does of a data set of images."""
  import pyarrow
  from pyarrow import parquet

  features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
  table = pyarrow.table({"image": images, "label": [i % 2 for i in range(len(images))]})
  table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
  path.parent.mkdir(parents=True, exist_ok=True)
  parquet.write_table(table, path)
  return path


@pytest.mark.parametrize("bare", [False, True])
def test_images_inside_parquet(tmp_path, bare):
  contents = [b"good 0", b"good 1", b"good 2"]
  images = contents if bare else [{"bytes": content, "path": f"{i}.jpg"} for i, content in enumerate(contents)]
  file = hugging_face(tmp_path / "train-00000-of-00001-12de94e121bdbead.parquet", images)
  examples = load(f"table:{tmp_path}", cache_dir=str(tmp_path / "cache"))
  assert examples.modality == "image" and list(examples.labels) == ["cat", "dog", "cat"]
  assert [pathlib.Path(path).read_bytes() for path in examples.inputs.array()] == contents
  assert [row.values for row in unlabelled.read(str(file), "image")] == [(content,) for content in contents]


def test_images_beside_parquet(tmp_path):
  write_images(tmp_path, "0.jpg", "1.jpg")
  file = hugging_face(tmp_path / "t.parquet", [{"bytes": None, "path": "0.jpg"}, {"bytes": None, "path": "1.jpg"}])
  assert list(load(f"table:{file}").inputs.array()) == [str(tmp_path / "0.jpg"), str(tmp_path / "1.jpg")]


def test_texts_as_bytes_are_texts(tmp_path):
  import pandas as pd

  pd.DataFrame({"text": ["é".encode(), b"b"], "label": ["x", "y"]}).to_parquet(tmp_path / "t.parquet")
  assert list(load(f"table:{tmp_path / 't.parquet'}").inputs.array()) == ["é", "b"]


def test_equal_labels_are_one_class_however_their_accents_are_composed(tmp_path):
  file = write(tmp_path / "t.csv", "text,label\nx,caf\u00e9\ny,cafe\u0301\nz,tea\n")
  assert set(load(f"table:{file}").labels) == {"caf\u00e9", "tea"}


def test_a_header_inside_a_table_is_no_row(tmp_path):
  text = "text,label\na b,x\nc d,y\n"
  for inside in (text, "\ufeff" + text):
    file = write(tmp_path / "t.csv", text + inside)
    assert "t.csv:4: line 4 repeats the header: remove it (1 of 5" in refusal(f"table:{file}")
  file = write(tmp_path / "t.tsv", (text + text).replace(",", "\t"))
  assert "line 4 repeats the header" in refusal(f"table:{file}")


def test_columns_without_a_name_are_no_fault(tmp_path):
  file = write(tmp_path / "t.csv", ",text,,label,\n1,a b,,x,\n2,c d,,y,\n")
  for flags in ({}, {"image_column": ""}):
    examples = load(f"table:{file}", **flags)
    assert list(examples.inputs.array()) == ["a b", "c d"] and list(examples.labels) == ["x", "y"]
  assert "has the column 'a' twice" in refusal(f"table:{write(tmp_path / 'two.csv', 'a,a,text,label')}")


def test_line_ends_of_the_old_mac_os(tmp_path):
  file = write(tmp_path / "t.tsv", "text\tlabel\ra b\tx\rc d\ty\r")
  assert list(load(f"table:{file}").labels) == ["x", "y"]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("text,label\na,b\n".encode("utf-16"), "is UTF-16, not UTF-8: save it as UTF-8"),
    ("text,label\na,b\n".encode("utf-16-le"), "is UTF-16, not UTF-8: save it as UTF-8"),
    (b"PK\x03\x04\x14\x00", "is a zip file or an Excel workbook: unpack it, or name it .xlsx"),
    (gzip.compress(b"text,label\na,b\n"), "is compressed by gzip: add .gz to its name"),
    (b"PAR1\x15\x04", "is a Parquet file: name it .parquet"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS, not the table"),
  ],
  ids=["utf16", "utf16_without_mark", "zip", "gzip", "parquet", "lfs"],
)
def test_what_is_no_text_table_says_what_it_is(tmp_path, content, message):
  (tmp_path / "t.csv").write_bytes(content)
  assert message in refusal(f"table:{tmp_path / 't.csv'}")


def test_a_list_of_objects_is_told_apart_from_jsonl(tmp_path):
  file = write(tmp_path / "t.jsonl", json.dumps([{"text": "a", "label": "b"}]))
  assert "(line 1 is not a JSON object): write one object per line" in refusal(f"table:{file}")
