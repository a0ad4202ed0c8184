"""`find`: the file that a path of a table means, where the path does not lead to one as it is written."""

import functools
import os
import pathlib
import re
import unicodedata

# Suffixes that are tried for a path without one, the most frequent first.
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp", ".gif", ".bmp", ".jfif")
# Files below the directory of a table that are looked at for one of the same name.
_MOST_FILES = 200_000
# Characters of a path; a longer cell may be an image as base64.
_LONGEST_PATH = 1024


def find(cell: str, directory: pathlib.Path) -> tuple[str, str]:
  """Returns (path, reason): the file that a cell means, or why there is none and which file is near.

  A path is relative to `directory`, absolute, or begins with ~. What a path can mean besides is tried in turn: "\\" as
  the separator, a query at the end ("1.jpg?v=2"), a Unicode name composed or decomposed, an image suffix where the path
  has none. A path of another machine is not followed; the message names the file below `directory` that its end leads
  to.

  Args:
    cell: the path as the table holds it.
    directory: that of the table.
  """
  if len(cell) > _LONGEST_PATH:
    return (
      "",
      f"the cell is no path: it has {len(cell):,} characters, {cell[:20]!r}..; write the image to a file, or its bytes",
    )
  written = _below(cell, directory)
  if os.path.lexists(written):
    return written, ""
  for path in _spellings(cell):
    found = _existing(_below(path, directory))
    if found:
      return found, ""
  near = _by_end(cell, directory)
  there = f"{' and '.join(near)} {'are' if near[1:] else 'is'} there"
  hint = f"; {there}: write paths relative to the table" if near else ""
  return "", f"{written} cannot be read: No such file or directory{hint}"


def _below(path, directory):
  try:
    return str(directory / pathlib.Path(path).expanduser())
  except RuntimeError:
    return str(directory / path)


def _spellings(cell):
  """Yields the ways to write a path, the given one first."""
  stripped = cell.strip()
  without_query = re.sub(r"(\.\w+)\?.*$", r"\1", stripped)
  for path in dict.fromkeys((cell, stripped, stripped.replace("\\", "/"), without_query)):
    yield from dict.fromkeys((path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))))


def _existing(path):
  """Returns the path, or the path with an image suffix, that is a file; "" if there is none, or several."""
  if os.path.isfile(path):
    return path
  if os.path.basename(path) and not os.path.isdir(path):
    found = [path + suffix for suffix in SUFFIXES if os.path.isfile(path + suffix)]
    if len(found) == 1:
      return found[0]
  return ""


def _by_end(cell, directory):
  """Returns the one or two files below `directory` that the last parts of a path lead to, as relative paths, or []."""
  parts = [part for part in re.split(r"[\\/]+", cell.strip()) if part and not re.fullmatch(r"[A-Za-z]:|\.\.?|~", part)]
  for first in range(len(parts)):
    for path in _spellings("/".join(parts[first:])):
      found = _existing(_below(path, directory))
      if found:
        return [os.path.relpath(found, directory)]
  if not parts:
    return []
  known = _files_by_name(str(directory))
  name = unicodedata.normalize("NFC", parts[-1]).casefold()
  near = known.get(name) or known.get(name.rpartition(".")[0] or name) or []
  # A name that is in many folders tells nothing.
  return near if len(near) < 3 else []


@functools.lru_cache(maxsize=4)
def _files_by_name(directory):
  """Returns {name and stem in lower case: relative paths, three at most} of the files below `directory`."""
  names, count = {}, 0
  for root, folders, files in os.walk(directory):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    for name in sorted(files):
      path = os.path.relpath(os.path.join(root, name), directory)
      key = unicodedata.normalize("NFC", name).casefold()
      for known in {key, os.path.splitext(key)[0]}:
        same = names.setdefault(known, [])
        same += [path] if len(same) < 3 else []
      count += 1
    if count > _MOST_FILES:
      break
  return names
