"""`Answers`: how predictions are written, exported, read and compared."""

import abc
import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tl_app.errors.counts import number_of
from tl_app.tasks.explained import LOG_ODDS, Explained
from tl_app.tasks.label_codec import OOD_SCORE, LabelCodec

# Outputs of the signature that any task may have.
SHARED = ("accept", "ood_score")
# Nearer to the limit of accepted answers than float32 rounding, an answer may be on either side.
ACCEPT_TIE = 1e-5
# Largest difference between the out-of-distribution score of the export and of the evaluation: it has the rounding
# errors of float32 of a sum, which are large where nearly all features are alike.
OOD_TOLERANCE = 2e-3


def highest(logits):
  """Returns the highest of the logits of each example, [n] of a NumPy array or tensor [n, outputs]."""
  if isinstance(logits, np.ndarray):
    return logits.max(axis=1)
  import tensorflow as tf

  return tf.reduce_max(logits, axis=1)


@dataclasses.dataclass(frozen=True)
class Answers(abc.ABC):
  """How predictions are written, exported, read and compared.

  Attributes:
    codec: the `LabelCodec` of the task.
    score_title: what `score` returns.
    right: what an answer is for which `error` is None, after "answers are".
    sure: "score" of `rows` in words, with {percent} for its value, after "when".
  """

  codec: LabelCodec
  score_title: typing.ClassVar[str] = LOG_ODDS

  right: typing.ClassVar[str] = "right"
  sure: typing.ClassVar[str] = "it is at least {percent} sure"

  @property
  def columns(self) -> tuple[str, ...]:
    """Columns of predictions_test.csv: the id first, a number last."""
    return ("id", "label", "prediction", "score")

  @abc.abstractmethod
  def outputs(self, logits: np.ndarray) -> np.ndarray:
    """Returns float64 [n, outputs]: what the export answers, in one array (probabilities or values)."""

  @abc.abstractmethod
  def rows(self, ids: Iterable[str], labels: Sequence[str], outputs: np.ndarray) -> Iterator[tuple]:
    """Yields a row of predictions_test.csv, see `columns`, for each example."""

  def more_cells(self, outputs: np.ndarray, ood_scores: np.ndarray | None = None) -> dict[str, list[str]]:
    """Returns {column: cells} of what predictions_test.csv has besides `columns`: what the export answers if asked to.

    "accept" is true or false, "ood_score" a number, "prediction_set" a JSON list of classes, "low" and "high" the
    interval of a number.

    Args:
      outputs, ood_scores: as of `margins`.
    """
    margins, cells = self.margins(outputs, ood_scores), {}
    if margins is not None:
      cells["accept"] = ["true" if margin >= 0 else "false" for margin in margins]
    if ood_scores is not None:
      cells["ood_score"] = [f"{score:.9g}" for score in ood_scores]
    return cells

  @abc.abstractmethod
  def signature_outputs(self, logits, inputs) -> dict[str, typing.Any]:
    """Returns the outputs of the export's signature, {name: tensor}, with TensorFlow operations only.

    Args:
      logits: of the network, float32 [batch, ..].
      inputs: raw inputs, string [batch, ..].
    """

  def certainty(self, logits):
    """Returns how well the network knows an input, [n] of a NumPy array or tensor [n, outputs]; None if it cannot tell.

    It is the highest logit, before calibration (Hendrycks et al. 2022).
    """
    return

  def margins(self, outputs: np.ndarray, ood_scores: np.ndarray | None = None) -> np.ndarray | None:
    """Returns how far each answer is above the limit for accepted ones, float [n]; accepted are those from 0.

    Args:
      outputs: of `outputs`.
      ood_scores: float [n], see `model.ood`; needed if `LabelCodec.accept_by` is `OOD_SCORE`.

    Returns:
      The margins, or None if no limit was chosen.
    """
    if self.codec.accept_by != OOD_SCORE:
      return None
    assert ood_scores is not None
    return self.codec.accept_threshold - ood_scores

  def accept_output(self, outputs: Mapping[str, typing.Any]) -> dict[str, typing.Any]:
    """Returns {"accept": bool [batch]} of the tensors of the signature if their "ood_score" decides it, else {}."""
    if self.codec.accept_by != OOD_SCORE:
      return {}
    return {"accept": outputs["ood_score"] <= self.codec.accept_threshold}

  @abc.abstractmethod
  def decode(self, served: Mapping[str, np.ndarray], inputs: Sequence[bytes]) -> Iterator[dict]:
    """Yields an answer, ready for JSON, for each of `inputs` from the outputs of the export's signature."""

  @property
  def explainable(self) -> Sequence[str]:
    """The names that `explained` knows: classes, targets or entity types."""
    return self.codec.names

  @abc.abstractmethod
  def explained(self, logits: np.ndarray, names: Sequence[str] = ()) -> list[Explained]:
    """Returns what is explained of the answer to one example: each class, target or entity that is answered.

    Args:
      logits: of the example, float [..].
      names: classes, targets or entity types that are explained in place of those that are answered.

    Raises:
      UserError: the model does not know a name.
    """

  @abc.abstractmethod
  def score(self, logits, place: tuple[int, ...]):
    """Returns the scores that are explained, a tensor [batch]: calibrated log-odds, or values in the labels' unit.

    Args:
      logits: of the network, tensor [batch, ..].
      place: as of `Explained`.
    """

  def decode_all(self, served: Mapping[str, np.ndarray], inputs: Sequence[bytes]) -> Iterator[dict]:
    """Yields what `decode` does, with the outputs that all tasks share: "accept" and "ood_score"."""
    shared = {name: served[name].tolist() for name in SHARED if name in served}
    for number, answer in enumerate(self.decode(served, inputs)):
      yield answer | {name: values[number] for name, values in shared.items()}

  def shared_parity(
    self, served: Mapping[str, np.ndarray], outputs: np.ndarray, ood_scores: np.ndarray | None = None
  ) -> dict:
    """Returns `parity` with how the outputs differ that all tasks share, ready for JSON.

    Args:
      served: outputs of the export's signature.
      outputs, ood_scores: as of `margins`.

    Returns:
      `parity`, with "max_ood_difference" and "accept_differences", the number of answers that the export accepts and
      the evaluation does not or the other way round, where there are such outputs.
    """
    found = self.parity(served, outputs)
    if ood_scores is not None:
      found["max_ood_difference"] = float(np.abs(served["ood_score"] - ood_scores).max())
    margins = self.margins(outputs, ood_scores)
    if margins is not None:
      tie = OOD_TOLERANCE if self.codec.accept_by == OOD_SCORE else ACCEPT_TIE
      found["accept_differences"] = int(np.sum((served["accept"] != (margins >= 0)) & (np.abs(margins) > tie)))
    return found

  def describe_shared_parity(self, parity: Mapping) -> str:
    """Returns the result of the export check in words, with the outputs that all tasks share."""
    text = self.describe_parity(parity)
    if "max_ood_difference" in parity:
      text += f", largest difference of the ood_score {parity['max_ood_difference']:.0e}"
    if parity.get("accept_differences"):
      text += f", {parity['accept_differences']} accepted otherwise"
    return text

  def is_shared_equal(self, parity: Mapping, tolerance: float) -> bool:
    """Whether the export answers like the evaluation, by `is_equal` and the outputs that all tasks share."""
    far = parity.get("max_ood_difference", 0.0) > OOD_TOLERANCE
    return self.is_equal(parity, tolerance) and not far and not parity.get("accept_differences")

  @property
  def label_columns(self) -> tuple[str, ...]:
    """Columns of the label in a table of examples."""
    return ("label",)

  @abc.abstractmethod
  def label_cells(self, answer: Mapping) -> list[str]:
    """Returns an answer as label cells, one for each of `label_columns`.

    Args:
      answer: of `decode`.
    """

  @abc.abstractmethod
  def describe_answer(self, answer: Mapping) -> str:
    """Returns an answer in plain words, such as "positive, 88 % sure".

    Args:
      answer: of `decode`.
    """

  def check_labels(self, cells: Sequence[str], inputs: Sequence[str]) -> None:
    """Checks the label of one example, as a person wrote it; a class need not be known.

    Args:
      cells: one for each of `label_columns`.
      inputs: the text of the example, or those of a pair.

    Raises:
      UserError: it does not fit the task.
    """
    self.codec.classes(cells)

  @abc.abstractmethod
  def parity(self, served: Mapping[str, np.ndarray], outputs: np.ndarray) -> dict:
    """Returns how the answers of the export differ from those of the evaluation, ready for JSON.

    Args:
      served: outputs of the export's signature.
      outputs: what `outputs` returned in the evaluation.
    """

  def is_equal(self, parity: Mapping, tolerance: float) -> bool:
    """Whether the export answers like the evaluation: no label differs, probabilities by at most `tolerance`."""
    return not parity["label_flips"] and parity["max_probability_difference"] <= tolerance

  def describe_parity(self, parity: Mapping) -> str:
    """Returns the result of the export check in words."""
    return (
      f"{number_of(parity['num_examples'], 'test example')} answered by a new process, "
      f"{number_of(parity['label_flips'], 'label differs', 'labels differ')}, largest probability difference "
      f"{parity['max_probability_difference']:.0e}"
    )

  def error(self, row: Mapping[str, str]) -> float | None:
    """Returns how bad the prediction in a row of predictions_test.csv is, or None if it is right.

    The worse of two wrong predictions is the one with the higher score.

    Raises:
      KeyError, ValueError: this is no such row.
    """
    return None if row["label"] == row["prediction"] else float(row["score"])

  def mistake(self, row: Mapping[str, str]) -> float:
    """Returns what a mean over examples counts of the prediction in a row of predictions_test.csv: 1 if it is wrong."""
    return float(self.error(row) is not None)

  def describe_errors(self, shown: int, wrong: int, total: int) -> str:
    """Returns what the table of the worst errors shows, as a sentence.

    Args:
      shown: number of rows of the table.
      wrong: number of rows of predictions_test.csv for which `error` is not None.
      total: number of all its rows.
    """
    told = f"Wrong predictions: {wrong:,} of {total:,} test examples."
    return f"{told} The table shows those with the highest scores: {shown}."

  def describe_failures(self, rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Returns where answers are wrong that `Metrics.describe_failures` cannot know, in plain sentences.

    Args:
      rows: of predictions_test.csv.
    """
    return []

  def format_label(self, cell: str, value) -> str:
    """Returns a label or a prediction of `rows` for people, who see it beside its input.

    Args:
      cell: the label or the prediction.
      value: the input, one of `Examples.inputs`.
    """
    return cell
