"""Tables that are made to fill the memory, to take for ever, or to end in a traceback."""

import gzip
import io
import json
import os
import time
import zipfile

import pyarrow as pa
import pytest
from loading import load, refusal, write
from pyarrow import parquet

from tl_app import files
from tl_app.data.readers import table_formats, text_files
from tl_app.errors import UserError
from tl_app.files import compressed

SHEET = "xl/worksheets/sheet1.xml"
GOOD = "text,label\na b,x\nc d,y\n"


def test_a_gzip_bomb_is_refused_at_its_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(compressed, "FREE", 1 << 20)
  bomb = gzip.compress(b"text,label\n" + b"a,b\n" * (1 << 19))
  for name in ("bomb.csv.gz", "bomb.jsonl.gz"):
    (tmp_path / name).write_bytes(bomb)
    assert "is refused: it unpacks to more than " in refusal(f"table:{tmp_path / name}")
  (tmp_path / "bomb.txt.gz").write_bytes(bomb)
  found = text_files.find(str(tmp_path / "bomb.txt.gz"), "--dataset=texts:bomb", "line")
  with pytest.raises(UserError, match="over 200 times its size"):
    list(text_files.read(found, "text", "--dataset=texts:bomb"))
  (tmp_path / "good.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
  assert len(load(f"table:{tmp_path / 'good.csv.gz'}")) == 2


def test_one_cell_does_not_fill_the_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(table_formats, "LARGEST_CELL", 1000)
  long = "x" * 1001
  path = write(tmp_path / "t.jsonl", "".join(json.dumps({"text": t, "label": "a"}) + "\n" for t in ("b", long)))
  assert "row 2 has a cell of more than" in refusal(f"table:{path}")
  assert "row 3 has a cell of more than" in refusal(f"table:{write(tmp_path / 't.csv', f'{GOOD}'[:17] + f'{long},y')}")


@pytest.mark.parametrize("opened", ["[", '{"a":', '["a",{"b":['])
def test_deep_json_is_a_fault_of_its_row(tmp_path, opened):
  row = json.dumps({"text": "c d", "label": opened * 30000})
  path = write(tmp_path / "t.jsonl", f'{{"text": "a b", "label": "x"}}\n{opened * 30000}\n{row}\n')
  assert "line 2 is not JSON" in refusal(f"table:{path}")
  assert len(load(f"table:{path}", on_bad_example="skip", task="single_label")) == 2


def test_parquet_claims_are_checked_and_bad_text_is_one_line(tmp_path):
  rows = 2_000_000
  array = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), ["a"])
  parquet.write_table(pa.table({"text": array, "label": array}), tmp_path / "many.parquet")
  assert "it claims 2,000,000 rows" in refusal(f"table:{tmp_path / 'many.parquet'}")
  broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
  parquet.write_table(pa.table({"text": broken, "label": ["x"]}), tmp_path / "broken.parquet")
  assert "is not a Parquet file that can be read" in refusal(f"table:{tmp_path / 'broken.parquet'}")
  meta = {"huggingface": json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["n", "p"]}}}})}
  table = pa.table({"text": ["a", "b"], "label": ["x", "y"]}).replace_schema_metadata(meta)
  parquet.write_table(table, tmp_path / "names.parquet")
  assert list(load(f"table:{tmp_path / 'names.parquet'}").labels) == ["x", "y"]


def test_workbooks_that_claim_any_size_or_are_damaged_inside(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  book = openpyxl.Workbook()
  for row in (["text", "label"], ["a b", "x"], ["c d", "y"]):
    book.active.append(row)
  book.save(tmp_path / "good.xlsx")

  def changed(name, member, change):
    target = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "good.xlsx") as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
      for part in old.namelist():
        content = old.read(part)
        new.writestr(part, change(content) if part == member else content)
    (tmp_path / name).write_bytes(target.getvalue())
    return f"table:{tmp_path / name}"

  # A million rows of sixteen thousand empty cells.
  start = time.monotonic()
  claims = changed("claims.xlsx", SHEET, lambda xml: xml.replace(b'ref="A1:B3"', b'ref="A1:XFD1048576"'))
  assert len(load(claims)) == 2
  far = changed("far.xlsx", SHEET, lambda xml: xml.replace(b'<row r="3"', b'<row r="99999999999"'))
  assert "it has more than 1,048,576 rows" in refusal(far)
  assert time.monotonic() - start < 20
  cut = changed("cut.xlsx", SHEET, lambda xml: xml.replace(b'<c r="A3"', b'<c r="A3'))
  assert "is not an .xlsx workbook that can be read" in refusal(cut)
  bomb = changed("bomb.xlsx", SHEET, lambda xml: xml + b" " * (66 << 20))
  assert "is refused: it unpacks to more than 64 MB" in refusal(bomb)


def test_pipes_are_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "t.csv")
  assert "it is a pipe, a socket or a device" in refusal(f"table:{tmp_path / 't.csv'}")
  with pytest.raises(OSError, match="pipe"):
    files.require_regular(tmp_path / "t.csv")
