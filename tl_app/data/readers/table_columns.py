"""Which columns of a table hold the inputs and the labels."""

import dataclasses
import typing

from tl_app import config as configs
from tl_app.config import Config
from tl_app.config.groups import DataConfig
from tl_app.data import modalities
from tl_app.data.modalities import Modality
from tl_app.data.readers.rows import columns
from tl_app.data.readers.table_files import suffix
from tl_app.errors import UserError

# Column names of Kaggle's entity-annotated-corpus (ner_dataset.csv).
KAGGLE = {"sentence_column": "Sentence #", "text_column": "Word", "label_column": "Tag"}


class Columns(typing.NamedTuple):
  """The columns of a table.

  Attributes:
    modality: `Modality` of the inputs.
    inputs: {flag: column} of the inputs: of one text or image, or of a pair of texts.
    splits: {flag: column} of --group_column and --time_column, if they are given.
    labels: names of the columns of the label.
    sentence: column that tells the sentence of a word, or "".
    slices: columns of --slice_columns.
  """

  modality: Modality
  inputs: dict
  splits: dict
  labels: list
  sentence: str = ""
  slices: tuple = ()


def of_splits(config: Config) -> dict[str, str]:
  """Returns {flag: column} of the columns that only the splits use."""
  return {flag: getattr(config, flag) for flag in ("group_column", "time_column") if getattr(config, flag)}


def of_slices(config: DataConfig) -> tuple[str, ...]:
  """Returns the names of --slice_columns."""
  return tuple(dict.fromkeys(name.strip() for name in config.slice_columns.split(",") if name.strip()))


def wanted(config: Config) -> list[str]:
  """Returns the names of all columns that the flags name."""
  flags = [name for name in configs.FIELDS if name.endswith("_column")]
  labels = [name.strip() for name in config.label_columns.split(",")]
  return [*(getattr(config, flag) for flag in flags), *labels, *of_slices(config.data)]


def without_labels(config: Config) -> Config:
  """Returns the config of a data set of which the inputs alone are read."""
  names = ("label_column", "label_columns", "slice_columns", "group_column", "time_column")
  return dataclasses.replace(config, **dict.fromkeys(names, ""))


def require(names: list[str], wanted: dict[str, str], modality: Modality, file) -> None:
  """Raises `UserError` if one of the columns {flag: column} of the inputs of `predict` is not there."""
  for flag, column in wanted.items():
    if column not in names:
      raise UserError(
        f"--input={file} has no column {column!r} (--{flag}) of {modality.plural}, which the model reads; "
        f"{known(file, names, column)}"
      )


def choose(names: list[str], config: DataConfig, split_columns: dict[str, str], file) -> Columns:
  """Returns the `Columns` of a table.

  Args:
    names: all columns of the table.
    config: names of the columns by flag.
    split_columns: {flag: column} of --group_column and --time_column, if they are given.
    file: path of the table, for messages.

  Raises:
    UserError: a column is not there, or there is a choice that the user has to make.
  """
  config = _with_kaggles(config, names)
  modality, column = _input_column(names, config, file)
  sentence = {"sentence_column": config.sentence_column} if config.sentence_column else {}
  if sentence and modality.column_flag != "text_column":
    raise UserError(f"--sentence_column={config.sentence_column}, but {file} is read for its {modality.plural}")
  slices = of_slices(config)
  for flag, name in [*(split_columns | sentence).items(), *(("slice_columns", name) for name in slices)]:
    if name not in names:
      raise UserError(f"{file} has no column {name!r} (--{flag}); {known(file, names, name)}")
  labels = _label_columns(names, config, file)
  inputs = _with_pair(names, modality, column, config.text_pair_column, file)
  _need_different_columns(inputs, labels, "label_columns" if config.label_columns else "label_column")
  return Columns(modality, inputs, split_columns, labels, config.sentence_column, slices)


def _need_different_columns(inputs, labels, label_flag):
  named = [*((name, flag) for flag, name in inputs.items()), *((name, label_flag) for name in labels)]
  flags = {}
  for name, flag in named:
    if name in flags:
      both = f"--{flag} names {name!r} twice" if flags[name] == flag else f"--{flags[name]} and --{flag} name {name!r}"
      raise UserError(f"{both}: name a column once")
    flags[name] = flag


def _with_kaggles(config, names):
  """Returns the config with `KAGGLE` if the table has these columns and the flags name no others."""
  own = {flag: getattr(config, flag) for flag in KAGGLE}
  default = {flag for flag, name in own.items() if name == configs.FIELDS[flag].default and name not in names}
  wanted = own | {flag: KAGGLE[flag] for flag in default}
  if set(KAGGLE.values()) <= set(names) and wanted == KAGGLE and not config.label_columns:
    return dataclasses.replace(config, **wanted)
  return config


def known(file, names, wanted):
  """Returns the end of a message about a column that `file` lacks: the columns it has, and what names them."""
  by_line = suffix(file).removesuffix(".gz") in (".csv", ".tsv", ".xlsx")
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
  """Returns the names of the columns of the label: --label_columns, else --label_column; none if both are empty."""
  if not config.label_columns and not config.label_column:
    return []
  flag = "label_columns" if config.label_columns else "label_column"
  wanted = [name.strip() for name in config.label_columns.split(",") if name.strip()] or [config.label_column]
  for name in wanted:
    if name not in names:
      several = "" if config.label_columns else "; --label_columns names several columns of 0 and 1"
      raise UserError(f"{file} has no column {name!r} (--{flag}); {known(file, names, name)}{several}")
  return wanted


def input_modality(present: dict[str, str], config: DataConfig, file) -> Modality:
  """Returns the `Modality` of the inputs: that of the one that is there, or of two the one that the user chose by flag.

  Args:
    present: {flag: column or feature} of the inputs that are there, one at least.
    config: names of the columns by flag.
    file: path, for the message.

  Raises:
    UserError: both are there, and the flags name neither or both.
  """
  by_flag = [flag for flag in present if getattr(config, flag) != configs.FIELDS[flag].default]
  chosen = list(present) if len(present) == 1 else by_flag
  if len(chosen) != 1:
    raise UserError(
      f"{file} has both {present['text_column']!r} and {present['image_column']!r}: pass --image_column= (empty) to "
      "train on the texts, --text_column= to train on the images"
    )
  return next(modality for modality in modalities.MODALITIES.values() if modality.column_flag == chosen[0])


def _input_column(names, config, file):
  """Returns (modality, column name): the one that is there, or of two the one that the user chose by flag."""
  columns_by_flag = {m.column_flag: getattr(config, m.column_flag) for m in modalities.MODALITIES.values()}
  present = {flag: name for flag, name in columns_by_flag.items() if name and name in names}
  if present:
    modality = input_modality(present, config, file)
    return modality, present[modality.column_flag]
  raise UserError(
    f"{file} has neither a column {config.text_column!r} (--text_column) nor {config.image_column!r} (--image_column); "
    + known(file, names, config.text_column)
  )
