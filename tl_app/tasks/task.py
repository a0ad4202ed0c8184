"""`Task`: the one face of what labels mean. Nothing outside of this package knows which task it works for."""

import abc
import dataclasses

import numpy as np

from tl_app.errors import RunFailed, UserError


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """How label cells become targets, how logits are read, and what a model is worth. A subclass is one --task.

  `tasks.choose` gives one that knows the form of the cells; `fit` learns from the training labels; `settle` from the
  validation logits of the model that ships. `record` holds all of it.

  Attributes:
    names: of the logits, in their order.
    name: of --task.
    score: key of the figure, higher is better, that validation, the ladder and the headline go by.
    shown: {key of a figure: its title}, the score first.
    baseline_name, baseline_title: a word, and in words: the best answer that does not look at the input.
    loss_title: what the loss is, with its unit.
    test_title: the test that compares two rungs.
    solvers: choices of --probe_solver that fit.
    mixes: whether --mixup and --cutmix fit: targets are shares of classes.
    imbalances: choices of --imbalance that fit, besides none.
    smooths: whether --label_smoothing means anything.
    columns: of predictions_test.csv.
    named: whether `classes` are names that a person gave.
    exclusive: whether an example has one class and no other.
    by_word: whether the answer is one for each word of a text.
  """

  names: tuple = ()

  name = score = baseline_name = baseline_title = loss_title = test_title = ""
  shown = {}
  solvers = ("adamw",)
  mixes = False
  imbalances = ()
  smooths = named = True
  exclusive = by_word = False
  columns = ("id", "label", "prediction", "score")

  @classmethod
  def read(cls, config, labels):
    """Returns the task, not yet fitted, of `config` and all label cells, str [n]."""
    return cls()

  def accept(self, examples):
    """Returns the task.

    Raises:
      UserError: the inputs of `Examples` do not fit their labels.
    """
    return self

  @abc.abstractmethod
  def classes(self, labels):
    """Returns for each of the label cells, str [n], what a split is stratified by: a tuple of str; () is a class too.

    Raises:
      UserError: a cell that the task cannot read.
    """

  @abc.abstractmethod
  def fit(self, labels):
    """Returns the task that knows `names`, and what else it learns from the training labels, str [n]."""

  @abc.abstractmethod
  def targets(self, labels):
    """Returns the targets of label cells, str [n]: an array whose first axis is n."""

  def settle(self, logits, targets):
    """Returns the task that reads logits as is best on the validation split."""
    return self

  @abc.abstractmethod
  def dense(self, targets):
    """Returns the targets as the best possible outputs, float32 [n, outputs]."""

  def initial_bias(self, targets):
    """Returns the bias, float32 [outputs], that a fresh head starts from."""
    return np.zeros(len(self.names), np.float32)

  @abc.abstractmethod
  def loss(self, label_smoothing):
    """Returns the loss for `compile`, of targets and logits."""

  def watched(self):
    """Returns the Keras metrics of the training batches."""
    return []

  @abc.abstractmethod
  def score_of(self, outputs, targets):
    """Returns the score of outputs, float [n, outputs]: logits, or what `dense` gives."""

  @abc.abstractmethod
  def mean_loss(self, logits, targets):
    """Returns the mean loss of logits, without label smoothing."""

  def figures(self, logits, targets):
    """Returns {"loss", the score}: what is looked at while training."""
    return {"loss": self.mean_loss(logits, targets), self.score: self.score_of(logits, targets)}

  @abc.abstractmethod
  def p_value(self, first, second, targets):
    """Returns the p-value of the test that two models, by their logits on the same examples, are equally good."""

  @abc.abstractmethod
  def estimators(self, solver):
    """Returns [(strength, scikit-learn estimator)] of --probe_solver=solver, from the most regularised."""

  @abc.abstractmethod
  def weights(self, estimator):
    """Returns (kernel [features, outputs], bias [outputs]) of a fitted estimator."""

  @abc.abstractmethod
  def outputs(self, logits):
    """Returns float64 [n, outputs]: what the export answers, in one array (probabilities, or values)."""

  @abc.abstractmethod
  def measure(self, logits, targets):
    """Returns the metrics of one split as plain Python values.

    Raises:
      UserError: the split is empty.
      RunFailed: a logit is NaN or infinite.
    """

  @abc.abstractmethod
  def baseline(self, train_targets, targets):
    """Returns what metrics.json says of the best answer that does not look at the input."""

  @classmethod
  def baseline_score(cls, metrics):
    """Returns the score of the baseline in metrics.json, or None."""
    return metrics.get("baseline", {}).get(cls.score)

  @abc.abstractmethod
  def rows(self, ids, labels, outputs):
    """Yields a row of predictions_test.csv, see `columns`, for each example."""

  @abc.abstractmethod
  def evidence(self, rows):
    """Returns float [n, k] of rows of predictions_test.csv, dicts: the score depends on their sum alone."""

  @abc.abstractmethod
  def score_from(self, sums):
    """Returns the score [..] of sums, float [.., k], of `evidence`."""

  @classmethod
  def legible(cls, cell, value):
    """Returns a label or prediction of `rows` as a person reads it beside its input, one of `Examples.inputs`."""
    return cell

  @abc.abstractmethod
  def serve(self, logits, inputs):
    """Returns the outputs of the export's signature: {name: tensor}; in-graph ops only.

    Args:
      logits: of the network, float32 [batch, ..].
      inputs: raw, string [batch, ..].
    """

  @abc.abstractmethod
  def answers(self, served, inputs):
    """Yields a dict, ready for JSON, for each of `inputs` (list of bytes) of {name: array} from the export."""

  @abc.abstractmethod
  def compare(self, served, outputs):
    """Returns the proof, a dict: how {name: array} from the export differ from `outputs` of the evaluation."""

  def kept(self):
    """Returns {field: value} for JSON of what the task has learnt."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def record(self):
    """Returns what `tasks.restore` makes the task of again, ready for JSON."""
    return {"name": self.name, "score": self.score, **self.kept()}

  def described(self):
    """Returns the beginning of a line about the data: "3 classes"."""
    return f"{len(self.names)} classes"

  def _usable(self, logits, targets):
    logits = np.asarray(logits)
    if not len(targets):
      raise UserError("there are no examples to evaluate: give a test split that is not empty")
    if not np.isfinite(logits).all():
      raise RunFailed("the model's logits hold NaN or infinity: lower --learning_rate")
    return logits
