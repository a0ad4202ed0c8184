"""`Row` and `Raw`: what the reader of each form of --dataset gives, unchecked; and what these readers share."""

import collections
import dataclasses
import glob
import hashlib
import json
import math
import os
import pathlib
import re
import typing
from collections.abc import Iterable

from tl_app import config as configs
from tl_app import files
from tl_app.data.examples import SPLITS
from tl_app.errors import UserError
from tl_app.errors.counts import number_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".jfif", ".jpe", ".jif")
# Suffixes of pictures that TensorFlow does not decode.
OTHER_IMAGE_SUFFIXES = (
  *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".ico", ".tga", ".ppm", ".pgm"),
  *(".dng", ".cr2", ".cr3", ".nef", ".arw"),
)
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP", re.DOTALL)
_OTHER_SIGNATURES = re.compile(rb"II\*\x00|MM\x00\*|....ftyp(heic|heix|heif|mif1|msf1|avif)|8BPS", re.DOTALL)
# What operating systems and archive tools leave in folders.
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"))
EMPTY_CLASS = f"the class folder has no images ({', '.join(IMAGE_SUFFIXES)})"
SPLIT_NAMES = {
  "train": "train",
  "validation": "validation",
  "valid": "validation",
  "val": "validation",
  "dev": "validation",
  "test": "test",
}
# Words that tell a split inside a longer name, "seg_train" or "TestSet".
_SPLIT_WORDS = SPLIT_NAMES | {
  "training": "train",
  "testing": "test",
  "eval": "validation",
  "evaluation": "validation",
  "development": "validation",
  "holdout": "test",
}


class Row(typing.NamedTuple):
  """One example before it is checked.

  Attributes:
    id: where the example came from.
    values: a value for each column, in the order of `Raw.columns`; None where it is absent.
    label: the label; None where it is absent.
    split: "train", "validation", "test", or "".
    reason: why the example could not be read, or "".
    group, time: the cells of --group_column and --time_column.
    metadata: the cells of --slice_columns, "" where one is empty.
  """

  id: str
  values: tuple = ()
  label: str | None = None
  split: str = ""
  reason: str = ""
  group: str | None = ""
  time: str | None = ""
  metadata: tuple = ()


@dataclasses.dataclass
class Raw:
  """What a reader found in a source.

  Attributes:
    columns: {name of the column: name of its modality}, see `Inputs`.
    rows: `Row`s in order.
    notes: lines worth telling the user.
  """

  columns: dict
  rows: list
  notes: list = dataclasses.field(default_factory=list)


class SplitFile(typing.NamedTuple):
  """A file or folder whose name puts it into a split.

  Attributes:
    path: the file or folder.
    split: "train", "validation" or "test".
    whole: name that all shards of one set share.
    number: number of the shard, from 0.
    of: number of shards; 0 if the name does not tell.
  """

  path: pathlib.Path
  split: str
  whole: str
  number: int = 0
  of: int = 0


def split_of(name):
  """Returns the split that a word of a name tells, "Training", "seg_test" or "trainset"; "" for none or several.

  A name by itself decides nothing: a class may be called "train_station".
  """
  if name.lower() in SPLIT_NAMES:
    return SPLIT_NAMES[name.lower()]
  name = re.sub(r"hold[-_ ]?out", "Holdout", name, flags=re.I)
  words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
  words += [re.sub(r"(set|data|images|files)$", "", word) for word in words]
  found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
  return found.pop() if len(found) == 1 else ""


def image_kind(path):
  """Returns "image", "other_image" (one that TensorFlow does not decode), or "" of a file.

  The suffix tells; of a file with another suffix, or without one, its first bytes do.
  """
  suffix = path.suffix.lower()
  if suffix in IMAGE_SUFFIXES:
    return "image"
  try:
    files.require_regular(path)
    with open(path, "rb") as file:
      start = file.read(16)
  except OSError:
    start = b""
  if _SIGNATURES.match(start):
    return "image"
  return "other_image" if suffix in OTHER_IMAGE_SUFFIXES or _OTHER_SIGNATURES.match(start) else ""


def not_decoded(path):
  """Returns the reason why a file of the kind "other_image" is a bad example."""
  return f"TensorFlow does not decode {path.suffix.lower() or 'such'} images: save it as PNG or JPEG"


def by_suffix(paths):
  """Returns how many files have each suffix, the most frequent first: ".txt 3, .json 1, no suffix 1"."""
  counts = collections.Counter(path.suffix.lower() or "no suffix" for path in paths)
  return ", ".join(f"{suffix} {count:,}" for suffix, count in counts.most_common(8))


def files_by_split(files, what):
  """Returns [(split, path)] of `SplitFile`s, in the order train, validation, test, the shards of each in theirs.

  Raises:
    UserError: two are for one split and no shards of one set, or a shard is missing.
  """
  found = []
  for split in SPLITS:
    members = sorted((file for file in files if file.split == split), key=lambda file: file.path)
    if not members:
      continue
    first = members[0]
    other = next((file for file in members if (file.whole, file.of) != (first.whole, first.of)), None)
    if other:
      flag = f"one by --{split}_dataset and move the other away"
      elsewhere = f", or name {'parts of one set by a glob' if split == 'train' else flag}"
      raise UserError(
        f"{what}: {first.path.name} and {other.path.name} are both the {split} split: keep one{elsewhere}"
      )
    missing = sorted(set(range(first.of)) - {file.number for file in members})
    if missing:
      raise UserError(
        f"{what}: missing shards of {first.whole}: {len(missing)} of {first.of}, e.g. number {missing[0]}: "
        "complete them, or name those there are by a glob"
      )
    found += [(split, file.path) for file in members]
  return found


def matching(pattern, what, split_file, wanted=os.path.isfile, ignored=None):
  """Returns (the fixed directory before the first *, ? or [, sorted paths) of a glob; None where `pattern` is none.

  Args:
    pattern: str; ** stands for any directories. A path that exists is no glob.
    what: the flag with its value, the beginning of a message.
    split_file: function, path -> `SplitFile`, or None if its name puts it into no split.
    wanted: function, path -> whether it is taken.
    ignored: list that gets the paths that match and are not taken, or None.

  Raises:
    UserError: nothing matches, or paths of two splits do.
  """
  if os.path.exists(pattern) or glob.escape(pattern) == pattern:
    return None
  root, rest = _existing_start(pattern)
  matches = sorted({root / path for path in glob.glob(rest, root_dir=root, recursive=True)})
  found = []
  for path in matches:
    if wanted(path):
      found.append(path)
    elif ignored is not None and not is_system_file(path):
      ignored.append(path)
  if not found:
    raise UserError(f"{what}: nothing that it takes matches {pattern}")
  splits = {file.split: file.path for file in map(split_file, found) if file}
  if len(splits) > 1:
    one, other = (relative_name(path, root) for path in list(splits.values())[:2])
    raise UserError(
      f"{what} matches two splits, {one} and {other}, and would mix them: name their directory, or one split here and "
      "the others by --validation_dataset and --test_dataset"
    )
  return root, found


def _existing_start(pattern):
  """Returns (the directories that exist under the names as they are written, "[1]" too; the rest of the pattern)."""
  parts = pathlib.Path(pattern).parts
  count = next(count for count in range(len(parts)) if not os.path.exists(pathlib.Path(*parts[: count + 1])))
  return pathlib.Path(*parts[:count]), os.path.join(*parts[count:])


def note_links(paths: Iterable, root: pathlib.Path, what: str, notes: list) -> None:
  """Adds a note about the files that a symbolic link leads to out of the directory that was named.

  Args:
    paths: str or path of the files that are read.
    root: the directory.
    what: the flag with its value, the beginning of the note.
    notes: list that gets the line.
  """
  real, folders, outside = os.path.realpath(root), {}, []
  for path in map(str, paths):
    folder, name = os.path.split(path)
    if folder not in folders:
      folders[folder] = os.path.realpath(folder)
    target = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[folder], name)
    if os.path.commonpath((real, target)) != real:
      outside.append((path, target))
  if outside:
    path, target = outside[0]
    files = number_of(len(outside), "file")
    notes.append(f"{what}: links lead out of {root} to {files}, which are read, e.g. {path} to {target}")


def keep_image(encoded, directory):
  """Returns the path of a file with these bytes below `directory`; named by content, and written if it differs."""
  digest = hashlib.sha256(encoded).hexdigest()
  path = directory / digest[:2] / digest
  if not (path.exists() and path.stat().st_size == len(encoded) and path.read_bytes() == encoded):
    with files.atomic_path(path) as new:
      new.write_bytes(encoded)
  return str(path)


def is_system_file(path):
  """Returns whether an operating system or an archive tool left a file or folder there, as Thumbs.db."""
  # Excel's lock file of an open workbook is "~$mails.xlsx".
  return path.name.startswith((".", "~$")) or path.name.lower() in _SYSTEM_FILES


def visible(folder):
  """Returns (sub folders, files) of `folder` that are neither hidden nor left by a system, as sorted paths.

  Raises:
    UserError: the folder cannot be listed.
  """
  try:
    paths = sorted(path for path in folder.iterdir() if not is_system_file(path))
  except OSError as error:
    raise UserError(f"{folder} cannot be listed: {error.strerror}") from None
  folders, others = [], []
  for path in paths:
    (folders if path.is_dir() else others).append(path)
  return folders, others


def relative_name(path, root):
  """Returns the path below `root` as an id: "/" between the parts, bytes that are not UTF-8 replaced."""
  return os.fsencode(pathlib.PurePath(path).relative_to(root).as_posix()).decode("utf-8", "replace")


def as_text(value):
  """Returns a cell as str, None where it is absent; whole numbers without a decimal point, truth values as in JSON.

  Raises:
    ValueError: a list, an object or bytes; the message is for the user.
  """
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, float):
    if math.isnan(value):
      return None
    return str(int(value)) if value.is_integer() else repr(value)
  if isinstance(value, (list, dict, bytes)):
    found = {list: "list", dict: "JSON object", bytes: "sequence of bytes"}[type(value)]
    raise ValueError(f"a cell holds a {found}: one text, number or name is needed")
  return str(value)


def as_label(value):
  """Returns a label cell as str, like `as_text`; of a list the JSON text, its members as `as_text` gives them."""
  if isinstance(value, (list, tuple)):
    if any(isinstance(member, (list, tuple, dict)) for member in value):
      raise ValueError(
        f"the label is a list of lists or of objects, {str(value)[:60]}: write the list of the names that apply, or, "
        "of tagged words, one tag per word"
      )
    return json.dumps([as_text(member) for member in value], ensure_ascii=False)
  return as_text(value)


def columns(names, wanted, lead="its columns are"):
  """Returns the end of a message about a missing column: the first 20 names, and the one nearest to `wanted`."""
  separator = next((mark for mark in (";", "\t", ",", "|") if len(names) == 1 and mark in names[0]), None)
  if separator:
    shown = names[0] if len(names[0]) <= 80 else names[0][:77] + "..."
    return f"its only column is {shown!r}: separate the fields of a .csv by commas, those of a .tsv by tabs"
  shown = [name if len(name) <= 40 else name[:37] + "..." for name in names[:20]]
  return f"{lead}: {', '.join(shown)}{configs.suggestion(wanted, names)}"
