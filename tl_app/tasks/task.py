"""`Task`: what labels mean. It is a record of four parts and of capabilities.

`LabelCodec` turns label cells into targets and holds all that is learned from the training labels. `LossSpec` has the
loss and the scikit-learn solvers of a linear probe, `Metrics` the metrics of a split, the baseline and the paired
test, `Answers` the predictions file, the signature of the export and its check. Code outside this package asks for a
capability and never for the name of the task.
"""

import abc
import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from tl_app.errors import RunFailed, UserError


@dataclasses.dataclass(frozen=True)
class LabelCodec(abc.ABC):
  """Reads label cells, the text that a reader gives for the label of an example.

  Its fields are all that a task learns; each is a JSON value or a tuple.

  Attributes:
    names: names of the outputs, in the order of the logits. Empty before `fit`.
  """

  names: tuple = ()

  def configure(self, config, labels: Sequence[str]) -> "LabelCodec":
    """Returns the codec for the form of the cells.

    Args:
      config: the `Config` of the run.
      labels: all label cells, str [n].

    Raises:
      UserError: a flag does not fit the task.
    """
    return self

  def input_error(self, examples) -> str:
    """Returns why the inputs of `Examples` do not fit their labels, or ""."""
    return ""

  @abc.abstractmethod
  def classes(self, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the classes of each label cell, by which splits are stratified; () is a class too.

    Raises:
      UserError: the task cannot read a cell.
    """

  @abc.abstractmethod
  def fit(self, labels: Sequence[str]) -> "LabelCodec":
    """Returns the codec that has learned `names` and its other fields from the training labels, str [n]."""

  @abc.abstractmethod
  def targets(self, labels: Sequence[str]) -> np.ndarray:
    """Returns the targets of label cells, str [n]: an array whose first axis is n.

    Raises:
      UserError: a label is unknown.
    """

  @abc.abstractmethod
  def as_probabilities(self, targets: np.ndarray) -> np.ndarray:
    """Returns the targets as the outputs of a perfect model, float32 [n, outputs]."""

  def tune_thresholds(self, logits: np.ndarray, targets: np.ndarray) -> "LabelCodec":
    """Returns the codec with the decision thresholds that are best on the validation split.

    Args:
      logits: of the selected model, float [n, outputs].
      targets: of the validation split.
    """
    return self

  def describe(self) -> str:
    """Returns the beginning of a line about the data, like "3 classes"."""
    return f"{len(self.names)} classes"


@dataclasses.dataclass(frozen=True)
class LossSpec(abc.ABC):
  """What training minimises.

  Attributes:
    codec: the `LabelCodec` of the task.
    title: what the loss is, with its unit.
  """

  codec: LabelCodec

  title: typing.ClassVar[str] = ""

  def initial_bias(self, targets: np.ndarray) -> np.ndarray:
    """Returns the bias, float32 [outputs], from which a new head starts."""
    return np.zeros(len(self.codec.names), np.float32)

  @abc.abstractmethod
  def loss(self, label_smoothing: float) -> Callable:
    """Returns the loss for `compile`, a function of (targets, logits)."""

  def weighted_loss(self, label_smoothing: float, imbalance: str, targets: np.ndarray) -> Callable:
    """Returns the loss of --imbalance, a function of (targets, logits).

    Args:
      label_smoothing: share of the target that is spread over the classes.
      imbalance: one of `Task.imbalances`.
      targets: of the training examples, whose classes are counted.
    """
    raise NotImplementedError(f"{type(self).__name__} has no loss for --imbalance={imbalance}")

  def keras_metrics(self) -> list:
    """Returns the Keras metrics that are computed on the training batches."""
    return []

  @abc.abstractmethod
  def mean_loss(self, logits: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean loss of logits, without label smoothing."""

  @abc.abstractmethod
  def probe_estimators(self, solver: str) -> list[tuple[float, typing.Any]]:
    """Returns [(strength, scikit-learn estimator)] of a probe solver, the most regularised first."""

  @abc.abstractmethod
  def probe_weights(self, estimator) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kernel [features, outputs], bias [outputs]) of a fitted estimator."""


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

  @abc.abstractmethod
  def baseline(self, train_targets: np.ndarray, targets: np.ndarray) -> dict:
    """Returns what metrics.json holds about the constant baseline: learned on train, measured on `targets`."""

  def baseline_score(self, metrics: Mapping) -> float | None:
    """Returns the primary metric of the constant baseline in the content of metrics.json, or None."""
    return metrics.get("baseline", {}).get(self.primary_metric)

  @abc.abstractmethod
  def sufficient_statistics(self, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Returns float [n, k] of rows of predictions_test.csv; the primary metric depends on their sum only."""

  @abc.abstractmethod
  def score_from_statistics(self, sums: np.ndarray) -> np.ndarray:
    """Returns the primary metric [..] of sums, float [.., k], of `sufficient_statistics`."""


@dataclasses.dataclass(frozen=True)
class Answers(abc.ABC):
  """How predictions are written, exported, read and compared.

  Attributes:
    codec: the `LabelCodec` of the task.
  """

  codec: LabelCodec

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

  def format_label(self, cell: str, value) -> str:
    """Returns a label or a prediction of `rows` for people, who see it beside its input.

    Args:
      cell: the label or the prediction.
      value: the input, one of `Examples.inputs`.
    """
    return cell


@dataclasses.dataclass(frozen=True)
class Task:
  """One --task: four parts and its capabilities.

  A task is the same kind of object before and after fitting; `fit` and `tune_thresholds` return new ones.

  ```python
  task = tasks.SINGLE_LABEL.fit(["cat", "dog", "cat"])
  task.codec.targets(["dog"])  # array([1], dtype=int32)
  task.metrics.compute_metrics(logits, targets)["accuracy"]
  ```

  Attributes:
    name: of --task.
    codec: the `LabelCodec`.
    loss: the `LossSpec`.
    metrics: the `Metrics`.
    answers: the `Answers`.
    per_token: whether there is one answer for each word of a text.
    single_label: whether an example has exactly one class.
    has_class_names: whether `LabelCodec.classes` are names that the user gave.
    uses_separator: whether --label_separator has an effect.
    supports_label_smoothing: whether --label_smoothing has an effect.
    supports_mixup: whether --mixup and --cutmix can be used: targets may be shares of classes.
    probe_solvers: the values of --probe_solver that can be used.
    imbalances: the values of --imbalance that can be used, besides none.
  """

  name: str
  codec: LabelCodec
  loss: LossSpec
  metrics: Metrics
  answers: Answers
  per_token: bool = False
  single_label: bool = False
  has_class_names: bool = True
  uses_separator: bool = False
  supports_label_smoothing: bool = True
  supports_mixup: bool = False
  probe_solvers: tuple[str, ...] = ("adamw",)
  imbalances: tuple[str, ...] = ()

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the outputs, in the order of the logits."""
    return self.codec.names

  def fit(self, labels: Sequence[str]) -> "Task":
    """Returns the task that has learned its names and the like from the training labels, str [n]."""
    return self._with(self.codec.fit(labels))

  def tune_thresholds(self, logits: np.ndarray, targets: np.ndarray) -> "Task":
    """Returns the task with the decision thresholds that are best on the validation split."""
    return self._with(self.codec.tune_thresholds(logits, targets))

  def configure(self, config, labels: Sequence[str]) -> "Task":
    """Returns the task for the form of the label cells, see `LabelCodec.configure`."""
    return self._with(self.codec.configure(config, labels))

  def check_inputs(self, examples) -> None:
    """Checks that the inputs of `Examples` fit their labels.

    Raises:
      UserError: they do not.
    """
    error = self.codec.input_error(examples)
    if error:
      raise UserError(error)

  def with_codec(self, **fields) -> "Task":
    """Returns the task with some fields of its codec replaced.

    Raises:
      TypeError: the codec has no such field.
    """
    return self._with(dataclasses.replace(self.codec, **fields))

  def get_config(self) -> dict:
    """Returns what `tasks.from_config` makes the task from, ready for JSON."""
    fields = {field.name: getattr(self.codec, field.name) for field in dataclasses.fields(self.codec)}
    return {"name": self.name, "primary_metric": self.metrics.primary_metric, **fields}

  def _with(self, codec):
    loss = dataclasses.replace(self.loss, codec=codec)
    metrics = dataclasses.replace(self.metrics, codec=codec, loss=loss)
    return dataclasses.replace(
      self, codec=codec, loss=loss, metrics=metrics, answers=dataclasses.replace(self.answers, codec=codec)
    )


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
