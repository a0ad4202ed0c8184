"""Where `predict` writes its answers: JSON lines, or a CSV table with the best two classes."""

import contextlib
import csv
import json
import os
import pathlib
import sys
import typing
from collections.abc import Callable, Iterator, Sequence

from tl_app import files
from tl_app.data import modalities
from tl_app.data.readers import table_files
from tl_app.data.readers.rows import Row
from tl_app.errors import UserError

# Suffixes of tables in which answers are written.
_SUFFIXES = (".csv", ".jsonl", ".ndjson")
# Columns that a table of answers, or `Run.predict`, has beside those of the answer.
_COLUMNS = ("id", "input", "text", "text_pair", "error")


def is_table(output: str) -> bool:
  """Whether a file of this name is a table."""
  return pathlib.Path(output).suffix.lower() == ".csv"


def check(output: str, source: str | Sequence) -> None:
  """Checks where the answers are written to.

  Args:
    output: file; "" is standard output.
    source: the inputs, as of `predict`.

  Raises:
    UserError: it is a directory, the file of the inputs, or has the suffix of another form.
  """
  if not output:
    return
  path = pathlib.Path(output)
  if path.is_dir():
    raise UserError(f"--output={output} is a directory: name a file")
  if isinstance(source, str) and path.exists() and os.path.exists(source) and path.samefile(source):
    raise UserError(f"--output={output} is the file of --input, which the answers would replace: name another file")
  suffix = table_files.suffix(path)
  if suffix not in _SUFFIXES and table_files.is_table(path):
    raise UserError(f"--output={output}: answers are not written as {suffix}: name a .csv or a .jsonl file")


@contextlib.contextmanager
def opened(
  output: str, facts: dict, columns: Sequence[str]
) -> Iterator[Callable[[Sequence[Row], Sequence[dict]], None]]:
  """Yields a function that writes the answers of a batch of rows.

  Args:
    output: file, which is complete when it appears; "" is standard output, flushed after every batch.
    facts: what the export says of itself.
    columns: those of a table, see `Predictor.columns`.
  """
  if not output:
    # JSON is UTF-8, whatever the locale of the terminal.
    typing.cast(typing.Any, sys.stdout).reconfigure(encoding="utf-8", errors="backslashreplace")
    yield _json_lines(sys.stdout)
    return
  # A file name that is not UTF-8 comes as lone surrogates, which only backslashreplace can write.
  options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
  with files.atomic_path(output) as new, open(new, "w", **options) as file:
    if not is_table(output):
      yield _json_lines(file)
      return
    yield _Table(file, facts, columns).write


def cells(answer: dict) -> dict:
  """Returns an answer as the cells of a row, {column: cell}, for a table.

  Of one class per input: label, score, next_label and next_score, the class with the second highest probability, and
  the prediction set. Of numbers: one column each, "NAME prediction" where NAME is another column. Else what the answer
  holds, without the probabilities.
  """
  row = {name: value for name, value in answer.items() if name not in ("id", "values", "probabilities")}
  taken = {*row, *_COLUMNS}
  row |= {f"{name} prediction" if name in taken else name: value for name, value in answer.get("values", {}).items()}
  others = [pair for pair in answer.get("probabilities", {}).items() if pair[0] != answer.get("label")]
  if "label" in answer and others:
    row["next_label"], row["next_score"] = max(others, key=lambda pair: pair[1])
  # A list, which is read less often than the cells above.
  return row | {"prediction_set": row.pop("prediction_set")} if "prediction_set" in row else row


def _json_lines(file):
  def write(rows, answers):
    del rows
    file.write("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
    file.flush()

  return write


class _Table:
  """Writes a row for each input: its id, the text, the cells of the answer, and what is wrong with it."""

  def __init__(self, file, facts, columns):
    names = ("text", "text_pair") if facts["pairs"] else ("text",)
    self._texts = () if modalities.of(facts["modality"]).is_decoded else names
    self._writer = csv.DictWriter(file, ["id", *self._texts, *columns], lineterminator="\n")
    self._writer.writeheader()

  def write(self, rows, answers):
    """Writes the rows of a batch."""
    for row, answer in zip(rows, answers):
      texts = dict(zip(self._texts, (value.decode("utf-8", "replace") for value in row.values)))
      written = {name: _cell(value) for name, value in cells(answer).items()}
      self._writer.writerow({"id": row.id} | texts | written)


def _cell(value):
  # A bool as "true" or "false", as predictions_test.csv has it.
  return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict, bool)) else value
