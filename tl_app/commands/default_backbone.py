"""The backbone of a run that names none: a small network for the modality of its data."""

import dataclasses
import logging

from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.config.groups import DEFAULT_BACKBONES
from tl_app.data.modalities import Modality
from tl_app.data.readers import forms, table_columns, table_files
from tl_app.data.readers.table_formats import open_table
from tl_app.data.readers.table_headers import column_names

log = logging.getLogger(__name__)

# Forms of a data set whose modality TensorFlow reads.
_NEED_TENSORFLOW = ("tfrecord", "tfds")


def named(config: Config, quickly: bool = False, labelled: bool = True) -> Config:
  """Returns the config with a --backbone, and logs which if it named none.

  Args:
    config: the `Config`.
    quickly: whether a config without a backbone is returned as it is where TensorFlow would have to start.
    labelled: whether the labels of --dataset are read.

  Raises:
    UserError: the data set is missing, or its modality cannot be told.
  """
  if config.backbone:
    return config
  if quickly and (config.preset == "best" or forms.parse(config.dataset, "dataset")[0] in _NEED_TENSORFLOW):
    return config
  modality = modality_of(config if labelled else dataclasses.replace(config, label_column="", label_columns=""))
  name = DEFAULT_BACKBONES[modality.name]
  log.info("backbone: %s, the default for %s; --backbone chooses another one", name, modality.plural)
  return dataclasses.replace(config, backbone=name)


def modality_of(config: Config) -> Modality:
  """Returns the `Modality` of --dataset, as its name, the header of its first table or its first record tells it.

  Args:
    config: the `Config`.

  Raises:
    UserError: the data set is missing, or its modality cannot be told.
  """
  form, path = forms.parse(config.dataset, "dataset")
  what = f"--dataset={config.dataset}"
  if form == "table":
    _, found = table_files.find(path, what, [])
    file = found[0][1]
    names = column_names(file, table_columns.wanted(config)) or open_table(file).names
    return table_columns.choose(names, config.data, table_columns.of_splits(config), file).modality
  if form == "tfrecord":
    from tl_app.data.readers import tfrecord

    return tfrecord.modality(path, what, config.data)
  if form == "tfds":
    from tl_app.data.readers import tfds

    return tfds.modality(path, what, config.data, Assets.of(config))
  return forms.modality(form)
