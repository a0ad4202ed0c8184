"""`texts:PATH`: texts without labels, one at a time: lines of files, whole files, or objects of .jsonl."""

import codecs
import json
import pathlib
import typing
import zlib
from collections.abc import Iterator

from tl_app import files as files_lib
from tl_app.data.readers import rows, table_files
from tl_app.data.readers.rows import as_text, relative_name, visible
from tl_app.errors import UserError
from tl_app.files import compressed, nearby

# A longer line is no text, and would fill the memory.
LARGEST = 1 << 20
# A longer file is not read as one document.
LARGEST_FILE = 16 << 20
SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
LINE, FILE = "line", "file"


class Text(typing.NamedTuple):
  """One text.

  Attributes:
    id: where it came from: "mails.txt:17", "1999/mail_3.txt".
    text: the text; blank lines are not given.
    reason: why it could not be read, or "".
  """

  id: str
  text: str = ""
  reason: str = ""


class TextFiles(typing.NamedTuple):
  """The files of `texts:PATH`.

  Attributes:
    root: directory that the ids start from.
    paths: the files, sorted.
    unit: "line" or "file": what one text of a .txt is.
    notes: lines worth telling the user.
  """

  root: pathlib.Path
  paths: list
  unit: str
  notes: list


def find(path: str, what: str, unit: str) -> TextFiles:
  """Returns the `TextFiles` of a path.

  Args:
    path: a file, a glob, or a folder, which is searched with its sub folders.
    what: the flag with its value, the beginning of a message.
    unit: of --text_unit; "auto" is "file" for a folder, else "line".

  Raises:
    UserError: there is no such file.
  """
  globbed = rows.matching(path, what, lambda _: None)
  if globbed:
    root, found = globbed
    _refuse_tables(found, what)
    return TextFiles(root, found, LINE if unit == "auto" else unit, [])
  root = pathlib.Path(path)
  if root.is_file():
    _refuse_tables([root], what)
    return TextFiles(root.parent, [root], LINE if unit == "auto" else unit, [])
  if not root.is_dir():
    raise UserError(f"{what}: there is no file or directory {path}{nearby.hint(path)}")
  found, ignored = [], []
  for file in _below(root):
    (found if suffix(file) in (*SUFFIXES, "") else ignored).append(file)
  if not found:
    held = f"; it holds {rows.by_suffix(ignored)}" if ignored else ""
    raise UserError(f"{what}: {root} has no texts ({', '.join(SUFFIXES)}){held}")
  notes = [f"{what}: files that are not texts, which are ignored: {rows.by_suffix(ignored)}"] if ignored else []
  rows.note_links(found, root, what, notes)
  return TextFiles(root, found, FILE if unit == "auto" else unit, notes)


def suffix(path: pathlib.Path) -> str:
  """Returns the suffix of a file in lower case, with that of a compressed file: ".txt.gz"."""
  parts = [part.lower() for part in path.suffixes[-2:]]
  return "".join(parts) if parts and parts[-1] == ".gz" else "".join(parts[-1:])


def read(files: TextFiles, text_column: str, what: str) -> Iterator[Text]:
  """Yields each `Text` of the files, in order, none of them blank. Memory holds one text at a time.

  Args:
    files: the `TextFiles`.
    text_column: key of the text in an object of a .jsonl.
    what: the flag with its value, the beginning of a message.

  Raises:
    UserError: a file cannot be read, or is binary.
  """
  for path in files.paths:
    id = relative_name(path, files.root)
    try:
      files_lib.require_regular(path)
      with compressed.GzipFile(path) if suffix(path).endswith(".gz") else open(path, "rb") as file:
        _refuse_binary(file, what, id)
        if suffix(path).startswith(".jsonl"):
          yield from _objects(file, id, text_column)
        elif files.unit == FILE:
          yield from _document(file, id)
        else:
          yield from _lines(file, id)
    except compressed.TooLarge as error:
      raise UserError(f"{what}: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
      raise UserError(f"{what}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _below(folder):
  folders, others = visible(folder)
  yield from others
  for sub_folder in folders:
    yield from _below(sub_folder)


def _refuse_tables(paths, what):
  table = next((path for path in paths if table_files.is_table(path) and suffix(path) not in SUFFIXES), None)
  if table:
    raise UserError(f"{what}: {table} is a table, whose lines are no texts: pass table:{table} and --text_column")


def _refuse_binary(file, what, id):
  start = file.peek(4096)[:4096]
  if files_lib.is_lfs_pointer(start):
    raise UserError(f"{what}: {id} is a pointer of Git LFS, not the text: run git lfs pull")
  if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise UserError(f"{what}: {id} is UTF-16, not UTF-8: save it as UTF-8")
  if b"\0" in start:
    raise UserError(f"{what}: {id} is a binary file, not a text: name .txt or .jsonl files")


def _document(file, id):
  data = file.read(LARGEST_FILE + 1)
  if len(data) > LARGEST_FILE:
    yield Text(id, reason=f"the file is larger than {LARGEST_FILE >> 20} MB: pass --text_unit=line, or divide it")
  else:
    yield from _decoded(data, id)


def _numbered(file, id):
  """Yields (id, line) of a file; a line is None where it is longer than `LARGEST`."""
  number = 0
  while line := file.readline(LARGEST + 1):
    number += 1
    too_long = len(line) > LARGEST
    while line and len(line) > LARGEST and not line.endswith(b"\n"):
      line = file.readline(LARGEST + 1)
    yield f"{id}:{number}", None if too_long else line


def _lines(file, id):
  for line_id, line in _numbered(file, id):
    yield from [_too_long(line_id)] if line is None else _decoded(line, line_id)


def _too_long(id):
  return Text(id, reason=f"the line is longer than {LARGEST >> 20} MB: a text a line is expected")


def _objects(file, id, text_column):
  for line_id, line in _numbered(file, id):
    if line is None:
      yield _too_long(line_id)
    elif line.strip():
      yield from _of_object(line, line_id, text_column)


def _of_object(line, id, text_column):
  try:
    value = json.loads(line.decode("utf-8-sig"))
  except (ValueError, RecursionError):
    yield Text(id, reason="the line is not JSON in UTF-8")
    return
  if not isinstance(value, dict) or text_column not in value:
    has = f"it has {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else "it is no object"
    yield Text(id, reason=f"it has no key {text_column!r} (--text_column): {has}")
    return
  try:
    text = as_text(value[text_column]) or ""
    text.encode()
  except ValueError:
    yield Text(id, reason=f"the value of {text_column!r} is no text")
    return
  if text.strip():
    yield Text(id, text)


def _decoded(data, id):
  try:
    text = data.decode("utf-8-sig").rstrip("\r\n")
  except UnicodeDecodeError:
    yield Text(id, reason="the text is not UTF-8")
    return
  if "\0" in text:
    yield Text(id, reason="it holds NUL bytes: it is no text")
  elif text.strip():
    yield Text(id, text)
