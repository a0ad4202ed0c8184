"""`table:PATH`: csv, tsv, jsonl and Parquet files with named columns; a directory gives splits."""

import csv
import gzip
import io
import itertools
import json
import pathlib
import re
import zlib

from tl_app import config as configs
from tl_app.config.groups import DataConfig
from tl_app.data import modalities
from tl_app.data.readers import conll
from tl_app.data.readers.rows import (
  SPLIT_NAMES,
  Raw,
  Row,
  SplitFile,
  as_label,
  as_text,
  columns,
  files_by_split,
  matching,
  relative_name,
  visible,
)
from tl_app.errors import UserError
from tl_app.tasks import tags

# Texts of a table may be whole documents; the csv module stops at 128 KiB otherwise.
csv.field_size_limit(2**31 - 1)


def read(path: str, what: str, config: DataConfig, split_columns: dict[str, str]) -> Raw:
  """Returns the `Raw` of tables. Paths of images are relative to their table.

  Args:
    path: a file, a glob of parts with the same columns, or a directory with train, validation and test files.
    what: the flag with its value, the beginning of a message.
    config: names of the columns.
    split_columns: {flag: column} of --group_column and --time_column, if they are given.

  Raises:
    UserError: no such table, one that cannot be read, or a column that is not there.
  """
  raw, first = Raw({}, []), {}
  root, found = _files(path, what, raw.notes)
  for split, file in found:
    names, records = READERS[suffix(file)](file)
    _need_same_columns(*first.setdefault(split, (file, names)), file, names)
    modality, column = _input_column(names, config, file)
    for flag, name in split_columns.items():
      if name not in names:
        raise UserError(f"{file} has no column {name!r} (--{flag}); {known(file, names, name)}")
    labels = _label_columns(names, config, file)
    inputs = _with_pair(names, modality, column, config.text_pair_column, file)
    columns = {flag.removesuffix("_column"): modality.name for flag in inputs}
    if raw.columns not in ({}, columns):
      others = modalities.of(next(iter(raw.columns.values()))).plural
      raise UserError(
        f"{file} has a column of {modality.plural}, the tables beside it {others}: give all the same columns"
      )
    raw.columns = columns
    before = len(raw.rows)
    folder, wanted = relative_name(file.parent, root), [*inputs.values(), *split_columns.values()]
    for id, cell, reason in cells(file, names, records, wanted, labels):
      label = _one_label(cell[len(wanted) :])
      located = [modality.locate(value, file) if value else (value, "") for value in cell[: len(inputs)]]
      reason = reason or next((fault for _, fault in located if fault), "")
      extra = dict(zip(split_columns, cell[len(inputs) :]))
      empty = [f"it has no {name} (--{flag})" for flag, name in split_columns.items() if not extra[flag]]
      id = id if folder == "." else f"{folder}/{id}"
      reason = reason or "".join(empty[:1])
      values = tuple(value for value, _ in located)
      raw.rows.append(Row(id, values, label, split, reason, extra.get("group_column"), extra.get("time_column")))
    if len(raw.rows) == before:
      raise UserError(f"{file} has a header but no rows")
  return raw


def cells(file, names, records, wanted, labels=(), words=False):
  """Yields (id, cells, reason) of each record, the cells of the columns `wanted` as str, or None where absent.

  An id is the file's name and the row number; the first data row is 1. With a reason all cells are None.

  Args:
    file: path.
    names, records: of a reader in `READERS`.
    wanted: column names.
    labels: names of columns after these whose cells may be lists.
    words: whether cells of `wanted` may be lists of words; beside a label that is a list they always may.
  """
  positions = [names.index(name) for name in wanted]
  label_positions = [names.index(name) for name in labels]
  for number, record in enumerate(records, start=1):
    id = f"{file.name}:{number}"
    try:
      if isinstance(record, str):
        raise ValueError(record)
      tagged = words or any(isinstance(record[position], (list, tuple)) for position in label_positions)
      found = [_as_input(record[position], tagged) for position in positions]
      yield (
        id,
        found + [tags.as_cell(record[position]) or as_label(record[position]) for position in label_positions],
        "",
      )
    except ValueError as error:
      yield id, [None] * (len(positions) + len(label_positions)), str(error)


def _as_input(value, words):
  return tags.joined(value) if words and isinstance(value, (list, tuple)) else as_text(value)


def known(file, names, wanted):
  """Returns the end of a message about a column that `file` lacks: the columns it has, and what names them."""
  by_line = suffix(file) not in (".jsonl", ".jsonl.gz", ".parquet", ".conll", ".conll.gz")
  return columns(names, wanted, "its first line names the columns" if by_line else "its columns are")


def _with_pair(names, modality, column, pair, file):
  """Returns {flag: column} of the inputs: of one text or image, or of a pair of texts."""
  inputs = {modality.column_flag: column}
  if not pair:
    return inputs
  if modality.column_flag != "text_column":
    raise UserError(f"--text_pair_column={pair}, but {file} is read for its {modality.plural}: remove the flag")
  if pair not in names:
    raise UserError(f"{file} has no column {pair!r} (--text_pair_column); {known(file, names, pair)}")
  return inputs | {"text_pair_column": pair}


def _label_columns(names, config, file):
  """Returns the names of the columns of the label: --label_columns, else --label_column."""
  flag = "label_columns" if config.label_columns else "label_column"
  wanted = [name.strip() for name in config.label_columns.split(",") if name.strip()] or [config.label_column]
  for name in wanted:
    if name not in names:
      raise UserError(f"{file} has no column {name!r} (--{flag}); {known(file, names, name)}")
  return wanted


def _one_label(cells):
  """Returns the label of the cells of its columns: the cell, or of several the JSON list; None where one is absent."""
  if len(cells) == 1:
    return cells[0]
  return None if any(not (cell and cell.strip()) for cell in cells) else as_label([cell.strip() for cell in cells])


def _input_column(names, config, file):
  """Returns (modality, column name): the one that is there, or of two the one that the user chose by flag."""
  present = [m for m in modalities.MODALITIES.values() if getattr(config, m.column_flag) in names]
  if len(present) > 1:
    by_flag = [m for m in present if getattr(config, m.column_flag) != configs.FIELDS[m.column_flag].default]
    if len(by_flag) != 1:
      raise UserError(
        f"{file} has both {config.text_column!r} and {config.image_column!r}: pass --image_column= (empty) to train on "
        "the texts, --text_column= to train on the images"
      )
    present = by_flag
  if present:
    return present[0], getattr(config, present[0].column_flag)
  raise UserError(
    f"{file} has neither a column {config.text_column!r} (--text_column) nor {config.image_column!r} (--image_column); "
    + known(file, names, config.text_column)
  )


def suffix(file):
  """Returns the suffix of a table in lower case, with the one before .gz: ".csv", ".csv.gz"."""
  suffixes = [part.lower() for part in file.suffixes]
  return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def split_file(file):
  """Returns the `SplitFile` of a table named after a split, "train.csv" or "train-00000-of-00004.parquet"; or None."""
  kind = suffix(file)
  stem = file.name[: len(file.name) - len(kind)].lower()
  match = re.fullmatch(r"(?P<split>[a-z]+)(?:-(?P<number>\d+)-of-(?P<of>\d+))?", stem)
  if kind not in READERS or not match or match["split"] not in SPLIT_NAMES:
    return None
  split = SPLIT_NAMES[match["split"]]
  return SplitFile(file, split, match["split"] + kind, int(match["number"] or 0), int(match["of"] or 0))


def _files(path, what, notes):
  """Returns (the directory that ids are relative to, [(split, file)]); a file, or a directory's only table, has split
  ""."""
  suffixes = ", ".join(READERS)
  globbed = matching(path, what, split_file)
  if globbed:
    root, found = globbed
    tables = [file for file in found if suffix(file) in READERS]
    if not tables:
      raise UserError(f"{what} matches no table by its suffix, e.g. {found[0].name}; known are {suffixes}")
    if len(tables) < len(found):
      other = next(file for file in found if file not in tables)
      notes.append(f"{what}: files that are not tables, which are ignored: {len(found) - len(tables):,}, e.g. {other}")
    return root, [("", file) for file in tables]
  path = pathlib.Path(path)
  if not path.exists():
    raise UserError(f"{what}: there is no file or directory {path}")
  if not path.is_dir():
    if suffix(path) not in READERS:
      raise UserError(f"{what}: {path.name} is not a table by its suffix; known are {suffixes}")
    return path.parent, [("", path)]
  tables = [file for file in visible(path)[1] if suffix(file) in READERS]
  split_files = [file for file in map(split_file, tables) if file]
  if split_files:
    return path, files_by_split(split_files, what)
  if len(tables) == 1:
    return path, [("", tables[0])]
  found = f"has {len(tables)} tables, none of them named train" if tables else f"has no table ({suffixes})"
  raise UserError(f"{what}: {path} {found}; it takes train, dev or val, and test, or name one file, or parts by a glob")


def _need_same_columns(first, expected, file, names):
  """Raises `UserError` where a part has other columns than the first; a key that a .jsonl part lacks is None there."""
  only = [[name for name in one if name not in other] for one, other in ((expected, names), (names, expected))]
  if any(only) and not suffix(file).startswith(".jsonl"):
    told = " and ".join(
      f"only {path.name} has {', '.join(map(repr, missing[:5]))}"
      for path, missing in zip((first, file), only)
      if missing
    )
    raise UserError(f"{file} and {first} are parts of one table with different columns: {told}")


def _read_text(file):
  try:
    data = file.read_bytes()
    if file.suffix.lower() == ".gz":
      data = gzip.decompress(data)
    return data.decode("utf-8-sig")
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f"{file} is damaged, or not compressed by gzip: {error}") from None
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}") from None
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise UserError(f"{file} is not UTF-8: byte {error.start} on line {line}; save it as UTF-8") from None


def _header(file, names):
  repeated = {name for name in names if names.count(name) > 1}
  if repeated:
    raise UserError(f"{file} has the column {sorted(repeated)[0]!r} twice in its header: rename one")
  return names


def _read_tsv(file):
  """Returns (column names, iterator of rows) of a TSV without quoting: a quote is a character like any other."""
  lines = (line.removesuffix("\r") for line in _read_text(file).split("\n"))
  rows = ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line)
  return _with_header(file, rows)


def _read_csv(file):
  """Returns (column names, iterator of rows) of a CSV with quoting; a quoted field may hold commas and line ends."""
  reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True)

  def rows():
    try:
      for row in reader:
        if row:
          yield reader.line_num, row
    except csv.Error as error:
      raise UserError(f"{file}, line {reader.line_num}: {error}: a quote is not closed or not doubled") from None

  return _with_header(file, rows())


def _with_header(file, rows):
  """Returns (column names, iterator of rows) from (line number, fields); a ragged row becomes the reason as a str."""
  _, names = next(rows, (0, None))
  if names is None:
    raise UserError(f"{file} is empty")
  records = (
    row if len(row) == len(names) else f"line {line} has {len(row)} fields, the header has {len(names)}"
    for line, row in rows
  )
  return _header(file, names), records


def _read_jsonl(file):
  """Returns (keys of all lines, iterator of rows) of one JSON object a line; an absent key is None."""
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
    records.append(record if isinstance(record, dict) else reason)
    names.update(dict.fromkeys(record if isinstance(record, dict) else ()))
  if not names:
    raise UserError(f"{file} {'has no line with a JSON object: ' + records[0] if records else 'is empty'}")
  return list(names), (r if isinstance(r, str) else [r.get(name) for name in names] for r in records)


def _read_parquet(file):
  """Returns (column names, iterator of rows) of a Parquet file."""
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(file)
    names = _header(file, table.schema_arrow.names)
    batches = list(table.iter_batches())
    classes = _class_names(table.schema_arrow.metadata or {})
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{file} is not a Parquet file that can be read: {str(error).splitlines()[0]}") from None
  rows = itertools.chain.from_iterable(zip(*(c.to_pylist() for c in batch.columns)) for batch in batches)
  of_column = [classes.get(name) for name in names]
  return names, ([_named(value, known) for value, known in zip(row, of_column)] for row in rows)


def _class_names(metadata):
  """Returns {column: names of its numbers}, which Hugging Face's datasets write beside the schema of a Parquet file."""
  try:
    features = json.loads(metadata.get(b"huggingface", "{}")).get("info", {}).get("features", {})
  except (ValueError, AttributeError):
    return {}
  inner = {name: feature.get("feature", feature) for name, feature in features.items() if isinstance(feature, dict)}
  return {name: f["names"] for name, f in inner.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}


def _named(value, names):
  """Returns a cell with its class numbers as names; -1 is no label."""
  if names is None or value is None:
    return value
  if isinstance(value, list):
    return [_named(member, names) for member in value]
  return names[value] if 0 <= value < len(names) else None


def _read_conll(file):
  """Returns (column names, iterator of rows) of tagged words, see `conll.read`; a row is a sentence."""
  return conll.read(file, _read_text(file))


READERS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
READERS[".conll"] = _read_conll
READERS |= {f"{kind}.gz": READERS[kind] for kind in (".csv", ".tsv", ".jsonl", ".conll")}
