"""Checks that need no TensorFlow and run before it starts: for a name, a file or a column that is missing."""

import dataclasses
import os
import pathlib

from tl_app import backbones, files, workdir
from tl_app.config import Config
from tl_app.data import modalities
from tl_app.data.readers import forms, rows, table_columns, table_files, text_files
from tl_app.data.readers.table_formats import open_table
from tl_app.errors import UserError

# Bytes of a table whose columns are looked at; a larger one takes seconds, and its reader has the same message.
LARGEST = 32 << 20
_READ_WHOLE = (".conll", ".xlsx")


def run(config: Config, labelled: bool = True) -> None:
  """Checks that the backbone has a known name, that the data sets exist, and that tables have the columns.

  Args:
    config: the `Config`.
    labelled: whether the labels of --dataset are read.

  Raises:
    UserError: one of them is missing; the message is that of its loader.
  """
  if config.backbone:
    backbones.resolve(config.backbone)
  for flag in ("dataset", "validation_dataset", "test_dataset", "probe_dataset"):
    if getattr(config, flag):
      reads_labels = labelled or flag == "probe_dataset"
      no_label = {} if reads_labels else {"label_column": "", "label_columns": ""}
      _check_data(getattr(config, flag), flag, dataclasses.replace(config, **no_label))


def evaluation(config: Config, given: dict) -> None:
  """Checks the data set that `evaluate` was given in place of that of the run, as `run` does.

  Args:
    config: the `Config` of the run.
    given: {name: value} of the data flags of the command.
  """
  if given.get("dataset"):
    config = dataclasses.replace(config, **given)
    _check_data(config.dataset, "dataset", config)


def prediction(model: str, source: str, columns: dict[str, str]) -> None:
  """Checks that the export and the inputs of `predict` exist, and that a table has the columns of the inputs.

  Args:
    model: directory of the export.
    source: the inputs.
    columns: {flag: column} of "text_column", "image_column" and "text_pair_column".

  Raises:
    UserError: one of them does not exist.
  """
  if not os.path.exists(model):
    raise UserError(f"--model={model} is not an export of tl_app: use WORKDIR/export")
  if source != "-" and not os.path.exists(source):
    raise UserError(f"--input={source}: there is no such file or directory")
  facts, file = pathlib.Path(model, workdir.EXPORT_FACTS), pathlib.Path(source)
  if _is_quickly_read(file) and facts.is_file():
    modality = modalities.of(files.read_json(facts)["modality"])
    wanted = {flag: columns[flag] for flag in (modality.column_flag, "text_pair_column") if columns[flag]}
    table_columns.require(open_table(file).names, wanted, modality, file)


def _check_data(name, flag, config):
  form, path = forms.parse(name, flag)
  what = f"--{flag}={name}"
  if form == "table":
    _, found = table_files.find(path, what, [])
    _check_columns(found[0][1], config)
  elif form == "texts":
    text_files.find(path, what, config.text_unit)
  elif form in ("images", "tfrecord"):
    is_glob = rows.matching(path, what, lambda _: None, os.path.lexists)
    if not is_glob and not os.path.exists(path):
      kind = "directory" if form == "images" else "file or directory"
      raise UserError(f"{what}: there is no {kind} {pathlib.Path(path)}")


def _check_columns(file, config):
  if _is_quickly_read(file):
    table_columns.choose(open_table(file).names, config.data, table_columns.of_splits(config), file)


def _is_quickly_read(file):
  suffix = table_files.suffix(file)
  is_table = suffix in table_files.SUFFIXES and suffix.removesuffix(".gz") not in _READ_WHOLE
  return is_table and file.is_file() and file.stat().st_size <= LARGEST
