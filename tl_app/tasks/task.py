"""`Task`: what labels mean. It is a record of four parts and of capabilities.

`LabelCodec` turns label cells into targets and holds all that is learned from the training labels. `LossSpec` has the
loss and the scikit-learn solvers of a linear probe, `Metrics` the metrics of a split, the baseline and the paired
test, `Answers` the predictions file, the signature of the export and its check. Code outside this package asks for a
capability and never for the name of the task.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tl_app.config.groups import AnswerConfig, DataConfig
from tl_app.errors import UserError
from tl_app.tasks import calibration
from tl_app.tasks.answers import Answers
from tl_app.tasks.label_codec import LabelCodec
from tl_app.tasks.loss_spec import LossSpec
from tl_app.tasks.metrics import Metrics


@dataclasses.dataclass(frozen=True)
class Task:
  """One --task: four parts and its capabilities.

  A task is the same kind of object before and after fitting; `fit` and `calibrate` return new ones.

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
    closed_solver: the one of them that --probe_solver=auto takes where nothing needs gradient descent; "" for none.
    imbalances: the values of --imbalance that can be used, besides none.
    answer_flags: the flags of `AnswerConfig` that have an effect.
    accept_by: the values of --accept_by that can be used.
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
  closed_solver: str = ""
  imbalances: tuple[str, ...] = ()
  answer_flags: tuple[str, ...] = ()
  accept_by: tuple[str, ...] = ()

  @property
  def has_typical_examples(self) -> bool:
    """Whether many examples share a label, so that the surest right answer is typical of it."""
    return self.has_class_names and not self.per_token

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the outputs, in the order of the logits."""
    return self.codec.names

  def fit(self, labels: Sequence[str]) -> "Task":
    """Returns the task that has learned its names and the like from the training labels, str [n]."""
    return self._with(self.codec.fit(labels))

  def decide(self, config: AnswerConfig) -> "Task":
    """Returns the fitted task with the costs and precisions of the flags, see `LabelCodec.decide`."""
    return self._with(self.codec.decide(config))

  def calibrate(self, logits: np.ndarray, targets: np.ndarray, config: AnswerConfig) -> "Task":
    """Returns the task that has learned from the validation split, see `LabelCodec.calibrate`."""
    return self._with(self.codec.calibrate(logits, targets, config))

  def cross_fitted(self, logits: np.ndarray, targets: np.ndarray, config: AnswerConfig) -> dict | None:
    """Returns `Metrics.calibration` of answers that were calibrated on other examples, in folds.

    Args:
      logits, targets, config: as of `LabelCodec.calibrate`.

    Returns:
      The dict, or None if the task has none or there are fewer examples than folds.
    """
    if len(targets) < calibration.FOLDS:
      return None
    # Sets and intervals have no part in it.
    config = dataclasses.replace(config, coverage=0.0)
    fold_of, calibrated = calibration.folds(len(targets)), np.array(logits, np.float64)
    for fold in range(calibration.FOLDS):
      inside = fold_of == fold
      calibrated[inside] = self.codec.calibrate(logits[~inside], targets[~inside], config).calibrated(logits[inside])
    return self.metrics.calibration(calibrated, targets)

  def calibrated_loss(self, logits: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean loss of logits after they have been calibrated on the same examples.

    It compares models that will be calibrated: a strongly regularised one is less sure than it could be. On banking77
    with ten texts a class the strength with the lowest calibrated loss is 0.2 points better than the one with the
    lowest loss.
    """
    codec = self.codec.calibrate(logits, targets, AnswerConfig(coverage=0.0))
    return self.loss.mean_loss(codec.calibrated(np.asarray(logits, np.float64)), targets)

  def configure(self, config: DataConfig, labels: Sequence[str]) -> "Task":
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
