"""Checks that need no TensorFlow and run before it starts: for a name, a file or a column that is missing."""

import dataclasses
import os
import pathlib

from tl_app import backbones, workdir
from tl_app.assets import Assets
from tl_app.commands import arguments, early_labels, exports
from tl_app.compute import cluster
from tl_app.config import Config
from tl_app.data import corrections, modalities
from tl_app.data.readers import forms, rows, table_columns, table_files, text_files
from tl_app.data.readers.table_headers import column_names
from tl_app.errors import UserError
from tl_app.files import nearby


def run(config: Config, labelled: bool = True) -> None:
  """Checks that the backbone has a known name, that data sets, bundle and lock exist, and that tables have the columns.

  With several workers it also finds which of them this process is, see `cluster.join`.

  Args:
    config: the `Config`.
    labelled: whether the labels of --dataset are read.

  Raises:
    UserError: one of them is missing; the message is that of its loader.
  """
  cluster.join(config.strategy)
  backbone(config)
  if config.corrections:
    corrections.read(config.corrections)
  _check_decisions(config)
  for flag in ("dataset", "validation_dataset", "test_dataset", "probe_dataset"):
    no_label = {} if labelled or flag == "probe_dataset" else {"label_column": "", "label_columns": ""}
    _check_data(getattr(config, flag), flag, dataclasses.replace(config, **no_label))
  for flag in ("unlabelled_dataset", "ood_dataset"):
    _check_data(getattr(config, flag), flag, table_columns.without_labels(config))
  if labelled and config.dataset:
    early_labels.check(config)


def directory(config: Config) -> None:
  """Checks that --workdir is free for a training, or holds a run with the same flags, if --backbone is given or known.

  Args:
    config: the `Config`.

  Raises:
    UserError: it holds a finished run with other flags, or files of something else.
  """
  if config.backbone:
    workdir.check_contents(config.workdir, config)


def backbone(config: Config) -> None:
  """Checks that the backbone has a known name, and that --bundle and --lock can be read, as `run` does."""
  Assets.of(config)
  if config.backbone:
    backbones.resolve(config.backbone)


def evaluation(config: Config, given: dict) -> None:
  """Checks the data set that `evaluate` was given in place of that of the run, as `run` does.

  Args:
    config: the `Config` of the run.
    given: {name: value} of the data flags of the command.
  """
  if given.get("corrections"):
    corrections.read(given["corrections"])
  if given.get("dataset"):
    config = dataclasses.replace(config, **given)
    _check_data(config.dataset, "dataset", config)


def prediction(model: str, source: str, columns: dict[str, str]) -> None:
  """Checks that the export and the inputs of `predict` exist, and that a table has the columns of the inputs.

  Args:
    model: a run, or the directory of an export.
    source: the inputs; "" for a text in memory.
    columns: {flag: column} of `rules.INPUT_COLUMNS` that were given.

  Raises:
    UserError: one of them does not exist.
  """
  path, file = exports.export_of(model) / workdir.EXPORT_FACTS, pathlib.Path(source)
  arguments.require_input(source)
  if file.is_file() and table_files.is_table(file) and path.is_file():
    facts = exports.read_facts(path.parents[1])
    modality, names = modalities.of(facts["modality"]), exports.input_columns(facts, columns)
    wanted = {flag: names[flag] for flag in (modality.column_flag, "text_pair_column") if names[flag]}
    found = column_names(file, wanted.values())
    if found:
      table_columns.require(found, wanted, modality, file)


def selection(config: Config, names: str) -> None:
  """Checks the data set of `select`, as `run` does, and the names of its backbones.

  Args:
    config: the `Config`, without a backbone.
    names: value of --backbones.
  """
  run(config)
  for name in filter(None, map(str.strip, names.split(","))):
    backbones.resolve(name, "backbones")


def _check_decisions(config):
  """Raises `UserError` if --costs or --min_precision cannot be read; the classes are not known yet."""
  if not (config.costs or config.min_precision):
    return
  # scikit-learn takes a second to import.
  from tl_app.tasks import decisions

  if config.costs:
    decisions.read_costs(config.costs)
  decisions.read_precisions(config.min_precision)


def _check_data(name, flag, config):
  if not name:
    return
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
      raise UserError(f"{what}: there is no {kind} {path}{nearby.hint(path)}")


def _check_columns(file, config):
  names = column_names(file, table_columns.wanted(config)) if file.is_file() else None
  if names:
    table_columns.choose(names, config.data, table_columns.of_splits(config), file)
