"""Answers inputs one at a time for a person at a browser, explains them, and keeps the answers that were flagged."""

import dataclasses
import html
import logging
import pathlib
import threading
from collections.abc import Callable, Sequence

from tl_app import tasks
from tl_app.commands import exports
from tl_app.commands.flagged import FlaggedTable
from tl_app.commands.predict import Predictor
from tl_app.data.readers import unlabelled
from tl_app.errors import UserError
from tl_app.report import explanations

log = logging.getLogger(__name__)

# Classes whose probabilities are shown.
TOP = 10


@dataclasses.dataclass(frozen=True)
class Shown:
  """What a person sees of one answer.

  Attributes:
    words: the answer in plain words, or why there is none.
    probabilities: the highest ones, {class: probability}; {} of a task without.
    labels: the answer as label cells, see `Answers.label_columns`; empty if there is no answer.
    explanation: an HTML page, or "".
    score: of the answer, or None.
    values: the encoded input.
  """

  words: str
  probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] = ()
  explanation: str = ""
  score: float | None = None
  values: tuple[bytes, ...] = ()


class Session:
  """A loaded model, its explanations, and the table of flagged answers.

  Attributes:
    task: the `Task` of the model.
    modality: name of the modality of its inputs.
    pairs: whether an input is a pair of texts.
    name: of the model, for the title.
    flagged: the `FlaggedTable`.
  """

  def __init__(self, model: str | pathlib.Path, flagged: str, explain: Callable | None = None, trust: bool = False):
    """Loads the model.

    Args:
      model: a finished run, or the directory of an export.
      flagged: path of the table of flagged answers.
      explain: see `explain.opened`; None for no explanations.
      trust: as --trust_backbone.

    Raises:
      UserError: there is no such model, or `flagged` is another table.
    """
    directory = exports.export_of(model)
    facts = exports.read_facts(directory)
    self.task, self.name = tasks.from_config(facts["task"]), pathlib.Path(model).name
    self.modality, self.pairs = facts["modality"], facts["pairs"]
    self.flagged = FlaggedTable(flagged, self.task, self.modality, self.pairs)
    self._predictor, self._explain, self._lock = Predictor(directory, trust), explain, threading.Lock()

  @property
  def explains(self) -> bool:
    """Whether answers come with explanations."""
    return self._explain is not None

  def answer(self, inputs: Sequence) -> Shown:
    """Returns the answer to one input.

    Args:
      inputs: a text, the path of an image, or two texts of a pair; None where nothing was given.
    """
    if not all(inputs):
      return Shown("Give an input first.")
    source = tuple(inputs) if self.pairs else inputs[0]
    try:
      (row,) = unlabelled.from_values([source], self.modality, self.pairs)
    except UserError as error:
      return Shown(f"{error}")
    # One at a time: explanations need much memory.
    with self._lock:
      ((answer,),) = self._predictor.answers(iter([row]), 1, TOP)
      if "error" in answer:
        return Shown(f"No answer: {answer['error']}")
      explanation = explanations.page(self._explain(row)) if self._explain else ""
    answers = self.task.answers
    words = answers.describe_answer(answer)
    return Shown(
      f"{words} (not accepted: too unsure to be used)" if answer.get("accept") is False else words,
      answer.get("probabilities", {}),
      tuple(answers.label_cells(answer)),
      explanation,
      answer.get("score"),
      tuple(row.values),
    )

  def flag(self, shown: Shown | None, labels: Sequence[str]) -> str:
    """Saves an answer with its right label, and returns what to tell the person.

    Args:
      shown: the answer, or None.
      labels: the right label, a cell for each of `Answers.label_columns`.
    """
    if shown is None or not shown.labels:
      return "Ask for an answer first."
    try:
      self.flagged.add(shown.values, labels, " ".join(shown.labels), shown.score)
    except (UserError, OSError) as error:
      return f"Not saved: {error}"
    return f"Saved: {self.flagged.path}; rows: {len(self.flagged):,}. --dataset=table:{self.flagged.path} reads them."


def frame(page: str) -> str:
  """Returns an HTML element that shows a page whose styles do not touch those around it; "" for no page."""
  if not page:
    return ""
  return f'<iframe title="Explanation" sandbox="" class="explanation" srcdoc="{html.escape(page)}"></iframe>'
