"""The table of flagged answers: inputs with the labels that a person gave them, which --dataset=table: reads."""

import csv
import hashlib
import pathlib
import threading
from collections.abc import Sequence

from tl_app import files
from tl_app.config.paths import expanded
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.tasks.task import Task


class FlaggedTable:
  """A CSV file to which each flagged answer adds a row; images are written beside it, once for each content.

  The columns are those that --dataset=table: reads without further flags, "text" or "image" and "label", and
  "prediction" and "score" for the reader.
  """

  def __init__(self, path: str | pathlib.Path, task: Task, modality: str, pairs: bool):
    """Checks the file, which need not exist.

    Args:
      path: of the file.
      task: the `Task` of the model.
      modality: of its inputs.
      pairs: whether an input is a pair of texts.

    Raises:
      UserError: there is a file with other columns, or it cannot be written.
    """
    self.path = pathlib.Path(expanded(path))
    self._task, self._modality, self._lock = task, modalities.of(modality), threading.Lock()
    inputs = [modality, f"{modality}_pair"] if pairs else [modality]
    self._columns = [*inputs, *task.answers.label_columns, "prediction", "score"]
    if self.path.is_dir() or self.path.suffix.lower() != ".csv":
      raise UserError(f"--flagged={path}: give the name of a .csv file")
    if self._header() not in ([], self._columns):
      raise UserError(f"--flagged={path} has other columns than {', '.join(self._columns)}: choose another file")

  def add(self, values: Sequence[bytes], labels: Sequence[str], prediction: str, score: float | None) -> None:
    """Adds a row.

    Args:
      values: the encoded input: one value, or those of a pair.
      labels: the right label, a cell for each of `Answers.label_columns`.
      prediction: the answer of the model, as a label.
      score: of the answer, or None.

    Raises:
      UserError: a label is empty or does not fit the task.
    """
    self._check(values, labels)
    with self._lock:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      is_new, cells = not self._header(), [self._cell(value) for value in values]
      with open(self.path, "a", newline="", encoding="utf-8") as file:
        file.write("\n" if self._is_cut() else "")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([self._columns] if is_new else [])
        writer.writerow([*cells, *labels, prediction, "" if score is None else f"{score:.6g}"])

  def __len__(self):
    if not self.path.exists():
      return 0
    with open(self.path, newline="", encoding="utf-8") as file:
      return max(sum(1 for _ in csv.reader(file)) - 1, 0)

  def _check(self, values, labels):
    if not all(label.strip() for label in labels):
      raise UserError("the right label is empty: write it, or choose one of the classes")
    self._task.answers.check_labels(labels, [value.decode("utf-8", "replace") for value in values])

  def _cell(self, value):
    """Returns the text of a value, or the path of the image, relative to the table, into which it is written."""
    if not self._modality.is_decoded:
      return value.decode("utf-8")
    name = f"{hashlib.sha256(value).hexdigest()[:32]}{_suffix(value)}"
    path = self.path.with_suffix("") / name
    if not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      with files.atomic_path(path) as new:
        pathlib.Path(new).write_bytes(value)
    return f"{path.parent.name}/{name}"

  def _header(self):
    if not self.path.exists():
      return []
    # Excel writes a byte order mark.
    with open(self.path, newline="", encoding="utf-8-sig", errors="replace") as file:
      return next(csv.reader(file), [])

  def _is_cut(self):
    """Whether the last line has no end, as some editors leave it."""
    content = self.path.read_bytes() if self.path.exists() else b""
    return bool(content) and not content.endswith((b"\n", b"\r"))


def _suffix(value):
  """Returns the usual suffix of an encoded image; what is none of these is a JPEG file for all readers."""
  starts = {b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}
  return next((suffix for start, suffix in starts.items() if value.startswith(start)), ".jpg")
