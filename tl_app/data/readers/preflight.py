"""What can be said of the data within a second: a file or a column that is not there. Imports no TensorFlow."""

import os
import pathlib

from tl_app.config import Config
from tl_app.data.readers import forms, rows, table_columns, table_files
from tl_app.data.readers.table_formats import open_table
from tl_app.errors import UserError

# Bytes of a table whose columns are looked at; a larger one takes too long, and its reader says the same later.
LARGEST = 32 << 20
_SEEN_WHOLE = (".conll", ".xlsx")


def check(config: Config, columns: bool = True) -> None:
  """Looks whether the data sets of a run are there, and whether their first tables have the columns.

  Args:
    config: the `Config`.
    columns: whether the columns of tables are looked at.

  Raises:
    UserError: the same as the readers' for what is not there.
  """
  for flag in ("dataset", "validation_dataset", "test_dataset"):
    name = getattr(config, flag)
    if not name:
      continue
    form, path = forms.parse(name, flag)
    what = f"--{flag}={name}"
    if form == "table":
      _, found = table_files.find(path, what, [])
      if columns and found:
        _check_columns(found[0][1], config)
    elif form in ("images", "tfrecord"):
      require_path(path, what, "directory" if form == "images" else "file or directory")


def require_path(path: str, what: str, kind: str) -> None:
  """Raises `UserError` if there is no such path, and nothing that it matches as a glob."""
  if not rows.matching(path, what, lambda _: None, os.path.lexists) and not os.path.exists(path):
    raise UserError(f"{what}: there is no {kind} {pathlib.Path(path)}")


def _check_columns(file, config):
  if table_files.suffix(file).removesuffix(".gz") in _SEEN_WHOLE or file.stat().st_size > LARGEST:
    return
  table_columns.choose(open_table(file).names, config.data, table_columns.of_splits(config), file)
