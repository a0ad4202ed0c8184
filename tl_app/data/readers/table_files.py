"""The files of `table:PATH`, and which split each is for."""

import os
import pathlib
import re

from tl_app.data.examples import SPLITS
from tl_app.data.readers.rows import (
  IMAGE_SUFFIXES,
  SPLIT_NAMES,
  SplitFile,
  by_suffix,
  files_by_split,
  matching,
  split_of,
  visible,
)
from tl_app.errors import UserError
from tl_app.files import nearby

SUFFIXES = (
  *(".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".conll", ".xlsx"),
  *(".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz", ".conll.gz"),
)
_SHARD = r"(?:-(?P<number>\d+)-of-(?P<of>\d+)(?:-[0-9a-z]{4,})?)?"
# "train2", "train_part3", "train (1)": a part of what "train" names.
_PART = re.compile(r"[a-z]+[-_. (]*(?:part|chunk|fold)?[-_. ]*\d+\)?", re.I)
# Files that lie beside the tables of a data set and are none.
_ABOUT = re.compile(r"(readme|licen[cs]e|citation|notice|changelog)\b.*|.*\.(md|py|ipynb|pdf|html|log)", re.I)
_ADVICE = {
  ".xls": "save it as .xlsx or .csv",
  ".ods": "save it as .xlsx or .csv",
  ".json": "write one JSON object per line, as .jsonl",
  ".txt": "name the columns on the first line and save it as .tsv, or tagged words as .conll",
  ".tab": "save it as .tsv",
  **dict.fromkeys((".arrow", ".feather", ".pkl"), "save it as .parquet"),
  **dict.fromkeys((".conllu", ".iob", ".iob2", ".bio"), "save it as .conll, a word and its tag a line"),
  **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".bz2", ".xz", ".zst", ".tar.gz", ".txt.gz"), "unpack it"),
}


def suffix(file: pathlib.Path) -> str:
  """Returns the suffix of a table in lower case, with the one before .gz: ".csv", ".csv.gz"."""
  suffixes = [part.lower() for part in file.suffixes]
  return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def is_table(file: pathlib.Path) -> bool:
  """Returns whether the suffix is that of a table."""
  return suffix(file) in SUFFIXES


def split_file(file: pathlib.Path) -> SplitFile | None:
  """Returns the `SplitFile` of a table named after a split, else None.

  The names are those of `SPLIT_NAMES`, and their shards: "train.csv", "train-00000-of-00004.parquet", also with the
  hash that Hugging Face's datasets wrote after the number of shards.
  """
  return _split_file(file, lambda name: SPLIT_NAMES.get(name.lower(), ""))


def find(path: str, what: str, notes: list[str]) -> tuple[pathlib.Path, list[tuple[str, pathlib.Path]]]:
  """Returns (the directory that ids are relative to, [(split, file)]).

  A file, the files of a glob, and the only table of a directory have split "".

  Args:
    path: a file, a glob, or a directory.
    what: the flag with its value, the beginning of a message.
    notes: list that gets a line about files that are not read, and about names that are not the plain ones.

  Raises:
    UserError: there is no table, or the splits of a directory cannot be told.
  """
  ignored = []
  globbed = matching(path, what, split_file, os.path.isfile, ignored)
  if globbed:
    return _of_glob(*globbed, what, notes)
  if not os.path.exists(path):
    raise UserError(f"{what}: there is no file or directory {path}{_several(path) or nearby.hint(path)}")
  path = pathlib.Path(path)
  if path.is_dir():
    return path, _of_directory(path, what, notes)
  if suffix(path) not in SUFFIXES:
    advice = f"; {_ADVICE[suffix(path)]}" if suffix(path) in _ADVICE else ""
    raise UserError(f"{what}: {path.name} is not a table by its suffix; known are {', '.join(SUFFIXES)}{advice}")
  return path.parent, [("", path)]


def _several(path):
  """Returns the end of a message about a path that is a list of files, or a pattern of the shell: "" of another."""
  is_list = any(mark in path and os.path.exists(path.partition(mark)[0]) for mark in (",", " "))
  return "; several files are named by a glob, 'DIR/*.csv'" if is_list or re.search(r"\{.*,.*\}", path) else ""


def _split_file(file, split_of_name):
  kind = suffix(file)
  match = re.fullmatch(rf"(?P<name>.+?){_SHARD}", file.name[: len(file.name) - len(kind)], re.I)
  split = split_of_name(match["name"]) if match else ""
  if not is_table(file) or not split:
    return None
  return SplitFile(file, split, match["name"].lower() + kind, int(match["number"] or 0), int(match["of"] or 0))


def _of_glob(root, found, what, notes):
  tables = [file for file in found if is_table(file)]
  if not tables:
    raise UserError(f"{what} matches no table by its suffix, e.g. {found[0].name}; known are {', '.join(SUFFIXES)}")
  others = [file for file in found if not is_table(file)]
  _note_ignored(others, "files that are not tables", what, notes)
  return root, [("", file) for file in tables]


def _of_directory(path, what, notes):
  folders, files = visible(path)
  tables = [file for file in files if is_table(file)]
  if not tables:
    return _of_folders(path, folders, what, notes)
  others = [
    file for file in files if not (is_table(file) or _ABOUT.fullmatch(file.name) or suffix(file) in IMAGE_SUFFIXES)
  ]
  _refuse_other_forms(others, tables, what)
  _note_ignored(others, "files that are not tables", what, notes)
  deeper = [file for folder in folders for file in visible(folder)[1] if is_table(file)]
  _note_ignored(deeper, "tables in folders beside the tables", what, notes)
  if len(tables) == 1 and not split_file(tables[0]):
    return [("", tables[0])]
  split_files = [file for file in map(split_file, tables) if file]
  if "train" not in {file.split for file in split_files}:
    split_files = _with_the_word_of_a_split(tables, what, notes) or split_files
  read = {file.path for file in split_files}
  unread = [file for file in tables if file not in read]
  _refuse_unread(unread, split_files, what)
  if not split_files:
    raise UserError(
      f"{what}: {path} has {len(tables)} tables, none of them named train; it takes train, dev or val, and test, or "
      f"name one file, or parts of one table by a glob, 'table:{path}/*{suffix(tables[0])}'"
    )
  _note_ignored(unread, "other tables", what, notes)
  return files_by_split(split_files, what)


def _with_the_word_of_a_split(tables, what, notes):
  """Returns the `SplitFile`s of names as "movie_train.csv", where train is among them and no two are for one split."""
  found = [file for file in (_split_file(table, split_of) for table in tables) if file]
  sets = {(file.split, file.whole, file.of) for file in found}
  if "train" not in {split for split, *_ in sets} or len(sets) > len({split for split, *_ in sets}):
    return []
  named = ", ".join(f"{file.path.name} as {file.split}" for file in found[:6])
  notes.append(f"{what}: files that are read as splits: {named}")
  return found


def _of_folders(path, folders, what, notes):
  """Returns the tables in the folders of a directory without tables: train/, test/, or its only folder."""
  holding = {folder: [file for file in visible(folder)[1] if is_table(file)] for folder in folders}
  holding = {folder: tables for folder, tables in holding.items() if tables}
  splits = {folder: split_of(folder.name) for folder in holding}
  if "train" in splits.values() and all(splits.values()) and len(set(splits.values())) == len(splits):
    return [(splits[folder], file) for folder, tables in holding.items() for file in tables]
  if len(folders) == 1:
    notes.append(f"{what}: {path} has one folder, whose tables are read: {folders[0].name}")
    return _of_directory(folders[0], what, notes)
  inside = f"; {next(iter(holding))} has {len(next(iter(holding.values())))}: name it" if holding else ""
  other = next((file for file in visible(path)[1] if suffix(file) in _ADVICE), None)
  inside = f"; it holds {other.name}: {_ADVICE[suffix(other)]}" if other and not holding else inside
  raise UserError(
    f"{what}: {path} has no table ({', '.join(SUFFIXES)}); it takes train, dev or val, and test, or name one file, or "
    f"parts by a glob{inside}"
  )


def _refuse_other_forms(others, tables, what):
  """Raises `UserError` for a file of another form that has the name of a split that no table has: dev.txt."""
  present = {file.split for file in map(split_file, tables) if file}
  for file in others:
    split = SPLIT_NAMES.get(file.name[: len(file.name) - len(suffix(file))].lower(), "")
    if present and split and split not in present and suffix(file) in _ADVICE:
      raise UserError(
        f"{what}: {file.name} would not be read, but has the name of a split: {_ADVICE[suffix(file)]}, or move it away"
      )


def _refuse_unread(unread, split_files, what):
  """Raises `UserError` for tables that are not read although their names begin with that of a split.

  A part ("train_2") always; another name ("validation_matched") where the split has no file of its own. Without train
  there is nothing to learn from: any name with its word is told.
  """
  own = {split: [file.path for file in split_files if file.split == split] for split in SPLITS}
  more = {split: [] for split in own}
  for file in unread:
    stem = file.name[: len(file.name) - len(suffix(file))]
    split = SPLIT_NAMES.get(re.match(r"[a-z]*", stem.lower())[0], "")
    likely = split_of(stem)
    if not split and likely and not own[likely] and (likely == "train" or re.fullmatch(r"hold[-_ ]?out", stem, re.I)):
      split = likely
    if split and (_PART.fullmatch(stem) or not own[split]):
      more[split].append(file)
  named = sorted(file for files in more.values() for file in files)
  if named:
    shown = ", ".join(file.name for file in named[:3]) + (", .." if named[3:] else "")
    flags = [_flag(split, own[split], more[split]) for split in own if own[split] or more[split]]
    raise UserError(
      f"{what}: these files would not be read, although their names begin like a split: {shown}. Pass "
      f"{' '.join(flags)}, or move away what is not wanted"
    )


def _flag(split, own, more):
  """Returns the flag that names the files of a split: one file, or a glob of its parts."""
  flag = "dataset" if split == "train" else f"{split}_dataset"
  parts = [*own, *(file for file in more if own or split == "train")]
  if len(parts) < 2:
    return f"--{flag}=table:{(parts or more)[0]}"
  start = os.path.commonprefix([file.name for file in parts]).partition(".")[0]
  return f"--{flag}='table:{parts[0].parent}/{start}*{suffix(parts[0])}'"


def _note_ignored(ignored, which, what, notes):
  if ignored:
    notes.append(f"{what}: {which}, which are ignored: {len(ignored):,} ({by_suffix(ignored)}), e.g. {ignored[0].name}")
