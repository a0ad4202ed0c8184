"""`images:DIR`: a folder for each class, or folders train/, val/ and test/ of these."""

import os
import pathlib
import unicodedata

from tl_app.data.readers.rows import (
  EMPTY_CLASS,
  IMAGE_SUFFIXES,
  SPLIT_NAMES,
  Raw,
  Row,
  SplitFile,
  matching,
  one_for_each_split,
  relative_name,
  visible,
)
from tl_app.errors import UserError


def read(path, what):
  """Returns the `Raw` of a directory. An id is the path below it, an input the whole path, a label the folder's name.

  Args:
    path: str: a directory, or a glob of class folders or of the images in them.
    what: the flag with its value, the beginning of a message.

  Raises:
    UserError: no such directory, or its folders cannot be told for classes or splits.
  """
  globbed = matching(path, what, _split_file, _is_class_or_image)
  if globbed:
    return _read_glob(*globbed)
  directory = pathlib.Path(path)
  if not directory.exists():
    raise UserError(f"{what}: there is no directory {directory}")
  if not directory.is_dir():
    raise UserError(f"{what}: {directory} is a file; images: takes a directory with one folder for each class")
  raw = Raw({"image": "image"}, [])
  ignored = []
  for split, folder in _split_folders(directory, what):
    classes, strays = visible(folder)
    ignored += strays
    if not classes:
      raise UserError(
        f"{what}: {folder} {'has images but ' if _any_image(strays) else 'has '}no class folders: "
        f"put the images of each class into {folder}/CLASS/{', or remove it' if split else ''}"
      )
    for class_folder in classes:
      rows, others = _class_rows(class_folder, directory, split)
      raw.rows += rows
      ignored += others
  if ignored:
    raw.notes.append(
      f"files that are not images of a class, which are ignored: {len(ignored):,}, e.g. "
      f"{relative_name(ignored[0], directory)}"
    )
  return raw


def _is_class_or_image(path):
  return os.path.isdir(path) or _any_image([pathlib.Path(path)])


def _split_file(path):
  """Returns the `SplitFile` of a matched folder or image: a folder named after a split on its way tells."""
  names = [name for name in path.parts if name.lower() in SPLIT_NAMES]
  return SplitFile(path, SPLIT_NAMES[names[-1].lower()], "") if names else None


def _read_glob(root, paths):
  """Returns the `Raw` of class folders, and of images whose folder is their class; equal names are one class."""
  raw, ignored = Raw({"image": "image"}, []), []
  for path in paths:
    if not path.is_dir():
      raw.rows.append(Row(relative_name(path, root), (str(path),), _class_name(path.parent)))
      continue
    rows, others = _class_rows(path, root, "")
    raw.rows += rows
    ignored += others
  if ignored:
    raw.notes.append(f"files that are not images, which are ignored: {len(ignored):,}, e.g. {ignored[0]}")
  return raw


def image_files(folder):
  """Returns (images, other files) below `folder`, sub folders included, as sorted paths; a loop of links ends.

  The suffix tells an image, whatever its content; hidden files and folders are ignored.
  """
  images, others, seen, waiting = [], [], set(), [folder]
  while waiting:
    current = waiting.pop()
    if current.resolve() in seen:
      continue
    seen.add(current.resolve())
    folders, files = visible(current)
    waiting += folders
    for path in files:
      (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
  return sorted(images), sorted(others)


def _class_rows(folder, directory, split):
  images, others = image_files(folder)
  label = _class_name(folder)
  rows = [Row(relative_name(path, directory), (str(path),), label, split) for path in images]
  if not images:
    rows.append(Row(relative_name(folder, directory) + "/", label=label, reason=EMPTY_CLASS))
  return rows, others


def _class_name(folder):
  return unicodedata.normalize("NFC", relative_name(folder, folder.parent))


def _split_folders(directory, what):
  """Returns [(split, folder)]: the folders that stand for splits, or ("", directory) where the classes are on top."""
  folders, _ = visible(directory)
  named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
  if not named or (len(named) < len(folders) and not any(visible(folder)[0] for folder in named)):
    return [("", directory)]
  others = [folder.name for folder in folders if folder not in named]
  if others:
    raise UserError(
      f"{what}: {directory} mixes splits ({', '.join(folder.name for folder in named)}) with other folders "
      f"({', '.join(others[:5])}): it takes either CLASS/ folders or train/, val/ and test/"
    )
  return one_for_each_split([(folder, folder.name) for folder in named], what)


def _any_image(paths):
  return any(path.suffix.lower() in IMAGE_SUFFIXES for path in paths)
