"""`open_table`: names of columns and rows of a table, by the suffix of its file."""

import codecs
import collections
import contextlib
import csv
import io
import json
import os
import re
import typing

import numpy as np

from tl_app import files
from tl_app.data.readers.rows import as_text
from tl_app.data.readers.table_files import suffix
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import compressed

# Texts of a table may be whole documents; the csv module stops at 128 KiB otherwise.
csv.field_size_limit(2**31 - 1)

# Separators of a .csv, the usual one first, with their names.
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Records that tell the separator of a .csv.
_SAMPLE = 50
# A longer cell is no text to classify, and a few of them would fill the memory, in characters.
LARGEST_CELL = 16 << 20
# How files of another kind begin that have the suffix of a text table, and what to do with them.
_OTHER_KINDS = {
  codecs.BOM_UTF16_LE: "is UTF-16, not UTF-8: save it as UTF-8",
  codecs.BOM_UTF16_BE: "is UTF-16, not UTF-8: save it as UTF-8",
  b"PK\x03\x04": "is a zip file or an Excel workbook: unpack it, or name it .xlsx",
  b"\xd0\xcf\x11\xe0": "is a workbook of an old Excel: save it as .xlsx or .csv",
  b"\x1f\x8b": "is compressed by gzip: add .gz to its name",
  b"PAR1": "is a Parquet file: name it .parquet",
}
_REPEATED = "repeats the header: remove it"
# Rows of a worksheet.
_MOST_ROWS = 1 << 20
# Rows of a Parquet file in memory at a time; each may hold an image.
_ROWS_AT_A_TIME = 512


class Table(typing.NamedTuple):
  """A table that is being read.

  Attributes:
    names: of the columns.
    rows: iterator of (number, row). The number is that of the line on which the row begins, as an editor counts; of the
      row of a worksheet; in Parquet, which has no lines, of the row, from 1. A row is a sequence with a cell for each
      column, or the reason as a str why it has none.
    notes: lines worth telling the user.
  """

  names: list
  rows: typing.Iterator
  notes: tuple = ()


def open_table(file) -> Table:
  """Returns the `Table` of a file.

  Args:
    file: path with one of `table_files.SUFFIXES`.

  Raises:
    UserError: it cannot be read, or has no columns. Iteration over the rows raises it too.
  """
  try:
    files.require_regular(file)
    with open(file, "rb") as opened:
      is_pointer = files.is_lfs_pointer(opened.read(len(files.LFS_POINTER)))
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}") from None
  if is_pointer:
    raise UserError(f"{file} is a pointer of Git LFS, not the table: run git lfs pull")
  table = _READERS[suffix(file).removesuffix(".gz")](file)
  return table._replace(rows=((number, _within_limits(number, row)) for number, row in table.rows))


def _within_limits(number, row):
  """Returns the row, or the reason as a str why it is not read."""
  if not isinstance(row, str) and any(isinstance(cell, str) and len(cell) > LARGEST_CELL for cell in row):
    return f"row {number} has a cell of more than {LARGEST_CELL >> 20} million characters"
  return row


def _read_text(file):
  try:
    data = compressed.read_gzip(file) if file.suffix.lower() == ".gz" else file.read_bytes()
    _refuse_other_kinds(file, data)
    text = data.decode("utf-8-sig")
    # Line ends of the old Mac OS, as Excel still writes them.
    return text if "\n" in text else text.replace("\r", "\n")
  except compressed.TooLarge as error:
    raise UserError(str(error)) from None
  except compressed.DAMAGED as error:
    raise UserError(f"{file} is damaged, or not compressed by gzip: {error}") from None
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}") from None
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise UserError(f"{file} is not UTF-8: byte {error.start} on line {line}; save it as UTF-8") from None


def _refuse_other_kinds(file, data):
  for start, advice in _OTHER_KINDS.items():
    if data.startswith(start):
      raise UserError(f"{file} {advice}")
  # ASCII in UTF-16 without a byte order mark.
  if b"\0" in data[:2]:
    raise UserError(f"{file} {_OTHER_KINDS[codecs.BOM_UTF16_LE]}")


def _header(file, names):
  """Returns the names of the columns; several may have none, as those that a spreadsheet adds."""
  repeated = [name for name, count in collections.Counter(names).items() if name and count > 1]
  if repeated:
    raise UserError(f"{file} has the column {sorted(repeated)[0]!r} twice in its header: rename one")
  return names


def _read_tsv(file):
  """Returns the `Table` of a TSV without quoting: a quote is a character like any other."""
  lines = (line.removesuffix("\r") for line in _read_text(file).split("\n"))
  rows = ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line)
  return _with_header(file, rows)


def _read_csv(file):
  """Returns the `Table` of a CSV with quoting; a quoted field may hold separators and line ends.

  The separator is that of `SEPARATORS` which gives most of the first records as many fields as the header, two or more;
  a first line "sep=;", as Excel writes it, names it. Where none does, it is the comma.
  """
  text, first = _read_text(file), 0
  named = re.match(r"sep=(.)\r?\n", text, re.I)
  if named:
    text, first, separator = text[named.end() :], 1, named[1]
  else:
    separator = _separator(text)
  other = SEPARATORS.get(separator, repr(separator))
  notes = (f"{file}: its fields are separated by {other}",) if separator != "," else ()
  return _with_header(file, _csv_rows(file, text, separator, first), notes)


def _separator(text):
  sample = text[:1_000_000]
  fitting = {separator: _fitting(sample, separator) for separator in SEPARATORS if separator in sample}
  best = max(fitting, key=fitting.get, default=",")
  return best if fitting.get(best) else ","


def _fitting(text, separator):
  """Returns how many of the first records have as many fields as the header; 0 if that has fewer than two."""
  counts = []
  try:
    for row in csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator):
      counts += [len(row)] if row else []
      if len(counts) > _SAMPLE:
        break
  except csv.Error:
    pass
  return sum(count == counts[0] for count in counts) if counts and counts[0] > 1 else 0


def _csv_rows(file, text, separator, line):
  """Yields (number of the first line, fields) of each record; `line` is the number of lines before `text`."""
  reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
  try:
    begins = line + 1
    for row in reader:
      if row:
        yield begins, row
      begins = line + reader.line_num + 1
  except csv.Error as error:
    raise UserError(f"{file}, line {line + reader.line_num}: {error}: a quote is not closed or not doubled") from None


def _with_header(file, rows, notes=()):
  """Returns the `Table` from (line number, fields); a ragged row becomes the reason as a str."""
  _, names = next(rows, (0, None))
  if names is None:
    raise UserError(f"{file} is empty")
  records = ((line, _fault(line, row, names) or row) for line, row in rows)
  return Table(_header(file, [name.strip() for name in names]), records, notes)


def _fault(line, row, header):
  """Returns why the fields of a line are no row, or ""; tables that were joined have their headers inside."""
  if len(row) != len(header):
    return f"line {line} has {number_of(len(row), 'field')}, the header has {len(header)}"
  is_header = len(row) > 1 and row[1:] == header[1:] and row[0].removeprefix("\ufeff") == header[0]
  return f"line {line} {_REPEATED}" if is_header else ""


def _read_jsonl(file):
  """Returns the `Table` of one JSON object per line, with the keys of all lines; an absent key is None."""
  records, names = [], {}
  for number, line in enumerate(_read_text(file).split("\n"), start=1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as error:
      record, reason = None, f"line {number} is not JSON: {getattr(error, 'msg', error)}"
    else:
      reason = f"line {number} is not a JSON object"
    records.append((number, record if isinstance(record, dict) else reason))
    names.update(dict.fromkeys(record if isinstance(record, dict) else ()))
  if not names:
    advice = f"has no line with a JSON object ({records[0][1]}): write one object per line" if records else "is empty"
    raise UserError(f"{file} {advice}")
  rows = ((line, r if isinstance(r, str) else [r.get(name) for name in names]) for line, r in records)
  return Table(list(names), rows)


def _read_parquet(file):
  """Returns the `Table` of a Parquet file; numbers of classes become their names."""
  import pyarrow
  from pyarrow import parquet

  def refuse(error):
    return UserError(f"{file} is not a Parquet file that can be read: {str(error).splitlines()[0]}")

  try:
    table = parquet.ParquetFile(file)
    names = _header(file, table.schema_arrow.names)
    classes = _class_names(table.schema_arrow.metadata or {})
    _check_parquet(file, table.metadata)
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
    raise refuse(error) from None
  of_column = [classes.get(name) for name in names]

  def rows():
    try:
      for batch in table.iter_batches(_ROWS_AT_A_TIME):
        for row in zip(*map(_values, batch.columns)):
          yield [_named(value, known) for value, known in zip(row, of_column)]
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
      raise refuse(error) from None

  return Table(names, enumerate(rows(), start=1))


def _values(column):
  """Returns the cells of a column of a Parquet file; 0.1 in 32 bits is 0.1, not 0.10000000149011612."""
  import pyarrow

  values = column.to_pylist()
  if not pyarrow.types.is_float32(column.type):
    return values
  return [value if value is None else float(str(np.float32(value))) for value in values]


def _check_parquet(file, metadata):
  """Raises `UserError` for a file that claims far more rows, or larger ones, than it can hold."""
  size = os.path.getsize(file)
  groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
  unpacked = sum(group.total_byte_size for group in groups)
  if metadata.num_rows > max(size, _MOST_ROWS) or unpacked > compressed.largest(size):
    raise UserError(
      f"{file} is refused: it claims {metadata.num_rows:,} rows of {unpacked >> 20:,} MB in all, in a file of "
      f"{size:,} bytes"
    )


def _class_names(metadata):
  """Returns {column: names of its numbers}, which Hugging Face's datasets write beside the schema of a Parquet file."""
  try:
    features = json.loads(metadata.get(b"huggingface", "{}")).get("info", {}).get("features", {}).items()
  except (ValueError, AttributeError, RecursionError):
    return {}
  inner = {name: feature.get("feature", feature) for name, feature in features if isinstance(feature, dict)}
  classes = {
    name: f.get("names") for name, f in inner.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"
  }
  return {name: names for name, names in classes.items() if isinstance(names, list)}


def _named(value, names):
  """Returns a cell with its class numbers as names; -1 is no label."""
  if names is None or value is None:
    return value
  if isinstance(value, list):
    return [_named(member, names) for member in value]
  if not isinstance(value, int):
    return value
  return names[value] if 0 <= value < len(names) else None


def _read_xlsx(file):
  """Returns the `Table` of the first worksheet of an Excel workbook; rows without a value are passed over."""
  try:
    import openpyxl
  except ImportError:
    raise UserError(f"{file}: reading .xlsx needs openpyxl: pip install 'tl_app[excel]', or save it as .csv") from None
  with _workbook_faults(file):
    compressed.check_zip(file)
    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    sheets = book.worksheets
    # A worksheet may claim any size; its rows tell the true one.
    sheets[0].reset_dimensions()
    first = next(_sheet_rows(sheets[0]), None)
  if not first:
    raise UserError(f"{file} is empty: its first worksheet is read, {sheets[0].title!r}")
  width = max(position for position, cell in enumerate(first[1], start=1) if cell not in (None, ""))
  names = _header(file, [(as_text(cell) or "").strip() for cell in first[1][:width]])

  def records():
    with _workbook_faults(file):
      rows = _sheet_rows(sheets[0], width)
      next(rows)
      for number, row in rows:
        row = (row + [None] * width)[:width]
        yield number, f"row {number} {_REPEATED}" if row == first[1][:width] else row

  unread = ", ".join(repr(sheet.title) for sheet in sheets[1:5])
  notes = (f"{file}: the worksheet {sheets[0].title!r} is read; not read are {unread}",) if unread else ()
  return Table(names, records(), notes)


def _sheet_rows(sheet, width=None):
  """Yields (number, list of cells) of the rows of a worksheet that have a value, with `width` cells at most."""
  for number, row in enumerate(sheet.iter_rows(values_only=True, max_col=width), start=1):
    if number > _MOST_ROWS:
      raise ValueError(f"it has more than {_MOST_ROWS:,} rows")
    if any(cell not in (None, "") for cell in row):
      yield number, list(row)


@contextlib.contextmanager
def _workbook_faults(file):
  """Turns an error of openpyxl inside the block into a `UserError`."""
  try:
    yield
  except UserError:
    raise
  except compressed.TooLarge as error:
    raise UserError(str(error)) from None
  # The errors of openpyxl, of zipfile and of the XML parser have no common class.
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{file} is not an .xlsx workbook that can be read: {reason}") from None


def _read_conll(file):
  """Returns the `Table` of tagged words, see `conll.read`; a row is a sentence."""
  from tl_app.data.readers import conll

  return Table(*conll.read(file, _read_text(file)))


_READERS = {
  ".csv": _read_csv,
  ".tsv": _read_tsv,
  ".jsonl": _read_jsonl,
  ".ndjson": _read_jsonl,
  ".parquet": _read_parquet,
  ".xlsx": _read_xlsx,
  ".conll": _read_conll,
}
