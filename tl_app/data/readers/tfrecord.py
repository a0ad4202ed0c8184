"""`tfrecord:PATH`: TFRecord files of tf.train.Example; a directory gives splits. Images stay where they are."""

import functools
import logging
import pathlib
import re
import struct

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tl_app import config as configs
from tl_app.assets import Assets
from tl_app.config.groups import DataConfig
from tl_app.data.examples import Record
from tl_app.data.modalities import Modality
from tl_app.data.readers import table_columns
from tl_app.data.readers.rows import (
  SPLIT_NAMES,
  Raw,
  Row,
  SplitFile,
  as_text,
  columns,
  files_by_split,
  keep_image,
  matching,
  relative_name,
  visible,
)
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import nearby

log = logging.getLogger(__name__)

# What a flag's default stands for, the first that the first record has: plain names, TF-Slim's and the Model Garden's
# (a class has its number in image/class/label and sometimes its name in image/class/text), and the tutorials'.
CONVENTIONS = {
  "image_column": ("image", "image/encoded", "image_raw", "image_bytes"),
  "text_column": ("text", "sentence"),
  "label_column": ("label", "image/class/text", "image/class/label", "class", "target"),
}
_SUFFIX = r"\.(?:tfrecords?|tfrec|records?)"
_SHARD = r"-(?P<number>\d+)-of-(?P<of>\d+)"
# "train-00000-of-00004.tfrecord", "flowers-train.tfrecord-00000-of-00001", "train-00000-of-01024", "train03-512.tfrec".
_NAME = re.compile(rf"(?P<base>.+?)(?:(?:{_SHARD})?{_SUFFIX}|(?:{_SUFFIX})?{_SHARD.replace('<', '<_')})(?:\.gz)?", re.I)
_FRAME = 16  # bytes of a record beside its data: its length in 8 bytes, and two checksums of 4


def read(path: str, what: str, config: DataConfig, assets: Assets) -> Raw:
  """Returns the `Raw` of TFRecord files. An id is the file's name and the number of the record, from 1.

  An image of an uncompressed file is a `Record`, read from there when it is needed; one of a .gz, which cannot be read
  in the middle, is kept as a file in the cache. A whole number as label becomes the name on its line (from 0) of
  labels.txt or LABEL_COLUMN.labels.txt beside the file, where there is one.

  Args:
    path: a file, a glob, or a directory with train, validation and test files.
    what: the flag with its value, the beginning of a message.
    config: names of the columns (features).
    assets: `Assets`: the images of .gz files are kept in its `root`.

  Raises:
    UserError: no such file, it holds no tf.train.Example, or a feature is not there.
  """
  raw, chosen, slices = Raw({}, []), None, table_columns.of_slices(config)
  root, found = _files(path, what, raw.notes)
  for split, file in found:
    names, before = None, len(raw.rows)
    for number, offset, serialized, reason in _records(file):
      id = f"{relative_name(file, root)}:{number}"
      try:
        features = _features(serialized, reason)
        chosen = chosen or _choose(features, file, config)
        names = _label_names(file, chosen[2]) if names is None else names
        store = functools.partial(_store, file, offset, chosen[1], assets)
        value = chosen[0].from_bytes(_value(features, chosen[1], chosen[0].encoded_form), store)
        metadata = tuple(_label(features, name, {}) or "" for name in slices)
        raw.rows.append(Row(id, (value,), _label(features, chosen[2], names), split, metadata=metadata))
      except ValueError as error:
        raw.rows.append(Row(id, split=split, reason=str(error)))
    if len(raw.rows) == before:
      raise UserError(f"{file} has no records")
  if not chosen:
    raise UserError(f"{what}: {raw.rows[0].id}: {raw.rows[0].reason}; no record can be read")
  raw.columns = {chosen[0].name: chosen[0].name}
  return raw


def modality(path: str, what: str, config: DataConfig) -> Modality:
  """Returns the `Modality` of TFRecord files, as their first record tells it; the arguments are those of `read`.

  Raises:
    UserError: no such file, its first record cannot be read, or a feature is not there.
  """
  file = _files(path, what, [])[1][0][1]
  for _, _, serialized, reason in _records(file):
    try:
      return _choose(_features(serialized, reason), file, config)[0]
    except ValueError as error:
      raise UserError(f"{what}: {file}: {error}; name a --backbone") from None
  raise UserError(f"{file} has no records")


def _store(file, offset, feature, assets, data):
  """Returns the `Record` that leads to the bytes `data`; of a .gz file, the path of a file in the cache."""
  if file.suffix.lower() == ".gz":
    return keep_image(data, assets.root / "tfrecord_images")
  return Record(str(file), offset, feature)


def split_file(file):
  """Returns the `SplitFile` of a TFRecord file whose name puts it into one split, else None."""
  match = _NAME.fullmatch(file.name)
  words = re.findall(r"[^\W\d_]+", match["base"].lower()) if match else []
  splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
  if len(splits) != 1:
    return None
  number, of = match["number"] or match["_number"], match["of"] or match["_of"]
  return SplitFile(file, splits.pop(), " ".join(words), int(number or 0), int(of or 0))


def _files(path, what, notes):
  """Returns (the directory that ids are relative to, [(split, file)])."""
  globbed = matching(path, what, split_file)
  if globbed:
    return globbed[0], [("", file) for file in globbed[1]]
  given, path = path, pathlib.Path(path)
  if not path.exists():
    raise UserError(f"{what}: there is no file or directory {path}{nearby.hint(given)}")
  if not path.is_dir():
    return path.parent, [("", path)]
  records = [file for file in visible(path)[1] if _NAME.fullmatch(file.name)]
  if not records:
    raise UserError(f"{what}: {path} has no TFRecord files (.tfrecord, .tfrec, -00000-of-00004): name them by a glob")
  split_files = [file for file in map(split_file, records) if file]
  if not split_files:
    return path, [("", file) for file in records]
  if len(split_files) < len(records):
    others = [file.name for file in records if not split_file(file)]
    notes.append(f"{what}: files that name no split, which are ignored: {len(others):,}, e.g. {others[0]}")
  return path, files_by_split(split_files, what)


def _records(file):
  """Yields (number, offset, serialized, reason) of each record, from 1; checksums are compared.

  After a damaged record the next one is looked for where its length says; what cannot be found is one bad record.

  Raises:
    UserError: the file cannot be read, or is no TFRecord file from the start.
  """
  compression = "GZIP" if file.suffix.lower() == ".gz" else ""
  try:
    size = file.stat().st_size
    with open(file, "rb") as opened:
      start = opened.read(2)
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}") from None
  number, offset = 0, 0
  while offset < size:
    number += 1
    try:
      for serialized in _from(file, compression, offset).as_numpy_iterator():
        yield number, offset, serialized, ""
        number, offset = number + 1, offset + _FRAME + len(serialized)
      # TensorFlow takes a few bytes in place of a header for the end.
      if compression or offset >= size:
        return
    except tf.errors.OpError:
      pass
    following = size if compression else _following(file, offset)
    if number == 1 and following >= size:
      hint = ": it is compressed, name it .gz" if start == b"\x1f\x8b" and not compression else ""
      raise UserError(f"{file} is not a TFRecord file, or its first record is damaged{hint}")
    rest = "; what follows it cannot be found" if following > size or compression else ""
    yield number, offset, b"", f"the record is damaged or truncated{rest}"
    offset = following


def _from(file, compression, offset):
  """Returns the dataset of the serialized records from byte `offset` on."""

  def records(offset):
    variant = tf.raw_ops.TFRecordDatasetV2(
      filenames=str(file), compression_type=compression, buffer_size=1 << 20, byte_offsets=offset
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

  # Within a function, since the op loses its offset (TF 2.21) when tf.data rewrites the graph that it is in itself.
  return tf.data.Dataset.from_tensors(np.int64(offset)).flat_map(records)


def _following(file, offset):
  """Returns where the record after the one at `offset` begins, by the length that this one claims."""
  with open(file, "rb") as opened:
    opened.seek(offset)
    header = opened.read(8)
  return offset + _FRAME + struct.unpack("<Q", header)[0] if len(header) == 8 else 2**64


def _features(serialized, reason):
  """Returns {name: tf.train.Feature} of a record; raises ValueError, whose message is for the user."""
  if reason:
    raise ValueError(reason)
  try:
    features = dict(tf.train.Example.FromString(serialized).features.feature)
  except DecodeError:
    features = {}
  if not features:
    raise ValueError("the record is not a tf.train.Example with features")
  return features


def _choose(features, file, config):
  """Returns (modality, its feature, the label's): by flag, else by convention."""
  has = {flag: name for flag in CONVENTIONS if (name := _named(features, config, flag))}
  inputs = {flag: name for flag, name in has.items() if flag != "label_column"}
  if not inputs:
    raise UserError(
      f"{file} has neither a feature {config.image_column!r} (--image_column) nor {config.text_column!r} "
      f"(--text_column); {columns(sorted(features), config.image_column or config.text_column, 'its features are')}"
    )
  modality = table_columns.input_modality(inputs, config, file)
  missing = [("label_column", config.label_column)] if "label_column" not in has and config.label_column else []
  missing += [("slice_columns", name) for name in table_columns.of_slices(config) if name not in features]
  for flag, name in missing[:1]:
    raise UserError(f"{file} has no feature {name!r} (--{flag}); {columns(sorted(features), name, 'its features are')}")
  return modality, inputs[modality.column_flag], has.get("label_column", "")


def _named(features, config, flag):
  """Returns the feature that a flag means, "" where it is not there."""
  name = getattr(config, flag)
  wanted = CONVENTIONS[flag] if name == configs.FIELDS[flag].default else (name,)
  return next((key for key in wanted if key in features and _values(features[key]) not in ([], [b""])), "")


def _values(feature):
  kind = feature.WhichOneof("kind")
  return list(getattr(feature, kind).value) if kind else []


def _value(features, name, form):
  """Returns the bytes of an input; raises ValueError, whose message is for the user.

  Args:
    features: of the record.
    name: of the input's feature.
    form: what the bytes are, see `Modality.encoded_form`.
  """
  if name not in features:
    raise ValueError(f"it has no feature {name!r}")
  values = _values(features[name])
  if len(values) != 1 or not isinstance(values[0], bytes):
    kind = features[name].WhichOneof("kind") or "nothing"
    raise ValueError(f"the feature {name!r} holds {number_of(len(values), 'value')} ({kind}), expected {form}")
  return values[0]


def _label(features, name, names):
  """Returns the label as str, None where the record has none; raises ValueError, whose message is for the user."""
  values = _values(features[name]) if name in features else []
  if len(values) > 1:
    raise ValueError(f"the feature {name!r} holds {len(values):,} values: one label is needed")
  if not values or (names and isinstance(values[0], int) and values[0] < 0):
    return None
  if isinstance(values[0], bytes):
    return values[0].decode("utf-8", "surrogateescape")
  if isinstance(values[0], int) and names:
    if values[0] not in names:
      raise ValueError(f"the label {values[0]} is not among the {len(names):,} in labels.txt")
    return names[values[0]]
  return as_text(values[0])


def _label_names(file, label):
  """Returns {number: name} of the labels beside `file`: a name a line, or TF-Slim's "number:name"; {} without them."""
  for path in (file.parent / f"{label.replace('/', '-')}.labels.txt", file.parent / "labels.txt"):
    if path.is_file():
      try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
      except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as UTF-8 text") from None
      filled = list(filter(None, lines))
      numbered = [re.fullmatch(r"(\d+):(.+)", line) for line in filled]
      if filled and all(numbered):
        return {int(match[1]): match[2].strip() for match in numbered}
      if filled and len(filled) < len(lines):
        raise UserError(f"{path}, line {lines.index('') + 1} is empty: the lines name the labels 0, 1, .. in order")
      return dict(enumerate(filled))
  return {}
