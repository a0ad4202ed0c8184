"""`Answers`: how predictions are written, exported, read and compared."""

import abc
import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tl_app.tasks.explained import LOG_ODDS, Explained
from tl_app.tasks.label_codec import LabelCodec


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

  @abc.abstractmethod
  def signature_outputs(self, logits, inputs) -> dict[str, typing.Any]:
    """Returns the outputs of the export's signature, {name: tensor}, with TensorFlow operations only.

    Args:
      logits: of the network, float32 [batch, ..].
      inputs: raw inputs, string [batch, ..].
    """

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
      f"{parity['num_examples']:,} test examples answered by a new process, {parity['label_flips']} labels differ, "
      f"largest probability difference {parity['max_probability_difference']:.0e}"
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
    return (
      f"{wrong:,} of {total:,} test examples are wrong; the table shows the {shown} wrong predictions with the highest "
      "scores."
    )

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
