"""Decisions: the label that probabilities lead to where mistakes have different costs, or a class needs a precision."""

import csv
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable

import numpy as np

from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.tasks import selective, statistics

# Name of the column of a table of costs for an answer that is not accepted.
REJECT = "reject"


@dataclasses.dataclass(frozen=True)
class Costs:
  """The costs of answers.

  Attributes:
    classes: the true classes, one for each row.
    answers: the answers, one for each column; the last one may be `REJECT`.
    rows: costs, 0 or more.
  """

  classes: tuple[str, ...]
  answers: tuple[str, ...]
  rows: tuple[tuple[float, ...], ...]

  def sorted_as(self, names: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    """Returns the rows and columns in the order of the class names, the costs of rejecting, if any, last.

    Raises:
      UserError: the table has other classes.
    """
    unknown = sorted({*self.classes, *self.answers} - {*names, REJECT})
    if unknown:
      known = ", ".join(names[:10]) + (", .." if len(names) > 10 else "")
      raise UserError(f"--costs: there is no class {unknown[0]!r} in train: use {known}")
    missing = [name for name in names if name not in self.classes]
    if missing:
      raise UserError(f"--costs: the class {missing[0]!r} is missing: add its row and its column")
    extra = [self.answers.index(REJECT)] if REJECT in self.answers and REJECT not in names else []
    columns = [self.answers.index(name) for name in names] + extra
    rows = [self.rows[self.classes.index(name)] for name in names]
    return tuple(tuple(row[column] for column in columns) for row in rows)


def read_costs(path: str | pathlib.Path) -> Costs:
  """Reads a table of costs: a row for each true class, a column for each answer, and optionally one named "reject".

  The first line has the names of the answers after an empty cell, every other line the true class and its costs.

  Raises:
    UserError: there is no such file, it is not square, or a cost is not a number of 0 or more.
  """
  what = f"--costs={path}"
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      first = file.readline()
      file.seek(0)
      # Spreadsheets of some languages separate by semicolons.
      rows = csv.reader(file, delimiter=";" if ";" in first and "," not in first else ",")
      lines = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{what} cannot be read ({error}): give a CSV file, with a row for each true class") from None
  if len(lines) < 2:
    raise UserError(f"{what} has no costs: give a line of answers, then a line for each true class")
  answers, classes = tuple(lines[0][1:]), tuple(line[0] for line in lines[1:])
  for names, place in ((answers, "the first line"), (classes, "the first column")):
    twice = [name for name in names if names.count(name) > 1]
    if twice:
      raise UserError(f"{what}: {place} names {twice[0]!r} twice: remove one")
  if {*answers} - {REJECT} != {*classes} - {REJECT} or not {*classes} <= {*answers}:
    odd = sorted({*answers, *classes} - ({*answers} & {*classes}) - {REJECT} or {REJECT})[0]
    raise UserError(
      f"{what} is not square: {odd!r} has no row or no column; give the same classes as rows and as columns, and "
      f"optionally the column {REJECT!r}"
    )
  return Costs(classes, answers, tuple(_cost_row(line, answers, what) for line in lines[1:]))


def _cost_row(line, answers, what):
  if len(line) != len(answers) + 1:
    raise UserError(
      f"{what}: the row of {line[0]!r} has {number_of(len(line) - 1, 'cost')}, not {len(answers)}: complete it"
    )
  try:
    row = tuple(float(cell) for cell in line[1:])
  except ValueError:
    row = (-1.0,)
  if not all(0 <= cost < np.inf for cost in row):
    raise UserError(f"{what}: the row of {line[0]!r} holds a cost that is no number of 0 or more: correct it")
  return row


def read_precisions(text: str) -> dict[str, float]:
  """Returns {class: precision} of --min_precision, such as "spam:0.99,fraud:0.9".

  Raises:
    UserError: it has another form.
  """
  found, rest = {}, text.strip()
  while rest:
    # The name of a class may have commas and colons: it ends before the first colon that a number follows.
    match = re.match(r"(.+?):\s*(\d*\.?\d+)\s*(?:,\s*|$)", rest, re.DOTALL)
    if not match or not 0 < float(match[2]) < 1:
      raise UserError(f"--min_precision={text}: {rest!r} is no class with a precision between 0 and 1: use spam:0.99")
    found[match[1].strip()] = float(match[2])
    rest = rest[match.end() :]
  return found


def check_precisions(text: str, names: tuple[str, ...]) -> dict[str, float]:
  """Returns `read_precisions` of a flag; raises `UserError` if a class is not among `names`."""
  found = read_precisions(text)
  unknown = [name for name in found if name not in names]
  if unknown:
    known = ", ".join(names[:10]) + (", .." if len(names) > 10 else "")
    raise UserError(f"--min_precision={text}: there is no class {unknown[0]!r} in train: use {known}")
  return found


def in_order(wanted: dict[str, float], names: tuple[str, ...]) -> tuple[float, ...]:
  """Returns the wanted precision of each of `names`, 0 for none, or () if there are none."""
  return tuple(wanted.get(name, 0.0) for name in names) if wanted else ()


@dataclasses.dataclass(frozen=True)
class Decision:
  """How the probabilities of the classes lead to a label: by default the most probable class.

  Attributes:
    costs: of `Costs.sorted_as`; the label is the answer with the lowest expected cost. () for none.
    floors: one for each class, which is answered only if its probability is at least this; () for none.
  """

  costs: tuple[tuple[float, ...], ...] = ()
  floors: tuple[float, ...] = ()

  def values(self, probabilities):
    """Returns [n, classes] of probabilities, NumPy array or float32 tensor [n, classes]: the label has the highest."""
    if self.costs:
      costs = np.array(self.costs, probabilities.dtype.name if isinstance(probabilities, np.ndarray) else np.float32)
      return -(probabilities @ costs[:, : len(self.costs)])
    if self.floors:
      # A class below its floor comes after all others.
      return probabilities - (1 - _as_float(probabilities >= np.array(self.floors, np.float32)))
    return probabilities

  def choose(self, probabilities: np.ndarray) -> np.ndarray:
    """Returns the positions of the labels, int [n], of probabilities, float [n, classes]."""
    return self.values(probabilities).argmax(axis=1)

  def distances(self, probabilities: np.ndarray) -> np.ndarray:
    """Returns float [n]: how far the probabilities, float [n, classes], are from another label."""
    ranked = np.sort(self.values(probabilities), axis=1)
    gaps = (ranked[:, -1] - ranked[:, -2]) / (max(map(max, self.costs)) or 1.0 if self.costs else 1.0)
    if not any(self.floors):
      return gaps
    # A class without a floor has 0, which changes no answer.
    floors = np.where(np.array(self.floors) > 0, np.array(self.floors, np.float32), np.inf)
    return np.minimum(gaps, np.abs(probabilities - floors).min(axis=1))

  @property
  def rejects(self) -> bool:
    """Whether an answer may cost more than to reject."""
    return bool(self.costs) and len(self.costs[0]) > len(self.costs)

  def margins(self, probabilities, scores, threshold: float):
    """Returns [n]: how far each answer is above the limit for accepted ones, arrays or float32 tensors.

    Args:
      probabilities: [n, classes].
      scores: those of the labels, [n].
      threshold: least score, unless the table of costs has the costs of rejecting.
    """
    if not self.rejects:
      return scores - threshold
    values = self.values(probabilities)
    costs = np.array(self.costs, probabilities.dtype.name if isinstance(probabilities, np.ndarray) else np.float32)
    best = values.max(axis=1) if isinstance(values, np.ndarray) else _reduce_max(values)
    return best + (probabilities @ costs[:, -1:])[:, 0]

  def paid(self, labels: np.ndarray, accepted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns what each answer costs, float [n].

    Args:
      labels: int [n], the answers.
      accepted: bool [n]; one that is not costs what rejecting costs.
      targets: int [n], the true classes.
    """
    costs = np.array(self.costs)
    return np.where(accepted, costs[targets, labels], costs[targets, -1])


def _as_float(condition):
  if isinstance(condition, np.ndarray):
    return condition.astype(np.float64)
  import tensorflow as tf

  return tf.cast(condition, tf.float32)


def _reduce_max(values):
  import tensorflow as tf

  return tf.reduce_max(values, axis=1)


def fit_floors(precisions: tuple[float, ...], probabilities: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
  """Returns the `Decision.floors` with which classes have the wanted precisions, see `selective.threshold_for_error`.

  Args:
    precisions: of `in_order`.
    probabilities: of the validation split, float [n, classes].
    targets: int [n], the true classes.
  """
  answers, floors = probabilities.argmax(axis=1), []
  for number, precision in enumerate(precisions):
    chosen = answers == number
    scores, right = probabilities[chosen, number], targets[chosen] == number
    floors.append(selective.threshold_for_error(scores, right, 1 - precision) if precision else 0.0)
  return tuple(floors)


def measure_costs(
  decision: Decision,
  chosen: np.ndarray,
  most_probable: np.ndarray,
  targets: np.ndarray,
  accepted: np.ndarray,
  seed: int = 0,
) -> dict:
  """Returns what answers cost, ready for JSON.

  Args:
    decision: the `Decision`.
    chosen: int [n], the labels.
    most_probable: int [n], the most probable classes.
    targets: int [n], the true classes.
    accepted: bool [n].
    seed: of the interval.

  Returns:
    A dict: "mean" cost of an answer, "most_probable" (the same if the label were the most probable class), the
    "difference" of the two with "difference_ci95", and "changed" (share of the answers that are another label or are
    not accepted).
  """
  paid, plain = decision.paid(chosen, accepted, targets), decision.paid(most_probable, np.ones_like(accepted), targets)
  differences = np.stack([paid - plain, np.ones(len(targets))], axis=1)
  return {
    "mean": float(paid.mean()),
    "most_probable": float(plain.mean()),
    "difference": float((paid - plain).mean()),
    "difference_ci95": statistics.bootstrap(differences, lambda sums: sums[..., 0] / sums[..., 1], seed),
    "changed": float(np.mean((chosen != most_probable) | ~accepted)),
  }


def measure_precisions(
  classes: Iterable[tuple[str, float, float]],
  of_class: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray | None]],
  seed: int = 0,
) -> dict:
  """Returns how the classes of --min_precision are answered, ready for JSON.

  Args:
    classes: (name, wanted precision, floor) of each class, see `in_order` and `fit_floors`.
    of_class: function, position of a class -> (which examples it is the answer to, whose it is the truth of, which it
      would be the answer to without its floor), bool [n] each; the last may be None.
    seed: of the intervals.

  Returns:
    {class: {"wanted", "threshold" (None: it is never answered), "answers" (their number), "precision" with
    "precision_ci95" (None without answers), "recall", and "recall_without" the threshold (None if it is not known)}}.
  """
  found = {}
  for number, (name, wanted, floor) in enumerate(classes):
    if not wanted:
      continue
    answered, truth, without = of_class(number)
    hits, count, support = int(np.sum(answered & truth)), int(np.sum(answered)), max(int(np.sum(truth)), 1)
    found[name] = {
      "wanted": wanted,
      "threshold": None if floor >= selective.NEVER else floor,
      "answers": count,
      "precision": hits / count if count else None,
      "precision_ci95": statistics.accuracy_interval(hits, count, seed) if count else None,
      "recall": hits / support,
      "recall_without": None if without is None else int(np.sum(without & truth)) / support,
    }
  return found
