"""`column_names`: the names of the columns of a table, from its beginning alone however large it is."""

import gzip
import importlib.util
import itertools
import json
import mmap
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Iterable
from xml.etree import ElementTree

from tl_app.data.readers.table_files import suffix
from tl_app.data.readers.table_formats import open_table
from tl_app.files import compressed

# Bytes of a text file that tell the names of its columns.
BEGINNING = 1 << 20
_SHEETS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def column_names(file: pathlib.Path, wanted: Iterable[str] = ()) -> list[str] | None:
  """Returns the names of the columns of a file, or None where its beginning does not tell them.

  Args:
    file: path with one of `table_files.SUFFIXES`.
    wanted: names that are looked for in all of a .jsonl, whose later lines may have more columns.

  Raises:
    UserError: a small file cannot be read, or has no columns.
  """
  kind = suffix(file).removesuffix(".gz")
  is_small = file.stat().st_size <= BEGINNING
  if kind == ".parquet" or (importlib.util.find_spec("openpyxl") is None if kind == ".xlsx" else is_small):
    return open_table(file).names
  try:
    if kind == ".xlsx":
      return _of_workbook(file)
    names = _of_text(file, kind)
  # A damaged workbook raises anything; the reader of the whole file says what is wrong.
  except Exception:
    return None
  if kind not in (".jsonl", ".ndjson"):
    return names
  return None if file.suffix.lower() == ".gz" else names + [name for name in wanted if _has_key(file, name, names)]


def _of_text(file, kind):
  reader = gzip.open if file.suffix.lower() == ".gz" else open
  with reader(file, "rb") as opened, tempfile.TemporaryDirectory() as scratch:
    beginning = pathlib.Path(scratch, f"beginning{kind}")
    beginning.write_bytes(opened.read(BEGINNING).rpartition(b"\n")[0])
    return open_table(beginning).names


def _has_key(file, name, names):
  """Whether a .jsonl has a key that its beginning does not have."""
  if not name or name in names or not os.path.getsize(file):
    return False
  with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
    return any(content.find(json.dumps(name, ensure_ascii=ascii).encode()) >= 0 for ascii in (True, False))


def _of_workbook(file):
  """Returns the texts of the first row of the first worksheet, or None if a cell of it is no text."""
  compressed.check_zip(file)
  with zipfile.ZipFile(file) as book:
    (first, *_) = ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{_SHEETS}sheet")
    parts = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    target = next(part.get("Target", "") for part in parts if part.get("Id") == first.get(_ID))
    cells = _first_row(book, target.removeprefix("/") if target.startswith("/") else f"xl/{target}")
    shared = [int(value) for kind, value in cells.values() if kind == "s"]
    strings = _strings(book, max(shared)) if shared else []
  if not cells or any(kind not in ("s", "str", "inlineStr") for kind, _ in cells.values()):
    return None
  texts = {place: (strings[int(value)] if kind == "s" else value).strip() for place, (kind, value) in cells.items()}
  names = [texts.get(place, "") for place in range(1, max(texts) + 1)]
  return names if len(set(names)) == len(names) else None


def _first_row(book, sheet):
  """Returns {number of the column, from 1: (type, text of the value)} of the first row with a value."""
  with book.open(sheet) as opened:
    for _, element in ElementTree.iterparse(opened):
      if element.tag == f"{_SHEETS}row":
        cells = {}
        for cell in element.iter(f"{_SHEETS}c"):
          value = "".join(part.text or "" for part in cell.iter() if part.tag in (f"{_SHEETS}v", f"{_SHEETS}t"))
          if value:
            letters = re.match("[A-Z]+", cell.get("r", ""))[0]
            place = sum(26**power * (ord(letter) - 64) for power, letter in enumerate(reversed(letters)))
            cells[place] = (cell.get("t", "n"), value)
        if cells:
          return cells
        element.clear()
  return {}


def _strings(book, last):
  """Returns the shared texts of a workbook up to the one with the index `last`."""
  with book.open("xl/sharedStrings.xml") as opened:
    items = (element for _, element in ElementTree.iterparse(opened) if element.tag == f"{_SHEETS}si")
    return ["".join(part.text or "" for part in item.iter(f"{_SHEETS}t")) for item in itertools.islice(items, last + 1)]
