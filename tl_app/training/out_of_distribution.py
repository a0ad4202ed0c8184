"""Fits the out-of-distribution score of the selected model, measures it, and chooses what is accepted by it."""

import dataclasses

import numpy as np
import sklearn.metrics

from tl_app.config import Config
from tl_app.config.groups import AnswerConfig
from tl_app.features.frozen import Features
from tl_app.model import heads, ood
from tl_app.model.ood import OodScore
from tl_app.tasks import selective, statistics
from tl_app.tasks.label_codec import OOD_SCORE
from tl_app.tasks.task import Task
from tl_app.training import unlabelled
from tl_app.training.selection import HEADS, Candidate
from tl_app.workdir import Record

# Largest number of examples of --ood_dataset.
MOST = 1000
# Share of the validation examples that is accepted where the share of the others that is found is measured.
ACCEPTED = 0.95


@dataclasses.dataclass(frozen=True)
class Fitted:
  """The out-of-distribution score of a run.

  Attributes:
    score: the `OodScore`.
    validation: scores of the validation split, float64 [validation].
    test: scores of the test split, float64 [test].
    logits: of the validation split, float32 [validation, outputs].
    targets: of the validation split.
    config: the `Config`.
  """

  score: OodScore
  validation: np.ndarray
  test: np.ndarray
  logits: np.ndarray
  targets: np.ndarray
  config: Config


def check(config: Config, features: Features, record: Record) -> None:
  """Checks that --ood_dataset, if it is given, can be read.

  Raises:
    UserError: it cannot, or it holds another modality than the data.
  """
  if config.ood_dataset:
    modality = features.data.examples.modality
    unlabelled.check(config, "ood_dataset", modality, record.paths.corpus, MOST)


def fit(config: Config, selected: Candidate, features: Features) -> Fitted | None:
  """Returns the `Fitted` score, which the model gets too, or None if no flag asks for it.

  Args:
    config: the `Config`.
    selected: the selected `Candidate`.
    features: the `Features` of the run, whose model holds the values of the candidate.
  """
  if not config.answers.needs_ood:
    return None
  data, model = features.data, features.model
  classes = data.examples.classes
  assert classes is not None
  chosen = data.train[ood.spread(classes[data.train])]
  # Of examples that the model has learnt from, the answers of cross-validation count; the references are no such.
  rows, logits = data.validation, selected.logits
  if selected.rows is not None:
    held = np.isin(selected.rows, data.validation)
    rows, logits = selected.rows[held], selected.logits[held]
  validation, test = (_features(selected, features, part) for part in (rows, data.test))
  certainty = model.task.answers.certainty(logits)
  model.ood = ood.fit(_features(selected, features, chosen), validation, certainty)
  test_certainty = model.task.answers.certainty(heads.logits(model.head, test))
  scores = model.ood.score(validation, certainty), model.ood.score(test, test_certainty)
  return Fitted(model.ood, *scores, logits, data.targets[rows], config)


def _features(selected, features, rows):
  if selected.name in HEADS:
    return features.frozen()[rows]
  return features.predict(features.model.features, rows)


def accepting(task: Task, fitted: Fitted | None, config: AnswerConfig) -> Task:
  """Returns the calibrated task with the limit of --max_error or --min_accept, if --accept_by asks for the score."""
  if fitted is None or config.accept_by != OOD_SCORE:
    return task
  if config.max_error:
    right = task.metrics.right(task.answers.outputs(fitted.logits), fitted.targets)
    # Rules refuse --max_error for other tasks.
    assert right is not None
    threshold = selective.threshold_for_error(1 - fitted.validation, right, config.max_error)
  else:
    threshold = selective.threshold_for_share(1 - fitted.validation, config.min_accept)
  return task.with_codec(accept_by=OOD_SCORE, accept_threshold=1 - threshold)


def accepted(task: Task, scores: np.ndarray, outputs: np.ndarray, targets: np.ndarray) -> dict:
  """Returns {"selective"} of a split if answers are accepted by the score, see `selective.measure`; else {}.

  Args:
    task: what `accepting` returned.
    scores: float64 [n].
    outputs: of `Answers.outputs`.
    targets: [n, ..].
  """
  if task.codec.accept_by != OOD_SCORE:
    return {}
  accepted = scores <= task.codec.accept_threshold
  found = selective.measure(accepted, task.metrics.right(outputs, targets))
  return {"selective": {"by": OOD_SCORE, "threshold": task.codec.accept_threshold} | found}


def measured(
  metrics: dict, task: Task, fitted: Fitted | None, outputs: np.ndarray, features: Features, record: Record
) -> dict:
  """Returns the metrics with what is measured by the score.

  Args:
    metrics: the content of metrics.json.
    task: what `accepting` returned.
    fitted: what `fit` returned.
    outputs: of the model on the test split, float64 [test, outputs].
    features: the `Features` of the run.
    record: the `Record` of the run.

  Returns:
    The metrics. "test" and "validation" also have what `accepted` returns, and there is "ood" with --ood_dataset:
    {"dataset", "num_examples", and for "ood_score" and, of one class per example, "probability": "auroc" (0.5: cannot
    tell them from the test split, 1: always can), "recall" (share of the examples of --ood_dataset that are found where
    `ACCEPTED` of the validation split are accepted) with "recall_ci95", and "accepted" (share of the test split that is
    accepted then)}.
  """
  if fitted is None:
    return metrics
  data, validation = features.data, task.answers.outputs(fitted.logits)
  found = {
    "test": metrics["test"] | accepted(task, fitted.test, outputs, data.targets[data.test]),
    "validation": metrics["validation"] | accepted(task, fitted.validation, validation, fitted.targets),
  }
  if fitted.config.ood_dataset:
    found["ood"] = {"dataset": fitted.config.ood_dataset}
    found["ood"] |= _compared(task, fitted, (validation, outputs), features, record)
  return metrics | found


def _compared(task, fitted, of_splits, features, record):
  with record.clock("evaluate"):
    found = unlabelled.features_of(fitted.config, "ood_dataset", features.model, record.paths.corpus, MOST)
  logits = heads.logits(features.model.head, found)
  outside = fitted.score.score(found, task.answers.certainty(logits))
  scores = {"ood_score": [1 - values for values in (fitted.validation, fitted.test, outside)]}
  if task.single_label:
    answers = *of_splits, task.answers.outputs(logits)
    scores["probability"] = [values.max(axis=1) for values in answers]
  return {"num_examples": len(found)} | {name: _told_apart(*values) for name, values in scores.items()}


def _told_apart(validation, test, outside):
  threshold = selective.threshold_for_share(validation, ACCEPTED)
  truth = np.repeat([1, 0], [len(test), len(outside)])
  rejected = int(np.sum(outside < threshold))
  return {
    "auroc": float(sklearn.metrics.roc_auc_score(truth, np.concatenate([test, outside]))),
    "recall": rejected / len(outside),
    "recall_ci95": statistics.accuracy_interval(rejected, len(outside), 0),
    "accepted": float(np.mean(test >= threshold)),
  }
