"""`read`: inputs to be answered, without labels, one at a time."""

import codecs
import logging
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

from tl_app.data import modalities
from tl_app.data.readers import folders, table_columns, table_files, tables
from tl_app.data.readers.rows import IMAGE_SUFFIXES, Row, by_suffix, image_kind, not_decoded, relative_name
from tl_app.data.readers.table_formats import open_table
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import nearby

log = logging.getLogger(__name__)

_TABLES = ", ".join(table_files.SUFFIXES)


def read(source, modality, text_column="text", image_column="image", text_pair_column="", words=False):
  """Returns an iterator of `Row`s whose `values` are bytes: a UTF-8 text, or an encoded image; of a pair there are two.

  A row that could not be read has a `reason` instead; whether an image can be decoded is not looked at. An empty text
  cannot be read, as in training.

  Args:
    source: for texts a .txt (the id of a line is "file.txt:3") or "-", standard input ("-:3"); for images one file, or
      a directory with its sub folders (the id is the path below it); for both a table (a row is "file.csv:17").
    modality: name of the `Modality` that the model reads.
    text_column, image_column: columns of a table; paths of images are relative to it.
    text_pair_column: column of the second text of a pair, which only a table can hold; "" for single texts.
    words: whether a cell may be the list of a text's words.

  Raises:
    UserError: there is no such input, it is of the other modality, or a column is not there: at once, before any row.
  """
  path, modality = pathlib.Path(source), modalities.of(modality)
  suffix = table_files.suffix(path)
  if text_pair_column and suffix not in table_files.SUFFIXES:
    raise UserError(f"--input={source} holds no pairs of texts: give a table ({_TABLES})")
  if source == "-":
    _need("text", source, "is texts", modality)
    return _lines(sys.stdin.buffer, "-")
  if not path.exists():
    raise UserError(f"--input={source}: there is no such file or directory{nearby.hint(source)}")
  if path.is_dir():
    _need("image", source, "is a directory", modality)
    return _images_below(path, source)
  if suffix in table_files.SUFFIXES:
    wanted = {modality.column_flag: {"text_column": text_column, "image_column": image_column}[modality.column_flag]}
    wanted |= {"text_pair_column": text_pair_column} if text_pair_column else {}
    return _table_rows(path, modality, wanted, words)
  if suffix == ".txt":
    _need("text", source, "is texts", modality)
    return _file_lines(path)
  _need("image", source, "is an image" if suffix in IMAGE_SUFFIXES else "is not a .txt", modality)
  return iter([_image(path.name, path)])


def from_values(values: Iterable, modality: str, pairs: bool) -> Iterator[Row]:
  """Yields the `Row`s of inputs in memory, as `read` does; the id is the position.

  Args:
    values: texts, or paths or encoded bytes of images; with `pairs`, two texts each.
    modality: name of the `Modality` that the model reads.
    pairs: whether the model reads pairs of texts.

  Raises:
    UserError: a value is none of these.
  """
  kind = modalities.of(modality)
  types = (str, os.PathLike, bytes) if kind.is_decoded else (str,)
  one = f"the path or the bytes of an {modality}" if kind.is_decoded else f"a {modality}"
  for number, value in enumerate(values):
    parts = value if pairs and isinstance(value, (tuple, list)) else (value,)
    if len(parts) != 1 + pairs or not all(isinstance(part, types) for part in parts):
      wanted = f"a pair of {kind.plural}" if pairs else one
      raise UserError(f"input {number} is not {wanted}: {' '.join(repr(value).split())[:60]}")
    encoded, reason = (), ""
    for part in parts:
      data, fault = kind.encode(os.fspath(part))
      encoded, reason = (*encoded, data), reason or fault
    yield Row(str(number), encoded, reason=reason)


def _need(name, source, what, modality):
  if name != modality.name:
    takes = modality.predict_sources.format(tables=_TABLES)
    raise UserError(f"--input={source} {what}, but the model reads {modality.plural}: give {takes}")


def _images_below(directory, source):
  found = folders.image_files(directory)
  paths = sorted([*found.images, *found.not_decoded])
  if not paths:
    others = number_of(len(found.others), "other file")
    raise UserError(f"--input={source} has no images ({', '.join(IMAGE_SUFFIXES)}), {others}")
  if found.others:
    log.info(
      "--input=%s: ignored files that are not images: %s (%s)",
      source,
      f"{len(found.others):,}",
      by_suffix(found.others),
    )
  return (_image(relative_name(path, directory), path) for path in paths)


def _image(id, path):
  if image_kind(path) == "other_image":
    return Row(id, reason=not_decoded(path))
  encoded, reason = modalities.of("image").encode(str(path))
  return Row(id, (encoded,), reason=reason)


def _table_rows(file, modality, wanted, words):
  table = open_table(file)
  for note in table.notes:
    log.info("%s", note)
  table_columns.require(table.names, wanted, modality, file)
  return _cell_rows(file, modality, tables.cells(file, table, list(wanted.values()), words=words))


def _cell_rows(file, modality, cells):
  for id, values, reason in cells:
    encoded = ()
    for value in () if reason else values:
      # The model reads what the cell holds: nothing is kept.
      part, reason = (value, "") if isinstance(value, bytes) else _encoded(value, modality, file)
      encoded += (part,)
      if reason:
        break
    yield Row(id, encoded, reason=reason)


def _encoded(value, modality, file):
  value, reason = modality.locate(value, file) if value else (None, "")
  return (b"", reason) if reason else modality.encode(value)


def _file_lines(path):
  try:
    with open(path, "rb") as file:
      yield from _lines(file, path.name)
  except OSError as error:
    raise UserError(f"--input={path} cannot be read: {error.strerror}") from None


def _lines(file, name):
  """Yields a `Row` for each line of a binary file, without its end and a leading byte order mark."""
  for number, line in enumerate(file, start=1):
    text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    text = text.removesuffix(b"\n").removesuffix(b"\r")
    try:
      encoded, reason = modalities.of("text").encode(text.decode("utf-8"))
    except UnicodeDecodeError:
      encoded, reason = text, "the text is not UTF-8"
    if b"\0" in text:
      # UTF-16, whose lines after the first are UTF-8 too.
      reason = "it holds NUL bytes: save it as UTF-8"
    yield Row(f"{name}:{number}", () if reason else (encoded,), reason=reason)
