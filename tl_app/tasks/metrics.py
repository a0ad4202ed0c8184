"""`Metrics`: how good a model is."""

import abc
import dataclasses
import typing
from collections.abc import Mapping, Sequence

import numpy as np

from tl_app.errors import RunFailed, UserError
from tl_app.tasks import statistics, wording
from tl_app.tasks.label_codec import LabelCodec
from tl_app.tasks.loss_spec import LossSpec

# Classes whose F1 differ by less are equally hard.
_ALIKE = 0.03


@dataclasses.dataclass(frozen=True)
class Metrics(abc.ABC):
  """How good a model is.

  Attributes:
    codec: the `LabelCodec` of the task.
    loss: the `LossSpec` of the task.
    primary_metric: key of the metric, higher is better, by which models are selected and compared.
    metric_titles: {key of a metric: its title}, the primary metric first.
    baseline_name: key of the constant baseline among the candidates.
    baseline_title: the constant baseline in words, to be read after "accuracy of ".
    test_title: name of the paired test of two models.
    counts_right_answers: whether the primary metric is the share of the examples that are answered right.
    class_titles: {key: title} of what "per_class" holds beside precision, recall, F1 and support.
    class_note: a sentence about the table of classes, or "".
    support_title: what "support" counts.
    no_interval: why an interval of `compute_metrics` may be None.
  """

  codec: LabelCodec
  loss: LossSpec

  primary_metric: typing.ClassVar[str] = ""
  metric_titles: typing.ClassVar[Mapping[str, str]] = {}
  baseline_name: typing.ClassVar[str] = ""
  baseline_title: typing.ClassVar[str] = ""
  test_title: typing.ClassVar[str] = "randomisation test"
  counts_right_answers: typing.ClassVar[bool] = False
  class_titles: typing.ClassVar[Mapping[str, str]] = {}
  class_note: typing.ClassVar[str] = ""
  support_title: typing.ClassVar[str] = "examples"
  no_interval: typing.ClassVar[str] = "no interval: fewer than ten right or ten wrong answers"

  @property
  def primary_title(self) -> str:
    """Title of the primary metric."""
    return self.metric_titles[self.primary_metric]

  @property
  def secondary_titles(self) -> dict[str, str]:
    """{key: title} of the other metrics."""
    return {key: title for key, title in self.metric_titles.items() if key != self.primary_metric}

  @abc.abstractmethod
  def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
    """Returns the primary metric.

    Args:
      outputs: float [n, outputs]: logits, or what `LabelCodec.as_probabilities` returns.
      targets: [n, ..].
    """

  def monitor_metrics(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Returns {"loss", the primary metric}: what is monitored on the validation split during training."""
    return {"loss": self.loss.mean_loss(logits, targets), self.primary_metric: self.score(logits, targets)}

  @abc.abstractmethod
  def p_value(self, first: np.ndarray, second: np.ndarray, targets: np.ndarray) -> float:
    """Returns the p-value of the paired test that two models, given by their logits, are equally good."""

  def compare_losses(self, first: np.ndarray, second: np.ndarray, targets: np.ndarray) -> tuple[float, float] | None:
    """Returns (calibrated loss of the first model less that of the second, p-value of the randomisation test).

    It tells models apart that answer almost the same examples right. None for a task whose primary metric does not
    count right answers.
    """
    return None

  @abc.abstractmethod
  def compute_metrics(self, logits: np.ndarray, targets: np.ndarray, seed: int = 0) -> dict:
    """Returns all metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, outputs], finite; n is at least 1.
      targets: [n, ..].
      seed: seed of the bootstrap.

    Raises:
      UserError: the split is empty.
      RunFailed: a logit is NaN or infinite.
    """

  def right(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
    """Returns whether each answer is right, bool [n]; None for a task whose answers are not right or wrong.

    Args:
      outputs: of `Answers.outputs`.
      targets: [n, ..].
    """
    return None

  def calibration(self, calibrated: np.ndarray, targets: np.ndarray) -> dict | None:
    """Returns how well the probabilities are calibrated, ready for JSON; None for a task without probabilities.

    Args:
      calibrated: of `LabelCodec.calibrated`, float [n, outputs].
      targets: [n, ..].

    Returns:
      A dict: "loss", "brier" (mean squared distance of the probabilities from the truth, summed over the classes of a
      single label) and those of `calibration.quality`.
    """
    return None

  @abc.abstractmethod
  def baseline(self, train_targets: np.ndarray, targets: np.ndarray) -> dict:
    """Returns what metrics.json holds about the constant baseline: learned on train, measured on `targets`."""

  def baseline_score(self, metrics: Mapping) -> float | None:
    """Returns the primary metric of the constant baseline in the content of metrics.json, or None."""
    return metrics.get("baseline", {}).get(self.primary_metric)

  @abc.abstractmethod
  def headline(self, test: Mapping) -> str:
    """Returns how good the model is in a few plain words, such as "96 of 100 right".

    Args:
      test: what `compute_metrics` returned.
    """

  @abc.abstractmethod
  def describe(self, test: Mapping) -> list[str]:
    """Returns how good the model is in plain sentences, for people who know no metric.

    Args:
      test: as of `headline`.
    """

  def describe_against(self, test: Mapping, baseline: Mapping) -> str:
    """Returns the primary metric of the model beside that of the constant baseline, a part of a sentence.

    Args:
      test: as of `headline`.
      baseline: the content of metrics.json, see `baseline`.
    """
    value, of_baseline = test[self.primary_metric], self.baseline_score(baseline)
    return f"{self.primary_title} {value:.2f}, against {of_baseline:.2f} of {self.baseline_title}"

  def describe_failures(self, test: Mapping) -> list[str]:
    """Returns for which class the model is worst, in plain sentences.

    A class with fewer than `statistics.FEW` test examples is named only if all have so few.

    Args:
      test: as of `headline`.
    """
    present = {name: row for name, row in test.get("per_class", {}).items() if row["support"]}
    known = {name: row for name, row in present.items() if row["support"] >= statistics.FEW}
    if not present or min(row["f1"] for row in present.values()) == 1:
      return []
    ranked = sorted((known or present).items(), key=lambda item: item[1]["f1"])
    (name, row), (_, best) = ranked[0], ranked[-1]
    recall, precision = wording.of_class(row)
    sentences = [f"Worst at “{name}”: it finds {recall} of these; of its answers “{name}” {precision} are right."]
    if not row["recall"]:
      sentences = [f"Worst at “{name}”: it finds none of these."]
    if best["f1"] - row["f1"] < _ALIKE:
      sentences = [f"All classes are about equally hard: F1 from {row['f1']:.2f} to {best['f1']:.2f}."]
    few = len(present) - len(known)
    if few:
      sentences.append(
        f"How good it is at classes with fewer than {statistics.FEW} test {self.support_title} is not known: "
        f"{few:,} of {len(present):,}."
      )
    return sentences

  @abc.abstractmethod
  def sufficient_statistics(self, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Returns float [n, k] of rows of predictions_test.csv; the primary metric depends on their sum only."""

  def decisions(self, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns which classes rows of predictions_test.csv have; None for a task without classes per example.

    Returns:
      (answers, truth), [n, classes] of 0 and 1 both.
    """
    return None

  @abc.abstractmethod
  def score_from_statistics(self, sums: np.ndarray) -> np.ndarray:
    """Returns the primary metric [..] of sums, float [.., k], of `sufficient_statistics`."""


class CountMetrics(Metrics):
  """Metrics whose primary one depends on the sum of counts over the examples, as every F1 does."""

  @abc.abstractmethod
  def counts(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the counts of each example, float [n, k], as `sufficient_statistics` does, see `score`."""

  def score(self, outputs, targets):
    return float(self.score_from_statistics(self.counts(outputs, targets).sum(axis=0)))

  def p_value(self, first, second, targets):
    one, two = (self.counts(logits, targets) for logits in (first, second))
    return statistics.randomisation([(one, two, self.score_from_statistics)])


def usable_logits(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns the logits as an array.

  Raises:
    UserError: there are no targets.
    RunFailed: a logit is NaN or infinite.
  """
  logits = np.asarray(logits)
  if not len(targets):
    raise UserError("there are no examples to evaluate: give a test split that is not empty")
  if not np.isfinite(logits).all():
    raise RunFailed("the model's logits hold NaN or infinity: lower --learning_rate")
  return logits
