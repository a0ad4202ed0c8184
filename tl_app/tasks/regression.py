"""One or more numbers an example: squared error on standardised targets, answers in their own units."""

import dataclasses
import json
import typing

import numpy as np
import sklearn.linear_model

from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.tasks import cells, explained, prediction_sets, solvers, statistics, wording
from tl_app.tasks.answers import Answers
from tl_app.tasks.label_codec import OOD_SCORE, LabelCodec
from tl_app.tasks.loss_spec import LossSpec
from tl_app.tasks.metrics import Metrics, usable_logits
from tl_app.tasks.task import Task

# A split is stratified by this number of bins of equal size, with at least so many examples in each.
BINS, FEWEST = 10, 20
# Targets that have a plain sentence of their own.
_MOST_TARGETS = 3


@dataclasses.dataclass(frozen=True)
class RegressionCodec(LabelCodec):
  """Targets are float32 [n, targets]: standardised by the mean and the standard deviation of the training labels.

  Attributes:
    mean: of the training labels, one for each target.
    deviation: their standard deviation, one for each target.
    coverage: share of the examples whose interval holds the truth; 0 if there are no intervals.
    half_widths: of the intervals, in the unit of the labels, one for each target; () if there are none.
  """

  mean: tuple = ()
  deviation: tuple = ()
  coverage: float = 0.0
  half_widths: tuple = ()

  def configure(self, config, labels):
    names = tuple(name.strip() for name in config.label_columns.split(",") if name.strip())
    return dataclasses.replace(self, names=names or (config.label_column,))

  def classes(self, labels):
    values = self.values(labels)
    amounts = ((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), statistics.TINY)).mean(axis=1)
    shown = values[:, 0] if len(self.names) == 1 else amounts
    bins = int(np.clip(len(labels) // FEWEST, 2, BINS))
    edges = np.unique(np.quantile(amounts, np.arange(1, bins) / bins))
    bin_of = np.searchsorted(edges, amounts, side="right")
    names = {}
    for number in np.unique(bin_of):
      members = shown[bin_of == number]
      names[number] = f"{number + 1:02}: {members.min():.4g} to {members.max():.4g}"
    return [(names[number],) for number in bin_of]

  def fit(self, labels):
    values = self.values(labels)
    if np.abs(values).max() > np.finfo(np.float32).max:
      raise UserError(
        f"a label is {np.abs(values).max():.3g}, more than 32 bits hold: give the labels in a larger unit"
      )
    constant = [name for name, deviation in zip(self.names, values.std(axis=0)) if not deviation > 0]
    if constant:
      raise UserError(f"all training labels of {constant[0]!r} are {values[0, self.names.index(constant[0])]:g}")
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return dataclasses.replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

  def targets(self, labels):
    return ((self.values(labels) - self.mean) / self.deviation).astype(np.float32)

  def as_probabilities(self, targets):
    """Returns the targets: here the outputs of a perfect model are no probabilities but the values themselves."""
    return targets

  def calibrate(self, logits, targets, config):
    errors = np.abs(np.float64(logits) - targets) * self.deviation
    widths = [prediction_sets.quantile(column, config.coverage) for column in errors.T] if config.coverage else []
    # With too few examples no finite interval is wide enough.
    usable = bool(widths) and bool(np.isfinite(widths).all())
    return dataclasses.replace(self, coverage=config.coverage, half_widths=tuple(widths) if usable else ())

  def describe(self):
    return f"{len(self.names)} target{'s' if len(self.names) > 1 else ''}"

  def values(self, labels) -> np.ndarray:
    """Returns the numbers in the cells, float64 [n, targets]."""
    rows = []
    for label in labels:
      values = [cells.number(value) for value in cells.listed(label) or [label]]
      if None in values or len(values) != len(self.names):
        raise UserError(
          f"--task=regression takes {len(self.names)} number(s) an example, but a label is {label!r}: correct it, or "
          "choose another --task"
        )
      rows.append(values)
    return np.array(rows, np.float64)

  @property
  def columns(self) -> tuple[tuple[str, str], ...]:
    """Columns of predictions_test.csv: (label, prediction) of each target."""
    if len(self.names) == 1:
      return (("label", "prediction"),)
    return tuple((f"{name} label", f"{name} prediction") for name in self.names)


@dataclasses.dataclass(frozen=True)
class SquaredError(LossSpec):
  """Mean squared error of the standardised targets."""

  title: typing.ClassVar = "squared error in standard deviations of the training labels"

  def loss(self, label_smoothing):
    import keras

    return keras.losses.MeanSquaredError()

  def mean_loss(self, logits, targets):
    return float(np.mean(np.square(np.float64(logits) - targets)))

  def probe_estimators(self, solver):
    return [(alpha, sklearn.linear_model.Ridge(alpha=alpha)) for alpha in solvers.RIDGE_STRENGTHS]

  def baseline_estimator(self):
    return sklearn.linear_model.Ridge(alpha=1.0, solver="sparse_cg")

  def probe_weights(self, estimator):
    return np.atleast_2d(estimator.coef_).T, np.atleast_1d(estimator.intercept_)


@dataclasses.dataclass(frozen=True)
class RegressionMetrics(Metrics):
  """R2 decides; of several targets every metric is the mean."""

  primary_metric: typing.ClassVar = "r2"
  metric_titles: typing.ClassVar = {
    "r2": "R2",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "rmse": "RMSE",
    "mae": "MAE",
  }
  baseline_name: typing.ClassVar = "mean"
  baseline_title: typing.ClassVar = "the mean of the training labels"
  no_interval: typing.ClassVar = "no interval: fewer than ten examples"

  def score(self, outputs, targets):
    return float(np.mean(self._metrics(outputs, targets)["r2"]))

  def p_value(self, first, second, targets):
    one, two = (np.square(np.float64(logits) - targets).mean(axis=1, keepdims=True) for logits in (first, second))
    return statistics.randomisation([(one, two, lambda sums: sums[..., 0])])

  def compute_metrics(self, logits, targets, seed=0):
    """Returns the metrics of one split as plain Python values, ready for JSON.

    Args:
      logits: float [n, targets], standardised; finite; n is at least 1.
      targets: float [n, targets], standardised.
      seed: seed of the bootstrap.

    Returns:
      A dict: "num_examples"; "loss" (see `LossSpec.title`); "r2", "pearson", "spearman", "rmse" and "mae" (the last two
      in the unit of the labels), each the mean over the targets and with "_ci95", the 95 % percentile bootstrap
      interval over examples (of Spearman's over the ranks in the whole split), or None with fewer than ten examples;
      "per_target" {name: {the same metrics, without intervals}}; "intervals" if there are any. A correlation with a
      constant is 0. If all labels are the same, R2 is 0, or 1 if all answers are right.
    """
    logits = usable_logits(logits, targets)
    of_targets = self._metrics(logits, targets)
    metrics = {"num_examples": len(targets), "loss": self.loss.mean_loss(logits, targets)}
    metrics |= {key: float(of_targets[key].mean()) for key in self.metric_titles}
    columns = self._columns(logits, targets)
    for key in self.metric_titles:
      metrics[f"{key}_ci95"] = (
        statistics.bootstrap(columns, lambda sums, key=key: self._from_sums(sums)[key].mean(axis=-1), seed)
        if len(targets) >= 10
        else None
      )
    metrics["per_target"] = {
      name: {key: float(of_targets[key][index]) for key in self.metric_titles}
      for index, name in enumerate(self.codec.names)
    }
    return metrics | self._intervals(logits, targets, seed)

  def _intervals(self, logits, targets, seed):
    """Returns {"intervals": {"coverage", "per_target"}}, or {}."""
    if not self.codec.half_widths:
      return {}
    held = np.abs(np.float64(logits) - targets) * self.codec.deviation <= self.codec.half_widths
    return {
      "intervals": {
        "coverage": self.codec.coverage,
        "per_target": {
          name: {
            "half_width": width,
            "measured": float(column.mean()),
            "measured_ci95": statistics.accuracy_interval(int(column.sum()), len(column), seed),
          }
          for name, width, column in zip(self.codec.names, self.codec.half_widths, held.T)
        },
      }
    }

  def headline(self, test):
    if len(test["per_target"]) > 1:
      return f"{100 * max(test['r2'], 0):.0f} % of the variation explained"
    return f"off by {test['mae']:.3g} on average"

  def describe(self, test):
    variation = f"{100 * max(test['r2'], 0):.0f} % of the variation of the labels (R2)"
    if len(test["per_target"]) > 1:
      return [f"On average over {len(test['per_target'])} numbers it explains {variation}."] + [
        f"For “{name}” it is off by {row['mae']:.3g} on average." for name, row in test["per_target"].items()
      ][:_MOST_TARGETS]
    return [
      f"A prediction is off by {test['mae']:.3g} on average, in the unit of the labels.",
      f"The predictions explain {variation}.",
    ]

  def describe_against(self, test, baseline):
    # A mean over targets of different units says nothing.
    if len(test["per_target"]) > 1 or "mae" not in baseline["baseline"]:
      return super().describe_against(test, baseline)
    return (
      f"off by {test['mae']:.3g}, against {baseline['baseline']['mae']:.3g} of always answering {self.baseline_title}"
    )

  def describe_failures(self, test):
    name, row = min(test["per_target"].items(), key=lambda item: item[1]["r2"])
    return [f"Worst at “{name}”: R2 {row['r2']:.2f}."] if len(test["per_target"]) > 1 else []

  def baseline(self, train_targets, targets):
    constant = np.repeat(train_targets.mean(axis=0, keepdims=True), len(targets), axis=0)
    of_targets = self._metrics(constant, targets)
    return {"baseline": {key: float(of_targets[key].mean()) for key in ("r2", "rmse", "mae")}}

  def sufficient_statistics(self, rows):
    truth, answer = (
      np.array([[float(row[name]) for name in names] for row in rows]) for names in zip(*self.codec.columns)
    )
    # By the mean of these rows: two models of other training labels have the same statistics of the truth.
    truth, answer = truth - truth.mean(axis=0), answer - truth.mean(axis=0)
    return np.concatenate([np.ones_like(truth), truth, truth**2, (answer - truth) ** 2], axis=1)

  def score_from_statistics(self, sums):
    n, truth, truth_squared, squared = np.split(sums, 4, axis=-1)
    total = truth_squared - truth**2 / np.maximum(n, 1)
    return self._r2(n, total, squared).mean(axis=-1)

  def _columns(self, logits, targets):
    """Returns float64 [n, 13 targets], of whose sums `_from_sums` computes the metrics."""
    scale = np.array(self.codec.deviation)
    truth, answer = np.float64(targets) * scale, np.float64(logits) * scale
    truth, answer = truth - truth.mean(axis=0), answer - truth.mean(axis=0)
    error = answer - truth
    columns = [np.ones_like(error), np.abs(error), error**2]
    for one, two in ((truth, answer), (statistics.ranks(truth), statistics.ranks(answer))):
      columns += [one, one**2, two, two**2, one * two]
    return np.concatenate(columns, axis=1)

  def _from_sums(self, sums):
    """Returns {key of a metric: float [.., targets]} of sums of `_columns`."""
    n, absolute, squared, *moments = np.split(sums, 13, axis=-1)
    total = moments[1] - moments[0] ** 2 / n
    return {
      "r2": self._r2(n, total, squared),
      "pearson": statistics.correlation(n, *moments[:5]),
      "spearman": statistics.correlation(n, *moments[5:]),
      "rmse": np.sqrt(squared / n),
      "mae": absolute / n,
    }

  def _r2(self, n, total, squared):
    # Labels that are all the same leave rounding; scikit-learn's answer to these: 1 if all is right, else 0.
    least = statistics.TINY * n * np.square(self.codec.deviation)
    alike = (squared <= least).astype(np.float64)
    return np.where(total > least, 1 - squared / np.where(total > least, total, 1.0), alike)

  def _metrics(self, logits, targets):
    return self._from_sums(self._columns(logits, targets).sum(axis=0))


@dataclasses.dataclass(frozen=True)
class RegressionAnswers(Answers):
  """A number for each target, in its own unit."""

  score_title: typing.ClassVar = "value"

  @property
  def columns(self):
    """Of predictions_test.csv; "error" is the distance, of several targets their mean in standard deviations."""
    return ("id", *(name for pair in self.codec.columns for name in pair), "error")

  def outputs(self, logits):
    return np.float64(logits) * self.codec.deviation + self.codec.mean

  def rows(self, ids, labels, outputs):
    labels = self.codec.values(labels)
    scale = np.ones(1) if len(self.codec.names) == 1 else np.array(self.codec.deviation)
    errors = (np.abs(outputs - labels) / scale).mean(axis=1)
    for example_id, truth, answer, error in zip(ids, labels, outputs, errors):
      yield example_id, *(f"{value:.9g}" for pair in zip(truth, answer) for value in pair), f"{error:.9g}"

  def more_cells(self, outputs, ood_scores=None):
    cells, one = {}, len(self.codec.names) == 1
    for name, values, width in zip(self.codec.names, outputs.T, self.codec.half_widths):
      for end, bound in (("low", values - width), ("high", values + width)):
        cells[end if one else f"{name} {end}"] = [f"{value:.9g}" for value in bound]
    return cells | super().more_cells(outputs, ood_scores)

  def signature_outputs(self, logits, inputs):
    import tensorflow as tf

    deviation, mean = (tf.constant(values, tf.float32) for values in (self.codec.deviation, self.codec.mean))
    values = logits * deviation + mean
    if not self.codec.half_widths:
      return {"values": values}
    widths = tf.constant(self.codec.half_widths, tf.float32)
    return {"values": values, "intervals": tf.stack([values - widths, values + widths], axis=-1)}

  def decode(self, served, inputs):
    intervals = served.get("intervals", [None] * len(served["values"]))
    for row, bounds in zip(served["values"], intervals):
      answer = {"values": {name: float(value) for name, value in zip(self.codec.names, row)}}
      yield answer if bounds is None else answer | {"intervals": dict(zip(self.codec.names, bounds.tolist()))}

  def explained(self, logits, names=()):
    values = self.outputs(np.asarray(logits)[None])[0]
    chosen = explained.positions(names, self.explainable) or range(len(values))
    return [explained.Explained(self.codec.names[i], (i,), float(values[i])) for i in chosen]

  def score(self, logits, place):
    (target,) = place
    return logits[:, target] * self.codec.deviation[target] + self.codec.mean[target]

  @property
  def label_columns(self):
    return ("label",) if len(self.codec.names) == 1 else self.codec.names

  def label_cells(self, answer):
    return [f"{value:.6g}" for value in answer["values"].values()]

  def describe_answer(self, answer):
    bounds = answer.get("intervals", {})
    return "; ".join(
      f"{name}: {value:.4g}" + (f", {bounds[name][0]:.4g} to {bounds[name][1]:.4g}" if name in bounds else "")
      for name, value in answer["values"].items()
    )

  def check_labels(self, cells, inputs):
    self.codec.values([json.dumps(list(cells)) if len(cells) > 1 else cells[0]])

  def parity(self, served, outputs):
    difference = (np.abs(served["values"] - outputs) / self.codec.deviation).max()
    return {
      "num_examples": len(outputs),
      "max_value_difference": float(difference) if np.isfinite(difference) else 1.0,
    }

  def is_equal(self, parity, tolerance):
    return parity["max_value_difference"] <= tolerance

  def describe_parity(self, parity):
    return (
      f"{number_of(parity['num_examples'], 'test example')} answered by a new process, largest difference "
      f"{parity['max_value_difference']:.0e} standard deviations"
    )

  def error(self, row):
    return float(row["error"])

  def mistake(self, row):
    return self.error(row)

  def describe_errors(self, shown, wrong, total):
    return f"The table shows the largest errors: {shown} of {total:,} test examples."

  def describe_failures(self, rows):
    return wording.of_errors([(float(row["label"]), float(row["error"])) for row in rows if "label" in row])


_CODEC = RegressionCodec()
_LOSS = SquaredError(_CODEC)
REGRESSION = Task(
  name="regression",
  codec=_CODEC,
  loss=_LOSS,
  metrics=RegressionMetrics(_CODEC, _LOSS),
  answers=RegressionAnswers(_CODEC),
  has_class_names=False,
  supports_label_smoothing=False,
  probe_solvers=("adamw", "ridge"),
  closed_solver="ridge",
  answer_flags=("coverage", "min_accept", "accept_by", "ood_score", "ood_dataset"),
  accept_by=(OOD_SCORE,),
)
