"""`tfds:NAME[/CONFIG][:VERSION]`: a prepared directory of TensorFlow Datasets first, else its own download."""

import os
import pathlib
import re
import urllib.parse

from tl_app import config as configs
from tl_app.assets import UNKNOWN, Assets
from tl_app.config.groups import DataConfig
from tl_app.data import modalities
from tl_app.data.modalities import Modality
from tl_app.data.readers import table_columns
from tl_app.data.readers.rows import SPLIT_NAMES, Raw, Row, as_text, columns, keep_image, visible
from tl_app.errors import UserError


def read(name: str, what: str, config: DataConfig, assets: Assets) -> Raw:
  """Returns the `Raw` of a TFDS data set. An id is "SPLIT:NUMBER", counted from 1 in the order of its records.

  Args:
    name: what follows "tfds:".
    what: the flag with its value, the beginning of a message.
    config: data_dir and the names of the columns (features).
    assets: `Assets`: images are kept in its `root`, as files named by content.

  Raises:
    UserError: TFDS has no such data set, it is neither prepared nor to be had, or its features cannot be told.
  """
  import tensorflow_datasets as tfds

  builder = _builder(name, what, config, assets)
  modality, key, label_key = _features(builder.info, what, config)
  raw, slices = Raw({modality.name: modality.name}, []), _slice_features(builder.info, what, config)

  def store(data):
    return keep_image(data, assets.root / "tfds_images")

  decoders = {key: tfds.decode.SkipDecoding()}
  # One file after the other, so that the number of an example says where it is.
  read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
  for split, part in _splits(list(builder.info.splits), what, raw.notes):
    data = builder.as_dataset(split=part, decoders=decoders, shuffle_files=False, read_config=read_config)
    for number, example in enumerate(_records(data, part, what, builder.data_dir), start=1):
      id = f"{part}:{number}"
      label = _label(builder.info.features[label_key], example[label_key]) if label_key else None
      try:
        metadata = tuple(_label(builder.info.features[name], example[name]) or "" for name in slices)
        raw.rows.append(Row(id, (modality.from_bytes(example[key], store),), label, split, metadata=metadata))
      except ValueError as error:
        raw.rows.append(Row(id, reason=str(error)))
  return raw


def _records(data, part, what, directory):
  """Yields the records of a split."""
  import tensorflow as tf

  try:
    yield from data.as_numpy_iterator()
  except tf.errors.OpError as error:
    reason = error.message.splitlines()[0][:200]
    raise UserError(
      f"{what}: a record of its split {part} in {directory} cannot be read ({reason}): delete that directory and "
      "prepare the data set again"
    ) from None


def modality(name: str, what: str, config: DataConfig, assets: Assets) -> Modality:
  """Returns the `Modality` of a data set of TFDS, as its features tell it; the arguments are those of `read`."""
  return _features(_builder(name, what, config, assets).info, what, config)[0]


def prepared(name: str, what: str, config: DataConfig, assets: Assets) -> None:
  """Makes sure that the records of a data set are on disk; the arguments are those of `read`.

  Raises:
    UserError: it is neither prepared nor to be had.
  """
  _builder(name, what, config, assets)


def _builder(name, what, config, assets):
  """Returns a builder whose records are on disk: those of a bundle, or prepared ones (no network), else downloaded."""
  builder = _found(name, what, config, assets)
  info = builder.info
  # It may be a long text.
  licence = next(iter(info.redistribution_info.license.strip().splitlines()), UNKNOWN)[:100]
  assets.data_set(f"tfds:{name}", str(builder.data_dir), info.full_name.rpartition("/")[0], str(info.version), licence)
  return builder


def _found(name, what, config, assets):
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  match = re.fullmatch(r"(\w+)(/[\w.+-]+)?(?::(\d+\.\d+\.\d+))?", name)
  if not match:
    raise UserError(f"{what}: the form is tfds:NAME[/CONFIG][:VERSION], e.g. tfds:glue/sst2:2.0.0")
  dataset, subset, version = match[1], match[2] or "", match[3]
  directory = assets.bundled_data_dir or config.data_dir or None
  if directory and not os.path.isdir(directory):
    raise UserError(f"--data_dir={directory} is not a directory")
  try:
    return read_only_builder.builder_from_files(dataset + subset, data_dir=directory, version=version)
  except tfds.core.DatasetNotFoundError:
    pass
  where = directory or tfds.core.constants.DATA_DIR
  prepared = [path.name for path in visible(pathlib.Path(where))[0]] if os.path.isdir(where) else []
  known = tfds.list_builders(with_community_datasets=False)
  if dataset not in known and dataset not in prepared:
    hint = configs.suggestion(dataset, [*known, *prepared])
    raise UserError(f"{what}: TFDS has no {dataset}, and none is prepared in {where} (--data_dir){hint}")
  if assets.offline or dataset not in known:
    inside = visible(pathlib.Path(where, dataset))[0] if dataset in prepared else []
    have = f"; of {dataset} there is: {', '.join(path.name for path in inside)}" if inside else ""
    forbids = f"--bundle={assets.bundle}, which does not hold it," if assets.bundle else "--offline"
    why = f", and {forbids} forbids to download it" if assets.offline else ""
    raise UserError(f"{what} is not prepared in {where} (--data_dir){why}{have}")
  return _download(name, what, directory, where)


def _download(name, what, directory, where):
  import tensorflow as tf
  import tensorflow_datasets as tfds

  failures = (OSError, ValueError, ImportError, AssertionError, tf.errors.OpError, tfds.download.DownloadError)
  try:
    builder = tfds.builder(name, data_dir=directory)
    _need_network(builder, what, pathlib.Path(where))
    builder.download_and_prepare()
  except failures as error:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    raise UserError(f"{what} is not prepared in {where} (--data_dir) and cannot be downloaded: {line}") from None
  return builder


def _need_network(builder, what, where):
  """Raises `UserError` where the host of the records cannot be reached: TFDS would try for minutes, line after line."""
  import requests

  urls = [url for url in builder.url_infos or () if url.startswith("http")]
  kept = (where / "downloads" / builder.name).rglob("*")
  if not urls or any(path.is_file() and ".tmp." not in path.name for path in kept):
    return
  try:
    requests.get(urls[0], stream=True, timeout=15).close()
  except (requests.ConnectionError, requests.Timeout):
    host = urllib.parse.urlsplit(urls[0]).hostname
    raise UserError(
      f"{what} is not prepared in {where} (--data_dir) and {host} cannot be reached to download it: prepare it where "
      "there is a network, and name that directory by --data_dir"
    ) from None


def _splits(names, what, notes):
  """Returns [(split, name in TFDS)]. The only split of a data set is "". Splits of other names are ignored."""
  named = [name for name in names if name.lower() in SPLIT_NAMES]
  if not named and len(names) == 1:
    return [("", names[0])]
  if not named:
    raise UserError(f"{what} has the splits {', '.join(names)}, none of them train, validation or test")
  if len(named) < len(names):
    notes.append(f"{what}: these splits are ignored: {', '.join(name for name in names if name not in named)}")
  found = {}
  for part in named:
    found.setdefault(SPLIT_NAMES[part.lower()], part)
  return list(found.items())


def _features(info, what, config):
  """Returns (modality, its feature, the label's): by flag, else `supervised_keys`, else the only one.

  With an empty --label_column the label's is "".
  """
  from tensorflow_datasets import features as kinds

  features = dict(info.features.items())
  flagged = {}
  for flag in ("text_column", "image_column", "label_column"):
    name = getattr(config, flag)
    if name and name != configs.FIELDS[flag].default:
      if name not in features:
        raise UserError(f"{what} has no feature {name!r} (--{flag}); {columns(list(features), name)}")
      flagged[flag] = name
  supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
  inputs = [flagged[flag] for flag in ("text_column", "image_column") if flag in flagged]
  modality_of = {kinds.Text: "text", kinds.Image: "image"}
  inputs = inputs or _of_kind(features, supervised[:1], tuple(modality_of))
  labels = [flagged["label_column"]] if "label_column" in flagged else []
  labels = labels or _of_kind(features, supervised[1:], kinds.ClassLabel)
  labels = labels if config.label_column else [""]
  if (
    len(inputs) == len(labels) == 1
    and isinstance(features[inputs[0]], tuple(modality_of))
    and (not labels[0] or features[labels[0]].shape == ())
  ):
    name = next(name for kind, name in modality_of.items() if isinstance(features[inputs[0]], kind))
    return modalities.of(name), inputs[0], labels[0]
  listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
  raise UserError(
    f"{what}: cannot tell the input and the label among its features: {listed}; name them by --text_column or "
    "--image_column, and --label_column"
  )


def _slice_features(info, what, config):
  """Returns the names of --slice_columns, which are features of one value."""
  features = dict(info.features.items())
  names = table_columns.of_slices(config)
  for name in names:
    if name not in features or features[name].shape != ():
      fault = f"no feature {name!r}" if name not in features else f"several values in its feature {name!r}"
      raise UserError(f"{what} has {fault} (--slice_columns); {columns(list(features), name)}")
  return names


def _of_kind(features, first, kind):
  """Returns the names in `first` that are of the kind, else all such names."""
  return [name for name in first if isinstance(features.get(name), kind)] or [
    name for name, feature in features.items() if isinstance(feature, kind)
  ]


def _label(feature, value):
  """Returns the class name of a label as TFDS gives it; None for the -1 of an unlabelled example."""
  if hasattr(feature, "int2str"):
    return feature.int2str(int(value)) if value >= 0 else None
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else as_text(value.item())
