"""`load`: raw examples from a starter set, a folder of images, a table, or TFDS. Pixels are checked, never kept."""

import concurrent.futures
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import math
import os
import pathlib
import re
import typing
import unicodedata

import numpy as np

from tl_app import config as configs
from tl_app import files
from tl_app.data import starters
from tl_app.data.examples import Examples, strings
from tl_app.errors import UserError

log = logging.getLogger(__name__)

FORMS = f"{', '.join(starters.STARTERS)}, images:DIR, table:PATH, tfds:NAME[/CONFIG][:VERSION]"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SPLIT_NAMES = {
  "train": "train",
  "validation": "validation",
  "valid": "validation",
  "val": "validation",
  "dev": "validation",
  "test": "test",
}
_PROGRESS_EVERY = 2000
# Texts of a table may be whole documents; the csv module stops at 128 KiB otherwise.
csv.field_size_limit(2**31 - 1)


class Row(typing.NamedTuple):
  """One example before it is checked: `input` and `label` may be None (absent); `reason`: why it could not be read."""

  id: str
  input: str | bytes | None = None
  label: str | None = None
  split: str = ""
  reason: str = ""


@dataclasses.dataclass
class _Raw:
  """What a source read: the modality, the `Row`s in order, and lines worth telling the user."""

  modality: str
  rows: list
  notes: list = dataclasses.field(default_factory=list)


def load(config, assets, verify=None):
  """Returns the `Examples` of --dataset, with those of --validation_dataset and --test_dataset after them.

  An extra data set that has splits itself gives its part of that name; it takes the place of the part that --dataset
  has, and its ids begin with "validation_dataset:" or "test_dataset:".

  Args:
    config: `Config`.
    assets: `Assets`: the fetcher of starter sets; images that come out of TFDS records are kept in their `root`.
    verify: callable, encoded image bytes -> None, or the reason why training could not decode them. Default: the
      decoder that training uses.

  Raises:
    UserError: what is named does not exist or cannot be read; or an example is bad under --on_bad_example=fail.
  """
  examples = _load_one(config.dataset, "dataset", config, assets, verify)
  for split in ("validation", "test"):
    flag = f"{split}_dataset"
    if getattr(config, flag):
      extra = _load_one(getattr(config, flag), flag, config, assets, verify)
      examples = _with_split(examples, extra, split, flag)
  return examples


def _load_one(name, flag, config, assets, verify):
  raw = _read(name, flag, config, assets)
  rows, hashes, bad = _check(raw, verify)
  total = len(rows) + len(bad)
  if bad and config.on_bad_example == "fail":
    raise UserError(
      f"--{flag}={name}: {bad[0][0]}: {bad[0][1]} ({len(bad):,} of {total:,} examples are bad): mend or remove "
      f"{'it' if len(bad) == 1 else 'them'}, or pass --on_bad_example=skip"
    )
  if not rows:
    raise UserError(f"--{flag}={name} has no usable example ({len(bad):,} bad ones); --{flag} takes: {FORMS}")
  return Examples(
    modality=raw.modality,
    ids=strings([row.id for row in rows]),
    inputs=strings([row.input for row in rows]),
    labels=strings([row.label.strip() for row in rows]),
    hashes=strings(hashes),
    splits=strings([row.split for row in rows]),
    skipped=[{"id": id, "reason": reason} for id, reason in bad],
    source=name,
    notes=raw.notes,
  )


def _with_split(examples, extra, split, flag):
  """Returns `examples` with its `split` replaced by that of `extra` (all of it, where `extra` has no splits)."""
  if extra.modality != examples.modality:
    raise UserError(f"--{flag}={extra.source} holds {extra.modality}s, --dataset holds {examples.modality}s")
  if any(extra.splits):
    present = sorted(set(extra.splits))
    extra = extra.take(extra.splits == split)
    if not len(extra):
      raise UserError(f"--{flag}={extra.source} has splits ({', '.join(present)}) but none for {split}: name one file")
  notes = list(examples.notes) + extra.notes
  replaced = int(np.sum(examples.splits == split))
  if replaced:
    notes.append(f"--{flag} takes the place of the {replaced:,} {split} examples of --dataset={examples.source}")
    examples = examples.take(examples.splits != split)
  joined = {
    "ids": [*examples.ids, *(f"{flag}:{id}" for id in extra.ids)],
    "splits": [*examples.splits, *([split] * len(extra))],
    **{name: [*getattr(examples, name), *getattr(extra, name)] for name in ("inputs", "labels", "hashes")},
  }
  return Examples(
    modality=examples.modality,
    skipped=examples.skipped + [{**bad, "id": f"{flag}:{bad['id']}"} for bad in extra.skipped],
    source=f"{examples.source} {flag}={extra.source}",
    notes=notes,
    **{name: strings(values) for name, values in joined.items()},
  )


def _read(name, flag, config, assets):
  """Returns the `_Raw` of one data set name."""
  if name == "movie_reviews":
    return _Raw("text", [Row(*row) for row in starters.movie_reviews(assets)])
  if name == "digits":
    return _Raw("image", [Row(*row) for row in starters.digits()])
  form, colon, rest = name.partition(":")
  if colon and rest and form == "images":
    return _images(pathlib.Path(rest).expanduser(), f"--{flag}={name}", config)
  if colon and rest and form == "table":
    return _table(pathlib.Path(rest).expanduser(), f"--{flag}={name}", config)
  if colon and rest and form == "tfds":
    return _tfds(rest, f"--{flag}={name}", config, assets)
  hint = configs.suggestion(form, [*starters.STARTERS, "images", "table", "tfds"])
  if os.path.exists(name):
    hint = f"; did you mean images:{name} or table:{name}?"
  raise UserError(f"--{flag}={name} is not a data set that is known; it takes: {FORMS}{hint}")


# Checks and hashes


def _check(raw, verify):
  """Returns the good rows, their content hashes, and the bad ones as (id, reason), each in the order of `raw.rows`."""
  check = _check_text
  if raw.modality == "image":
    if verify is None:
      from tl_app.preprocessing import image

      verify = image.verify

    def check(row):
      return _check_image(row, verify)

  rows, hashes, bad = [], [], []
  for row, digest, reason in _map(check, raw.rows, threads=raw.modality == "image"):
    if reason:
      bad.append((row.id, reason))
    else:
      rows.append(row)
      hashes.append(digest)
  return rows, hashes, bad


def _check_text(row):
  if row.reason:
    return row, "", row.reason
  if not row.label or not row.label.strip():
    return row, "", "it has no label"
  if not row.input or not row.input.strip():
    return row, "", "the text is empty"
  try:
    return row, hashlib.sha256(row.input.encode("utf-8")).hexdigest(), None
  except UnicodeEncodeError:
    return row, "", "the text is not valid Unicode"


def _check_image(row, verify):
  if row.reason:
    return row, "", row.reason
  if not row.label or not row.label.strip():
    return row, "", "it has no label"
  if not row.input:
    return row, "", "it has no image"
  try:
    row.id.encode("utf-8")
    encoded = row.input if isinstance(row.input, bytes) else pathlib.Path(row.input).read_bytes()
  except UnicodeEncodeError:
    return row, "", "the file name is not valid UTF-8"
  except (OSError, ValueError) as error:
    return row, "", f"cannot be read: {getattr(error, 'strerror', None) or error}"
  return row, hashlib.sha256(encoded).hexdigest(), verify(encoded)


def _map(function, rows, threads):
  """Yields `function(row)` in the order of `rows`; images in threads, with a log line every so many."""
  if not threads:
    yield from map(function, rows)
    return
  # One block at a time: a future for every row of a large data set would cost more memory than the rows.
  with concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
    for start in range(0, len(rows), _PROGRESS_EVERY):
      if len(rows) > _PROGRESS_EVERY:
        log.info("Checking images: %s of %s", f"{start:,}", f"{len(rows):,}")
      yield from pool.map(function, rows[start : start + _PROGRESS_EVERY])


# images:DIR


def _images(directory, what, config):
  if not directory.exists():
    raise UserError(f"{what}: there is no directory {directory}")
  if not directory.is_dir():
    raise UserError(f"{what}: {directory} is a file; images: takes a directory with one folder for each class")
  raw = _Raw("image", [])
  ignored = []
  for split, folder in _split_folders(directory, what):
    classes, strays = _visible(folder)
    ignored += [path.relative_to(directory).as_posix() for path in strays]
    if not classes:
      raise UserError(
        f"{what}: {folder} {'has images but ' if _any_image(strays) else 'has '}no class folders: "
        f"put the images of each class into {folder}/CLASS/"
      )
    for name in classes:
      images, others = _class_files(folder / name.name)
      ignored += [path.relative_to(directory).as_posix() for path in others]
      label = unicodedata.normalize("NFC", name.name)
      raw.rows += [Row(path.relative_to(directory).as_posix(), str(path), label, split) for path in images]
      if not images:
        id = name.relative_to(directory).as_posix() + "/"
        raw.rows.append(Row(id, reason="the class folder has no images"))
  if ignored:
    raw.notes.append(f"{directory}: ignored {len(ignored):,} files that are not images of a class, e.g. {ignored[0]}")
  return raw


def _split_folders(directory, what):
  """Returns [(split, folder)]: the folders that stand for splits, or ("", directory) where the classes are on top."""
  folders, _ = _visible(directory)
  named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
  if not named or (len(named) < len(folders) and not any(_visible(folder)[0] for folder in named)):
    return [("", directory)]
  others = [folder.name for folder in folders if folder not in named]
  if others:
    raise UserError(
      f"{what}: {directory} mixes splits ({', '.join(folder.name for folder in named)}) with other folders "
      f"({', '.join(others[:5])}): it takes either CLASS/ folders or train/, val/ and test/"
    )
  return _one_for_each_split([(folder, folder.name) for folder in named], what)


def _one_for_each_split(candidates, what):
  """Returns [(split, path)] in the order train, validation, test, and refuses two candidates for one split."""
  found = {}
  for path, name in candidates:
    split = SPLIT_NAMES[name.lower()]
    if split in found:
      raise UserError(f"{what}: {found[split].name} and {path.name} are both the {split} split: keep one")
    found[split] = path
  return [(split, found[split]) for split in ("train", "validation", "test") if split in found]


def _visible(folder):
  """Returns (sub folders, files) of `folder` that are not hidden, as sorted paths."""
  paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
  return [path for path in paths if path.is_dir()], [path for path in paths if not path.is_dir()]


def _any_image(paths):
  return any(path.suffix.lower() in IMAGE_SUFFIXES for path in paths)


def _class_files(folder):
  """Returns (images, other files) below `folder`, sub folders included, as sorted paths; a loop of links ends."""
  images, others, seen, waiting = [], [], set(), [folder]
  while waiting:
    current = waiting.pop()
    if current.resolve() in seen:
      continue
    seen.add(current.resolve())
    folders, files = _visible(current)
    waiting += folders
    for path in files:
      (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
  return sorted(images), sorted(others)


# table:PATH


def _table(path, what, config):
  raw, modality = _Raw("", []), None
  for split, file in _table_files(path, what):
    names, records = TABLE_READERS[file.suffix.lower()](file)
    chosen, column = _input_column(names, config, file)
    if config.label_column not in names:
      raise UserError(
        f"{file} has no column {config.label_column!r} (--label_column); {_columns(names, config.label_column)}"
      )
    if modality not in (None, chosen):
      raise UserError(f"{file} has a column of {chosen}s, the tables beside it {modality}s: give all the same columns")
    raw.modality = modality = chosen
    before = len(raw.rows)
    _add_records(raw, file, records, names.index(column), names.index(config.label_column), split)
    if len(raw.rows) == before:
      raise UserError(f"{file} has a header but no rows")
  return raw


def _add_records(raw, file, records, column, label_column, split):
  """Appends the records of one file to `raw`. An id is the file's name and the row number; the first data row is 1."""
  for number, record in enumerate(records, start=1):
    id = f"{file.name}:{number}"
    try:
      if isinstance(record, str):
        raise ValueError(record)
      value, label = _as_text(record[column]), _as_text(record[label_column])
    except ValueError as error:
      raw.rows.append(Row(id, reason=str(error)))
      continue
    if raw.modality == "image" and value:
      value = str(file.parent / value)
    raw.rows.append(Row(id, value, label, split))


def _as_text(value):
  """Returns a cell as str, None where it is absent; whole numbers without a decimal point, truth values as in JSON."""
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, float):
    if math.isnan(value):
      return None
    return str(int(value)) if value.is_integer() else repr(value)
  if isinstance(value, (list, dict, bytes)):
    raise ValueError(f"a cell holds a {type(value).__name__}: one text, number or name is needed")
  return str(value)


def _input_column(names, config, file):
  """Returns ("text" or "image", column name): the one that is there, or of two the one that the user chose by flag."""
  text, image = config.text_column in names, config.image_column in names
  if text and image:
    chosen = [name for name in ("text_column", "image_column") if getattr(config, name) != configs.FIELDS[name].default]
    if len(chosen) != 1:
      raise UserError(
        f"{file} has both {config.text_column!r} and {config.image_column!r}: pass --image_column= (empty) to train on "
        "the texts, --text_column= to train on the images"
      )
    text = chosen == ["text_column"]
  if text:
    return "text", config.text_column
  if image:
    return "image", config.image_column
  raise UserError(
    f"{file} has neither a column {config.text_column!r} (--text_column) nor {config.image_column!r} (--image_column); "
    + _columns(names, config.text_column)
  )


def _columns(names, wanted):
  shown = [name if len(name) <= 40 else name[:37] + "..." for name in names[:20]]
  return f"its columns are: {', '.join(shown)}{configs.suggestion(wanted, names)}"


def _table_files(path, what):
  """Returns [(split, file)] of `table:PATH`; a file, or a directory's only table, has split ""."""
  if not path.exists():
    raise UserError(f"{what}: there is no file or directory {path}")
  suffixes = ", ".join(TABLE_READERS)
  if not path.is_dir():
    if path.suffix.lower() not in TABLE_READERS:
      raise UserError(f"{what}: {path.name} is not a table by its suffix; known are {suffixes}")
    return [("", path)]
  tables = [file for file in _visible(path)[1] if file.suffix.lower() in TABLE_READERS]
  named = [file for file in tables if file.stem.lower() in SPLIT_NAMES]
  if named:
    return _one_for_each_split([(file, file.stem) for file in named], what)
  if len(tables) == 1:
    return [("", tables[0])]
  found = f"has {len(tables)} tables, none of them named train" if tables else f"has no table ({suffixes})"
  raise UserError(f"{what}: {path} {found}; it takes train, dev or val, and test, or name one file")


def _read_text(file):
  try:
    data = file.read_bytes()
    return data.decode("utf-8-sig")
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
    except json.JSONDecodeError as error:
      record, reason = None, f"line {number} is not JSON: {error.msg}"
    else:
      reason = f"line {number} is not a JSON object"
    records.append(record if isinstance(record, dict) else reason)
    names.update(dict.fromkeys(record if isinstance(record, dict) else ()))
  if not names:
    raise UserError(f"{file} {'has no JSON object: ' + records[0] if records else 'is empty'}")
  return list(names), (r if isinstance(r, str) else [r.get(name) for name in names] for r in records)


def _read_parquet(file):
  """Returns (column names, iterator of rows) of a Parquet file."""
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(file)
    names = _header(file, table.schema_arrow.names)
    batches = list(table.iter_batches())
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{file} is not a Parquet file that can be read: {str(error).splitlines()[0]}") from None
  return names, itertools.chain.from_iterable(zip(*(c.to_pylist() for c in batch.columns)) for batch in batches)


TABLE_READERS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


# tfds:NAME


def _tfds(name, what, config, assets):
  import tensorflow_datasets as tfds

  builder = _tfds_builder(name, what, config)
  modality, key, label_key = _tfds_features(builder.info, what, config)
  raw = _Raw(modality, [])
  decoders = {key: tfds.decode.SkipDecoding()} if modality == "image" else None
  # One file after the other, so that the number of an example says where it is.
  read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
  for split, part in _tfds_splits(list(builder.info.splits), what, raw.notes):
    data = builder.as_dataset(split=part, decoders=decoders, shuffle_files=False, read_config=read_config)
    for number, example in enumerate(data.as_numpy_iterator(), start=1):
      id, label = f"{part}:{number}", _tfds_label(builder.info.features[label_key], example[label_key])
      if modality == "image":
        raw.rows.append(Row(id, _keep_image(example[key], assets), label, split))
        continue
      try:
        raw.rows.append(Row(id, example[key].decode("utf-8"), label, split))
      except UnicodeDecodeError:
        raw.rows.append(Row(id, reason="the text is not UTF-8"))
  return raw


def _tfds_builder(name, what, config):
  """Returns a builder whose records are on disk: the prepared ones first (no network), else downloaded."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  match = re.fullmatch(r"(\w+)(/[\w.+-]+)?(?::(\d+\.\d+\.\d+))?", name)
  if not match:
    raise UserError(f"{what}: the form is tfds:NAME[/CONFIG][:VERSION], e.g. tfds:glue/sst2:2.0.0")
  dataset, subset, version = match[1], match[2] or "", match[3]
  directory = os.path.expanduser(config.data_dir) if config.data_dir else None
  if directory and not os.path.isdir(directory):
    raise UserError(f"--data_dir={config.data_dir} is not a directory")
  try:
    return read_only_builder.builder_from_files(dataset + subset, data_dir=directory, version=version)
  except tfds.core.DatasetNotFoundError:
    pass
  where = directory or tfds.core.constants.DATA_DIR
  prepared = [path.name for path in _visible(pathlib.Path(where))[0]] if os.path.isdir(where) else []
  known = tfds.list_builders(with_community_datasets=False)
  if dataset not in known and dataset not in prepared:
    hint = configs.suggestion(dataset, [*known, *prepared])
    raise UserError(f"{what}: TFDS has no {dataset}, and none is prepared in {where} (--data_dir){hint}")
  if config.offline or dataset not in known:
    inside = _visible(pathlib.Path(where, dataset))[0] if dataset in prepared else []
    have = f"; of {dataset} there is: {', '.join(path.name for path in inside)}" if inside else ""
    why = ", and --offline forbids to download it" if config.offline else ""
    raise UserError(f"{what} is not prepared in {where} (--data_dir){why}{have}")
  return _tfds_download(name, what, directory, where)


def _tfds_download(name, what, directory, where):
  import tensorflow as tf
  import tensorflow_datasets as tfds

  failures = (OSError, ValueError, ImportError, AssertionError, tf.errors.OpError, tfds.download.DownloadError)
  try:
    builder = tfds.builder(name, data_dir=directory)
    builder.download_and_prepare()
  except failures as error:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    raise UserError(f"{what} is not prepared in {where} (--data_dir) and cannot be downloaded: {line}") from None
  return builder


def _tfds_splits(parts, what, notes):
  """Returns [(split, name in TFDS)]; a data set's only part has split "", parts of other names are left out."""
  named = [part for part in parts if part.lower() in SPLIT_NAMES]
  if not named and len(parts) == 1:
    return [("", parts[0])]
  if not named:
    raise UserError(f"{what} has the splits {', '.join(parts)}, none of them train, validation or test")
  if len(named) < len(parts):
    notes.append(f"{what}: these splits are left out: {', '.join(part for part in parts if part not in named)}")
  found = {}
  for part in named:
    found.setdefault(SPLIT_NAMES[part.lower()], part)
  return list(found.items())


def _tfds_features(info, what, config):
  """Returns ("text" or "image", its feature, the label's): by flag, else `supervised_keys`, else the only one."""
  from tensorflow_datasets import features as kinds

  features = dict(info.features.items())
  flagged = {}
  for flag in ("text_column", "image_column", "label_column"):
    name = getattr(config, flag)
    if name and name != configs.FIELDS[flag].default:
      if name not in features:
        raise UserError(f"{what} has no feature {name!r} (--{flag}); {_columns(list(features), name)}")
      flagged[flag] = name
  supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
  inputs = [flagged[flag] for flag in ("text_column", "image_column") if flag in flagged]
  inputs = inputs or _of_kind(features, supervised[:1], (kinds.Text, kinds.Image))
  labels = [flagged["label_column"]] if "label_column" in flagged else []
  labels = labels or _of_kind(features, supervised[1:], kinds.ClassLabel)
  if (
    len(inputs) == len(labels) == 1
    and isinstance(features[inputs[0]], (kinds.Text, kinds.Image))
    and features[labels[0]].shape == ()
  ):
    return "image" if isinstance(features[inputs[0]], kinds.Image) else "text", inputs[0], labels[0]
  listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
  raise UserError(
    f"{what}: cannot tell the input and the label among its features: {listed}; name them by --text_column or "
    "--image_column, and --label_column"
  )


def _of_kind(features, first, kind):
  """Returns the names in `first` that are of the kind, else all such names."""
  return [name for name in first if isinstance(features.get(name), kind)] or [
    name for name, feature in features.items() if isinstance(feature, kind)
  ]


def _tfds_label(feature, value):
  """Returns the class name of a label as TFDS gives it; None for the -1 of an unlabelled example."""
  if hasattr(feature, "int2str"):
    return feature.int2str(int(value)) if value >= 0 else None
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else _as_text(value.item())


def _keep_image(encoded, assets):
  """Returns the path of a file with these bytes in the cache; written once, named by content."""
  digest = hashlib.sha256(encoded).hexdigest()
  path = assets.root / "tfds_images" / digest[:2] / digest
  if not (path.exists() and path.stat().st_size == len(encoded)):
    with files.atomic_path(path) as new:
      new.write_bytes(encoded)
  return str(path)
