"""`images:DIR`: a folder for each class, or folders train/, val/ and test/ of these."""

import collections
import os
import pathlib
import typing
import unicodedata

from tl_app.data.examples import SPLITS
from tl_app.data.readers.rows import (
  EMPTY_CLASS,
  SPLIT_NAMES,
  Raw,
  Row,
  SplitFile,
  by_suffix,
  files_by_split,
  image_kind,
  is_system_file,
  matching,
  not_decoded,
  note_links,
  relative_name,
  split_of,
  visible,
)
from tl_app.errors import UserError
from tl_app.files import nearby

# Suffixes of archives, in which nothing is read.
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


class FolderFiles(typing.NamedTuple):
  """The files below a folder, as sorted paths: images, images that TensorFlow does not decode, and others."""

  images: list
  not_decoded: list
  others: list


def read(path, what):
  """Returns the `Raw` of a directory. An id is the path below it, an input the whole path, a label the folder's name.

  Args:
    path: str: a directory, or a glob of class folders or of the images in them.
    what: the flag with its value, the beginning of a message.

  Raises:
    UserError: no such directory, or its folders cannot be told for classes or splits.
  """
  ignored = []
  globbed = matching(path, what, _split_file, _is_class_or_image, ignored)
  if globbed:
    return _read_glob(*globbed, ignored)
  directory = pathlib.Path(path)
  raw = Raw({"image": "image"}, [])
  nested = []
  for split, classes, strays in _layout(path, what, raw.notes):
    ignored += strays
    for class_folder in classes:
      rows, others = _class_rows(class_folder, directory, split)
      raw.rows += rows
      ignored += others
      nested += [row for row in rows if row.values and pathlib.Path(row.values[0]).parent != class_folder]
  _note_ignored(raw, ignored, "images of a class", directory)
  note_links([row.values[0] for row in raw.rows if row.values], directory, what, raw.notes)
  if nested:
    raw.notes.append(
      f"images in sub folders of a class folder, which count as its images: {len(nested):,}, e.g. {nested[0].id}"
    )
  return raw


def _layout(path, what, notes):
  """Returns [(split, class folders, files beside them)] of a directory.

  Args:
    path: str: the directory.
    what: the flag with its value, the beginning of a message.
    notes: list that gets a line about folders that were not read by their plain names.

  Raises:
    UserError: no such directory, or its folders cannot be told for classes or splits.
  """
  directory = pathlib.Path(path)
  if not directory.exists():
    raise UserError(f"{what}: there is no directory {path}{nearby.hint(path)}")
  if not directory.is_dir():
    advice = ": unpack it" if directory.suffix.lower() in ARCHIVES else ""
    raise UserError(f"{what}: {directory} is a file{advice}; images: takes a directory with one folder for each class")
  found, splits = [], _split_folders(directory, what, notes)
  beside = visible(directory)[1] if all(folder != directory for _, folder in splits) else []
  _refuse_packed_splits(beside, splits, what)
  for split, folder in splits:
    classes, strays = visible(folder)
    if not classes:
      raise UserError(f"{what}: {_no_classes(folder, strays, directory, split)}")
    _refuse_lost_level(folder, classes, what)
    found.append((split, classes, [*strays, *beside]))
    beside = []
  return found


def _refuse_packed_splits(files, splits, what):
  """Raises `UserError` for an archive with the name of a split which no folder has: train/ and test.zip."""
  for file in files:
    split = SPLIT_NAMES.get(file.name.partition(".")[0].lower(), "")
    if split and file.suffix.lower() in ARCHIVES and split not in dict(splits):
      raise UserError(f"{what}: {file} would not be read, but has the name of a split: unpack it, or move it away")


def _no_classes(folder, files, directory, split):
  """Returns what is wrong with a folder without class folders, and what to do."""
  has_images = any(map(image_kind, files))
  tables = [path for path in (*files, *visible(directory)[1]) if path.suffix.lower() in (".csv", ".tsv", ".jsonl")]
  packed = next((path for path in files if path.suffix.lower() in ARCHIVES), None)
  advice = f"put the images of each class into {folder}/CLASS/{', or remove it' if split else ''}"
  if has_images and tables:
    advice += f"; if {tables[0].name} tells their classes, pass --dataset=table:{tables[0]} and --image_column"
  elif packed and not has_images:
    advice = f"unpack {packed.name}"
  return f"{folder} has {'images but ' if has_images else ''}no class folders: {advice}"


def _note_ignored(raw, ignored, wanted, root):
  if ignored:
    raw.notes.append(
      f"files that are not {wanted}, which are ignored: {len(ignored):,} ({by_suffix(ignored)}), e.g. "
      f"{relative_name(ignored[0], root)}"
    )


def _is_class_or_image(path):
  return os.path.isdir(path) or bool(image_kind(pathlib.Path(path)))


def _split_file(path):
  """Returns the `SplitFile` of a matched folder or image: a folder named after a split on its way tells."""
  # The folder of a class has any name, "train_station" too.
  above = path.parts[: -1 if path.is_dir() else -2]
  splits = [SPLIT_NAMES.get(name.lower()) or (split_of(name) if name in above else "") for name in path.parts]
  splits = [split for split in splits if split]
  return SplitFile(path, splits[-1], "") if splits else None


def _read_glob(root, paths, ignored):
  """Returns the `Raw` of class folders, and of images whose folder is their class; equal names are one class."""
  raw = Raw({"image": "image"}, [])
  for path in paths:
    if not path.is_dir():
      raw.rows.append(_row(path, root, _class_name(path.parent), "", image_kind(path) == "image"))
      continue
    rows, others = _class_rows(path, root, "")
    raw.rows += rows
    ignored += others
  _note_ignored(raw, ignored, "images", root)
  return raw


def image_files(folder):
  """Returns the `FolderFiles` below `folder`, sub folders included; a loop of links ends. Hidden files are ignored."""
  kinds, seen, waiting = {"image": [], "other_image": [], "": []}, set(), [folder]
  while waiting:
    current = waiting.pop()
    real = current.resolve()
    if real in seen:
      continue
    seen.add(real)
    folders, files = visible(current)
    waiting += folders
    for path in files:
      kinds[image_kind(path)].append(path)
  return FolderFiles(*map(sorted, kinds.values()))


def unlabelled(path: str, what: str) -> Raw:
  """Returns the `Raw` of all images below a directory, or of those that a glob matches, without labels.

  A folder train/, val/ or test/ at the top gives its split.

  Args:
    path: a directory or a glob.
    what: the flag with its value, the beginning of a message.

  Raises:
    UserError: there is no such directory, or it has no images.
  """
  root, others = pathlib.Path(path), []
  globbed = matching(path, what, lambda _: None, os.path.isfile)
  if globbed:
    root, paths = globbed
    paths, others = [one for one in paths if image_kind(one)], [one for one in paths if not image_kind(one)]
  elif not root.is_dir():
    raise UserError(f"{what}: there is no directory {path}{nearby.hint(path)}")
  else:
    found = image_files(root)
    paths, others = sorted([*found.images, *found.not_decoded]), found.others
  if not paths:
    raise UserError(f"{what}: {root} has no images; it holds {by_suffix(others) or 'nothing'}")
  raw = Raw({"image": "image"}, [])
  for one in paths:
    top = one.relative_to(root).parts[0].lower()
    raw.rows.append(_row(one, root, "", SPLIT_NAMES.get(top, ""), image_kind(one) == "image"))
  _note_ignored(raw, others, "images", root)
  note_links(paths, root, what, raw.notes)
  return raw


def _class_rows(folder, directory, split):
  """Returns (rows in the order of their paths, files that are no images) of a class folder."""
  found = image_files(folder)
  label, images = _class_name(folder), set(found.images)
  paths = sorted([*found.images, *found.not_decoded])
  rows = [_row(path, directory, label, split, path in images) for path in paths]
  if not rows:
    rows.append(Row(relative_name(folder, directory) + "/", label=label, reason=EMPTY_CLASS))
  return rows, found.others


def _row(path, directory, label, split, is_decoded):
  id = relative_name(path, directory)
  return Row(id, (str(path),), label, split) if is_decoded else Row(id, (), label, split, not_decoded(path))


def _class_name(folder):
  return unicodedata.normalize("NFC", relative_name(folder, folder.parent))


def _split_folders(directory, what, notes):
  """Returns [(split, folder)]: the folders that stand for splits, or ("", directory) where the classes are on top."""
  folders, strays = visible(directory)
  named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
  like = {folder: split_of(folder.name) for folder in folders}
  if not named or any(like[folder] and folder not in named for folder in folders):
    loosely = [folder for folder in folders if like[folder]]
    if len({like[folder] for folder in loosely}) > 1 and all(map(_holds_no_images, loosely)):
      _need_the_same_classes(directory, loosely, what)
      named = loosely
      notes.append(
        f"{what}: folders that are read as splits: "
        + ", ".join(f"{folder.name} as {split}" for folder, split in like.items() if split)
      )
  if not named or (len(named) < len(folders) and not any(visible(folder)[0] for folder in named)):
    inner = _only_folder(folders, strays)
    if inner:
      notes.append(f"{what}: {directory} has one folder, whose folders are read instead: {inner.name}")
      return _split_folders(inner, what, notes)
    return [("", directory)]
  others = [folder.name for folder in folders if folder not in named]
  if others:
    raise UserError(
      f"{what}: {directory} mixes splits ({', '.join(folder.name for folder in named)}) with other folders "
      f"({', '.join(others[:5])}): move these away, or name the folders one by one, {_as_flags(named, like)}"
    )
  found = files_by_split([SplitFile(folder, like[folder], folder.name) for folder in named], what)
  # train/images/CLASS and test/images/CLASS: one class of this name could not be learnt.
  inner = [_only_folder(*visible(folder)) for _, folder in found]
  if all(inner) and len({folder.name for folder in inner}) == 1:
    notes.append(f"{what}: each split has one folder, whose folders are read instead: {inner[0].name}")
    return [(split, folder) for (split, _), folder in zip(found, inner)]
  return [(split, _classes_folder(folder)) for split, folder in found]


def _as_flags(folders, splits):
  """Returns the flags that name the folders of splits one by one."""
  flags = {"train": "dataset", "validation": "validation_dataset", "test": "test_dataset"}
  ordered = sorted(folders, key=lambda path: SPLITS.index(splits[path]))
  return " ".join(f"--{flags[splits[path]]}=images:{path}" for path in ordered)


def _classes_folder(folder):
  """Returns the folder that holds the classes of a split: seg_train/ or seg_train/seg_train/."""
  folders, strays = visible(folder)
  if len(folders) != 1 or any(map(image_kind, strays)) or not _holds_no_images(folders[0]):
    return folder
  is_repeated = folders[0].name == folder.name or split_of(folders[0].name) == split_of(folder.name)
  return folders[0] if is_repeated else folder


def _only_folder(folders, strays):
  """Returns the only folder, where it holds folders and neither it nor what is around it holds images; else None."""
  if len(folders) != 1 or any(map(image_kind, strays)):
    return None
  inside, beside = visible(folders[0])
  if any(map(image_kind, beside)):
    return None
  is_level = len(inside) > 1 or any(folder.name.lower() in SPLIT_NAMES for folder in inside)
  return folders[0] if is_level or _only_folder(inside, beside) else None


def _need_the_same_classes(directory, folders, what):
  """Raises `UserError` where folders that are named like splits have no class in common."""
  if not _shared_names(_inner_names(_classes_folder(folder)) for folder in folders):
    names = " and ".join(folder.name for folder in folders)
    raise UserError(
      f"{what}: {names} are named like splits, but have no class folder in common: name the splits train/, val/ and "
      f"test/, or, if {names} are the classes, pass 'images:{directory}/*'"
    )


def _holds_no_images(folder):
  folders, files = visible(folder)
  return bool(folders) and not any(map(image_kind, files))


def _shared_names(inner_names):
  """Returns the names that sub folders of several folders have, sorted.

  Args:
    inner_names: the `_inner_names` of each folder.
  """
  counts = collections.Counter(name for names in inner_names for name in names)
  return sorted(name for name, count in counts.items() if count > 1)


def _inner_names(folder):
  """Returns the names of the visible sub folders; of a folder of many images, without a look at each."""
  try:
    with os.scandir(folder) as entries:
      return [entry.name for entry in entries if _is_folder(entry) and not is_system_file(pathlib.Path(entry.name))]
  except OSError as error:
    raise UserError(f"{folder} cannot be listed: {error.strerror}") from None


def _is_folder(entry):
  # An entry of `os.scandir` fails on a link that leads to itself.
  return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _refuse_lost_level(folder, classes, what):
  """Raises `UserError` where the folders of `folder` are hardly its classes, or one class lies in another."""
  names = {_class_name(path) for path in classes}
  inner_names = {path: sorted(_inner_names(path)) for path in classes}
  for path, inside in inner_names.items():
    own = _class_name(path)
    inner = next(
      (name for name in inside if own != _class_name(path / name) and _class_name(path / name) in names), None
    )
    if inner:
      raise UserError(
        f"{what}: {path / inner} lies in the folder of the class {path.name} and has the name of another class: move "
        f"its images to {folder / inner}, or rename it"
      )
  shared = _shared_names(inner_names.values())
  if len(classes) > 1 and len(shared) > 1 and all(_holds_no_images(path) for path in classes):
    one, other = classes[:2]
    if all(name.lower() in SPLIT_NAMES for name in shared):
      raise UserError(
        f"{what}: {one.name} and {other.name} in {folder} hold the folders {' and '.join(shared)}: put the splits on "
        f"top, {folder}/{shared[0]}/{one.name}, or pass 'images:{folder}/*' to join them"
      )
    raise UserError(
      f"{what}: {one.name} and {other.name} in {folder} hold no images but folders of the same names "
      f"({', '.join(shared[:5])}): if these are the classes, pass --dataset=images:{one} and --test_dataset="
      f"images:{other}, or --dataset='images:{folder}/*/*' to join them; if {one.name} and {other.name} are the "
      f"classes, pass --dataset='images:{folder}/*'"
    )
