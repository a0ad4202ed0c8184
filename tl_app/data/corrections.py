"""--corrections: a table of decisions about labels, applied when examples are read. The data stay as they are."""

import collections
import csv
import dataclasses
import hashlib
import json
import pathlib
import typing
from collections.abc import Iterable

from tl_app import files
from tl_app.data.examples import Examples, brief, strings
from tl_app.errors import UserError, suggestion

if typing.TYPE_CHECKING:
  from tl_app.tasks.task import Task

# Decisions of the last column but one. An empty one changes nothing, as "keep".
KEEP, ACCEPT, DROP = "keep", "accept", "drop"
DECISIONS = ("", KEEP, ACCEPT, DROP)
# Columns of a table of proposed changes; that of the input is named after it: text, text_pair, image.
COLUMNS = ("id", "split", "label", "proposed_label", "confidence", "reason", "decision", "content")
# Hexadecimal digits of the hash in the column "content", and what stands before them: a spreadsheet would take one of
# 800 hashes, such as 12345678901e2345, for a number and round it.
_DIGITS, _HASH = 16, "sha256:"


class Correction(typing.NamedTuple):
  """One row of the table.

  Attributes:
    line: its number in the file, from 1.
    id: of the example.
    label: the label that the example had when the table was written, or None.
    proposed_label: the label that "accept" gives it.
    decision: one of `DECISIONS`.
    content: the beginning of the content hash of the example, or "".
  """

  line: int
  id: str
  label: str | None
  proposed_label: str
  decision: str
  content: str


class Proposal(typing.NamedTuple):
  """A label that is probably wrong.

  Attributes:
    index: position of the example.
    label: the label that it should probably have.
    confidence: probability that the model gives the proposed label, 0 to 1.
    reason: why, in a few words.
    split: name of its split.
  """

  index: int
  label: str
  confidence: float
  reason: str
  split: str


def written(text: str) -> str:
  """Returns a text as it is written into a table: a file name that is not UTF-8 is escaped."""
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write(path: str | pathlib.Path, examples: Examples, proposals: Iterable[Proposal]) -> None:
  """Writes the table of proposed changes as UTF-8 CSV, atomically. A person fills its column "decision".

  Args:
    path: the file.
    examples: the `Examples`.
    proposals: of these examples, the surest first.
  """
  inputs = {
    name: column.values
    for name, column in examples.inputs.columns.items()
    if any(isinstance(value, str) for value in column.values)
  }
  with files.atomic_path(path) as new, open(new, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([COLUMNS[0], *inputs, *COLUMNS[1:]])
    for index, label, confidence, reason, split in proposals:
      values = [value[index] if isinstance(value[index], str) else "" for value in inputs.values()]
      facts = [
        split,
        examples.labels[index],
        label,
        f"{confidence:.3f}",
        reason,
        "",
        _HASH + examples.hashes[index][:_DIGITS],
      ]
      writer.writerow([examples.ids[index], *values, *facts])


def read(path: str) -> list[Correction]:
  """Returns the rows of a table of decisions.

  Args:
    path: a CSV file with the columns id, proposed_label and decision; label and content, where they are there, must
      still be those of the examples.

  Raises:
    UserError: there is no such file, it is no such table, or a decision or an id occurs that cannot be applied.
  """
  what = f"--corrections={path}"
  try:
    files.require_regular(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
      first = file.readline()
      file.seek(0)
      # Spreadsheets of some languages separate by semicolons.
      reader = csv.DictReader(file, delimiter=";" if ";" in first and "," not in first else ",")
      missing = {"id", "proposed_label", "decision"} - set(reader.fieldnames or ())
      if missing:
        raise UserError(
          f"{what} has no column {sorted(missing)[0]!r}: write it by python -m tl_app.check --fix=FILE.csv"
        )
      # Spreadsheets write rows of nothing but separators.
      rows = [_row(reader.line_num, cells, what) for cells in reader if any(cells.values())]
  except OSError as error:
    raise UserError(f"{what} cannot be read: {error.strerror}") from None
  except (UnicodeDecodeError, csv.Error):
    raise UserError(f"{what} is not a CSV file in UTF-8: save it as such") from None
  seen = collections.Counter(row.id for row in rows)
  twice = next((row for row in rows if seen[row.id] > 1), None)
  if twice:
    raise UserError(f"{what}, line {twice.line}: the id {twice.id} occurs {seen[twice.id]} times: keep one of its rows")
  return rows


def _row(line, cells, what):
  given = {name: (cells.get(name) or "").strip() for name in ("id", "label", "proposed_label", "decision", "content")}
  decision = given["decision"].lower()
  if decision not in DECISIONS:
    known = f"{', '.join(DECISIONS[1:])}, or empty{suggestion(decision, DECISIONS[1:])}"
    raise UserError(
      f"{what}, line {line}: the decision {decision!r} is none of {known}; "
      f"for another label write it into proposed_label, and {ACCEPT} as the decision"
    )
  return Correction(
    line,
    given["id"],
    given["label"] if cells.get("label") is not None else None,
    given["proposed_label"],
    decision,
    given["content"].removeprefix(_HASH),
  )


def apply(examples: Examples, path: str, task: "Task") -> Examples:
  """Returns the examples with the labels that --corrections replaces, without the examples that it drops.

  Examples of equal content keep one label: a label that is replaced is replaced in all of them. An example that is
  dropped is dropped alone.

  Args:
    examples: the `Examples`.
    path: the file, see `read`.
    task: the `Task` of their labels.

  Raises:
    UserError: as of `read`; an id is not there, an example has changed since the table was written, a proposed label
      is unknown, or examples of equal content get several labels.
  """
  what, rows = f"--corrections={path}", read(path)
  # The cells of the table are stripped too.
  place = {written(id).strip(): index for index, id in enumerate(examples.ids)}
  for row in rows:
    _check(row, examples, place, what)
  _check_labels(examples, rows, task, what)
  wanted = {place[row.id]: row.proposed_label for row in rows if row.decision == ACCEPT}
  dropped = [place[row.id] for row in rows if row.decision == DROP]
  kept = {place[row.id] for row in rows if row.decision == KEEP}
  labels = _with_copies(examples, wanted, kept | set(dropped), what)
  changed = [index for index, label in labels.items() if examples.labels[index] != label]
  new = examples.labels.copy()
  for index, label in labels.items():
    new[index] = label
  decisions = sorted((row.id, row.decision, row.proposed_label) for row in rows if row.decision in (ACCEPT, DROP))
  facts = {
    "file": path,
    "sha256": hashlib.sha256(json.dumps(decisions).encode()).hexdigest(),
    "relabelled": len(changed),
    "dropped": len(dropped),
  }
  copies = len(set(changed) - set(wanted))
  note = f"{what}: labels replaced: {len(changed):,}" + (f", {copies:,} of them of equal contents" if copies else "")
  notes = [*examples.notes, f"{note}; examples dropped: {len(dropped):,}"]
  corrected = dataclasses.replace(examples, labels=new, notes=notes, corrections=facts, classes=None)
  rest = [index for index in range(len(examples)) if index not in set(dropped)]
  if not rest:
    raise UserError(f"{what} drops every example")
  return corrected.take(rest) if dropped else corrected


def _check(row, examples, place, what):
  """Raises `UserError` if the example of a row is gone, or is not what it was when the table was written."""
  where = f"{what}, line {row.line}"
  if row.id not in place:
    raise UserError(f"{where}: {examples.source} has no example {row.id!r}: remove the row, or write the table again")
  index = place[row.id]
  if row.content and not examples.hashes[index].startswith(row.content):
    raise UserError(f"{where}: {row.id} has another content than the table: write the table again")
  if row.label is not None and written(row.label) != written(examples.labels[index]).strip():
    raise UserError(
      f"{where}: {row.id} has the label {brief(examples.labels[index])!r}, not {brief(row.label)!r} as in the table: "
      "write the table again"
    )


def _check_labels(examples, rows, task, what):
  """Raises `UserError` if an accepted label has a class that the data do not have."""
  known = {name for names in task.codec.classes(examples.labels) for name in names}
  for row in rows:
    if row.decision != ACCEPT:
      continue
    where = f"{what}, line {row.line}"
    if not row.proposed_label:
      raise UserError(f"{where}: the proposed label of {row.id} is empty: write one, or {DROP} as the decision")
    try:
      names = task.codec.classes(strings([row.proposed_label]))[0]
    except UserError as error:
      raise UserError(f"{where}: the proposed label of {row.id} cannot be read: {error}") from None
    unknown = [name for name in names if task.has_class_names and name not in known]
    if unknown:
      raise UserError(
        f"{where}: {brief(unknown[0])!r} is none of the {len(known):,} classes of {examples.source}"
        f"{suggestion(unknown[0], sorted(known))}"
      )


def _with_copies(examples, wanted, left, what):
  """Returns {index: new label} of the examples in `wanted`, and of those of equal content.

  Args:
    examples: the `Examples`.
    wanted: {index: new label}.
    left: indices of examples about which the table has another decision.
    what: the beginning of a message.
  """
  by_content = collections.defaultdict(list)
  for index, digest in enumerate(examples.hashes):
    by_content[digest].append(index)
  labels = dict(wanted)
  for index, label in wanted.items():
    for copy in by_content[examples.hashes[index]]:
      other = examples.labels[copy] if copy in left else labels.setdefault(copy, label)
      if other != label:
        raise UserError(
          f"{what}: {examples.ids[index]} and {examples.ids[copy]} are equal, but get the labels {brief(label)!r} and "
          f"{brief(other)!r}: decide the same for both, or drop one"
        )
  return labels
