"""`table:PATH`: csv, tsv, jsonl, xlsx and Parquet files with named columns; a directory gives splits."""

from tl_app.assets import Assets
from tl_app.config.groups import DataConfig
from tl_app.data import modalities
from tl_app.data.readers import sentences, table_columns, table_files
from tl_app.data.readers.rows import SPLIT_NAMES, Raw, Row, as_label, as_text, keep_image, relative_name
from tl_app.data.readers.table_files import suffix
from tl_app.data.readers.table_formats import open_table
from tl_app.errors import UserError
from tl_app.tasks import cells as label_cells
from tl_app.tasks import tags

# Columns of other programs that tell the split of a row.
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "usage")


def read(path: str, what: str, config: DataConfig, split_columns: dict[str, str], assets: Assets) -> Raw:
  """Returns the `Raw` of tables. Paths of images are relative to their table; encoded images are kept in the cache.

  Args:
    path: a file, a glob of parts with the same columns, or a directory with train, validation and test files.
    what: the flag with its value, the beginning of a message.
    config: names of the columns.
    split_columns: {flag: column} of --group_column and --time_column, if they are given.
    assets: `Assets`: images that the cells of a table hold are kept in its `root`.

  Raises:
    UserError: no such table, one that cannot be read, or a column that is not there.
  """
  raw, first = Raw({}, []), {}

  def store(data):
    return keep_image(data, assets.root / "table_images")

  root, found = table_files.find(path, what, raw.notes)
  for split, file in found:
    table = open_table(file)
    raw.notes += table.notes
    _need_same_columns(*first.setdefault(split, (file, table.names)), file, table.names)
    columns = table_columns.choose(table.names, config, split_columns, file)
    by_name = {flag.removesuffix("_column"): columns.modality.name for flag in columns.inputs}
    if raw.columns not in ({}, by_name):
      others = modalities.of(next(iter(raw.columns.values()))).plural
      raise UserError(
        f"{file} has a column of {columns.modality.plural}, the tables beside it {others}: give all the same columns"
      )
    raw.columns = by_name
    folder = relative_name(file.parent, root)
    told = "" if split else next((name for name in table.names if name.lower() in _SPLIT_COLUMNS), "")
    seen = set()
    rows = list(_rows(file, _noting(table, told, seen) if told else table, columns, split, store))
    if len(seen) > 1 and seen <= SPLIT_NAMES.keys():
      raw.notes.append(
        f"{file.name}: the column {told!r} is not read, although it holds {' and '.join(sorted(seen))}: to keep these "
        "splits write a file for each"
      )
    if columns.sentence:
      rows, words = sentences.joined(rows, columns.sentence), len(rows)
      raw.notes.append(
        f"{file.name}: {words:,} words are {len(rows):,} sentences by --sentence_column={columns.sentence}"
      )
    for row in rows:
      raw.rows.append(row if folder == "." else row._replace(id=f"{folder}/{row.id}"))
    if not rows:
      raise UserError(f"{file} has a header but no rows")
  return raw


def _noting(table, column, seen):
  """Returns the `Table`; when its rows are read, the set `seen` gets the cells of `column` in lower case."""
  place = table.names.index(column)

  def rows():
    for number, record in table.rows:
      if not isinstance(record, str):
        seen.add(str(record[place]).strip().lower())
      yield number, record

  return table._replace(rows=rows())


def _rows(file, table, columns, split, store):
  """Yields the `Row` of each record of a `Table`; with a column of sentences (`Row`, its cell in that column)."""
  inputs, splits = len(columns.inputs), len(columns.splits)
  names = [*columns.inputs.values(), *columns.splits.values(), *columns.slices]
  names += [columns.sentence] if columns.sentence else []
  for id, cell, reason in cells(file, table, names, columns.labels, inputs=inputs):
    label, fault = _one_label(cell[len(names) :], columns.labels)
    located = [_located(value, columns.modality, file, store) for value in cell[:inputs]]
    reason = reason or next((fault for _, fault in located if fault), "") or fault
    extra = dict(zip(columns.splits, cell[inputs:]))
    empty = [f"it has no {name} (--{flag})" for flag, name in columns.splits.items() if not extra[flag]]
    reason = reason or "".join(empty[:1])
    values = tuple(value for value, _ in located)
    metadata = tuple(value or "" for value in cell[inputs + splits :][: len(columns.slices)])
    row = Row(id, values, label, split, reason, extra.get("group_column"), extra.get("time_column"), metadata)
    yield (row, cell[len(names) - 1]) if columns.sentence else row


def _located(value, modality, file, store):
  """Returns (value, reason): what the cell of an input stands for, see `Modality.locate` and `Modality.from_bytes`."""
  if isinstance(value, bytes):
    try:
      return modality.from_bytes(value, store), ""
    except ValueError as error:
      return None, str(error)
  return modality.locate(value, file) if value else (value, "")


def cells(file, table, wanted, labels=(), words=False, inputs=None):
  """Yields (id, cells, reason) of each record, the cells of the columns `wanted` as str, or None where absent.

  An id is the file's name and the number of the row, see `Table`. With a reason all cells are None.

  Args:
    file: path.
    table: its `Table`.
    wanted: column names.
    labels: names of columns after these whose cells may be lists.
    words: whether cells of `wanted` may be lists of words; beside a label that is a list they always may.
    inputs: how many of `wanted`, from the first, may hold bytes. Default: all.
  """
  inputs = len(wanted) if inputs is None else inputs
  positions = [table.names.index(name) for name in wanted]
  label_positions = [table.names.index(name) for name in labels]
  for number, record in table.rows:
    id = f"{file.name}:{number}"
    try:
      if isinstance(record, str):
        raise ValueError(record)
      given = [record[position] for position in label_positions]
      lists = [_list_in(value) for value in given]
      tagged = words or any(value is not None for value in lists)
      found = [_as_cell(record[position], tagged, i < inputs) for i, position in enumerate(positions)]
      yield id, found + [tags.as_cell(members) or as_label(value) for value, members in zip(given, lists)], ""
    except ValueError as error:
      yield id, [None] * (len(positions) + len(label_positions)), str(error)


def _as_cell(value, words, is_input):
  """Returns a cell as str, as bytes where it is an input that holds them, or None where it is absent."""
  if is_input and isinstance(value, dict) and "bytes" in value and value.keys() <= {"bytes", "path"}:
    # An image of Hugging Face's datasets: its content, or else its path.
    value = value.get("path") if value["bytes"] is None else value["bytes"]
  if is_input and isinstance(value, bytes):
    return value
  if words and is_input and value == []:
    return ""
  members = _list_in(value) if words and is_input else None
  return tags.joined(members) if members else as_text(value)


def _list_in(value):
  """Returns the list that a cell holds, itself or as the text that Python and NumPy give it; else None."""
  if isinstance(value, str):
    return label_cells.listed(value)
  return value if isinstance(value, (list, tuple)) else None


def _one_label(cells, names):
  """Returns (the label of the cells of its columns: the cell, or of several the JSON list; what is wrong with it).

  Args:
    cells: of the label columns; a blank one is no label.
    names: of these columns.
  """
  if len(cells) < 2:
    return (cells[0] if cells else None), ""
  blank = next((name for name, cell in zip(names, cells) if not (cell and cell.strip())), None)
  if blank is not None:
    return (
      None,
      f"it has no label in the column {blank!r} of --label_columns, where 0 stands for no",
    )
  return as_label([cell.strip() for cell in cells]), ""


def _need_same_columns(first, expected, file, names):
  """Raises `UserError` where a part has other columns than the first; a key that a .jsonl part lacks is None there."""
  only = [[name for name in one if name not in other] for one, other in ((expected, names), (names, expected))]
  if any(only) and not suffix(file).startswith((".jsonl", ".ndjson")):
    told = " and ".join(
      f"only {path.name} has {', '.join(map(repr, missing[:5]))}"
      for path, missing in zip((first, file), only)
      if missing
    )
    raise UserError(f"{file} and {first} are parts of one table with different columns: {told}")
