"""Label cells of tables that cannot be learnt, such as identifiers, reported before TensorFlow starts."""

import unicodedata

import numpy as np

from tl_app.config import Config, rules
from tl_app.data.readers import forms, table_columns, table_files
from tl_app.data.readers.rows import as_text
from tl_app.data.readers.table_formats import open_table

# Fewer different labels, or more rows for each, are not looked at: `label_problems` takes seconds to import.
_FEW_LABELS, _ENOUGH_ROWS = 10, 4
# Of larger tables the labels are judged when they are loaded, in bytes.
_LARGEST = 16 << 20
# Flags that change labels, or that add or drop rows, after a table is read.
_CHANGED_BY = (
  *("corrections", "group_column", "label_columns", "label_names", "sentence_column"),
  *("test_dataset", "time_column", "validation_dataset"),
)


def check(config: Config) -> None:
  """Checks the labels of --dataset, if it is a table of texts, they hardly recur, and every row can be read.

  Args:
    config: the `Config`; its tables have the columns.

  Raises:
    UserError: they have a problem; the message is that of `label_problems`.
  """
  if config.task != "auto" or not config.label_column or any(getattr(config, name) for name in _CHANGED_BY):
    return
  form, path = forms.parse(config.dataset, "dataset")
  files = [file for _, file in table_files.find(path, "", [])[1]] if form == "table" else []
  if sum(file.stat().st_size for file in files) > _LARGEST:
    return
  labels = [label for file in files for label in _labels(file, config)]
  distinct = set(labels)
  if len(distinct) < _FEW_LABELS or None in distinct or len(labels) > _ENOUGH_ROWS * len(distinct):
    return
  from tl_app.tasks import label_names, label_problems

  rows = [row for file in files for row in _rows(file, config)]
  if not all(cell and cell.strip() for row in rows for cell in row):
    # Which rows are skipped is not known yet.
    return
  texts = np.array([row[0] for row in rows], object) if len(rows[0]) == 2 else None
  cells = [unicodedata.normalize("NFC", row[-1].strip()) for row in rows]
  cells, _ = label_names.resolve(cells, config.data, texts)
  rules.require(label_problems.find(config.data, cells, texts))


def _labels(file, config):
  """Yields the label cells of a table of texts; None for one that is absent, is a list, or whose row is read later."""
  table = open_table(file)
  columns = _columns(table, config, file)
  if columns.sentence or columns.modality.is_decoded:
    yield None
    return
  place = table.names.index(columns.labels[0])
  for _, record in table.rows:
    try:
      yield None if isinstance(record, str) else as_text(record[place])
    except ValueError:
      yield None


def _rows(file, config):
  """Yields the texts of each row and then its label; None for a cell that is absent or cannot be read."""
  from tl_app.data.readers import tables

  table = open_table(file)
  columns = _columns(table, config, file)
  for _, cells, _ in tables.cells(file, table, list(columns.inputs.values()), columns.labels):
    yield cells


def _columns(table, config, file):
  return table_columns.choose(table.names, config.data, table_columns.of_splits(config), file)
