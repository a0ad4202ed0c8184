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
from tl_app.training.selection import HEADS
from tl_app.workdir import Record

# Largest number of examples of --ood_dataset.
MOST = 4000
# Share of the validation examples that is accepted where the share of the others that is found is measured.
ACCEPTED = 0.95


@dataclasses.dataclass(frozen=True)
class Fitted:
  """The out-of-distribution score of a run.

  Attributes:
    score: the `OodScore`.
    validation: scores of the validation split, float64 [validation].
    test: scores of the test split, float64 [test].
  """

  score: OodScore
  validation: np.ndarray
  test: np.ndarray


def fit(selected: str, features: Features) -> Fitted:
  """Returns the `Fitted` score of the model with the weights of the candidate `selected`."""
  data, answers = features.data, features.model.task.answers

  def pooled(rows):
    return features.frozen()[rows] if selected in HEADS else features.predict(features.model.features, rows)

  chosen = data.train[ood.spread(data.examples.classes[data.train])]
  of_splits = {}
  for name, rows in (("validation", data.validation), ("test", data.test)):
    found = pooled(rows)
    of_splits[name] = found, answers.certainty(heads.logits(features.model.head, found))
  score = ood.fit(pooled(chosen), *of_splits["validation"])
  return Fitted(score, *(score.score(*of_splits[name]) for name in ("validation", "test")))


def accepting(task: Task, fitted: Fitted, logits: np.ndarray, targets: np.ndarray, config: AnswerConfig) -> Task:
  """Returns the task with the limit of --max_error or --min_accept, if --accept_by asks for the score.

  Args:
    task: the calibrated `Task`.
    fitted: the `Fitted` score.
    logits: of the selected model on the validation split, float [n, outputs].
    targets: of the validation split.
    config: the `AnswerConfig`.
  """
  if config.accept_by != OOD_SCORE:
    return task
  if config.max_error:
    right = task.metrics.right(task.answers.outputs(logits), targets)
    threshold = selective.threshold_for_error(1 - fitted.validation, right, config.max_error)
  else:
    threshold = selective.threshold_for_share(1 - fitted.validation, config.min_accept)
  return task.with_codec(accept_by=OOD_SCORE, accept_threshold=1 - threshold)


def measured(task: Task, scores: np.ndarray, outputs: np.ndarray, targets: np.ndarray) -> dict:
  """Returns {"selective"} of a split if answers are accepted by the score, see `selective.measure`; else {}.

  Args:
    task: what `accepting` returned.
    scores: float64 [n].
    outputs: of `Answers.outputs`.
    targets: [n, ..].
  """
  if task.codec.accept_by != OOD_SCORE:
    return {}
  accepted = task.answers.margins(outputs, scores) >= 0
  found = selective.measure(accepted, task.metrics.right(outputs, targets))
  return {"selective": {"by": OOD_SCORE, "threshold": task.codec.accept_threshold} | found}


def compared(
  task: Task, config: Config, fitted: Fitted, splits: dict[str, np.ndarray], features: Features, record: Record
) -> dict:
  """Returns how well examples of --ood_dataset are told from the test split, ready for JSON.

  Args:
    task: the calibrated `Task`.
    config: the `Config`.
    fitted: the `Fitted` score.
    splits: outputs of the model on "validation" and "test".
    features: the `Features` of the run.
    record: the `Record` of the run.

  Returns:
    A dict: "dataset", "num_examples", and for "ood_score" and, with classes, "probability": "auroc" (0.5: cannot tell
    them apart, 1: always can), "recall" (share of the examples of --ood_dataset that are found where `ACCEPTED` of the
    validation split are accepted) with "recall_ci95", and "accepted" (share of the test split that is accepted then).
  """
  found = unlabelled.features_of(config, "ood_dataset", features.model, record.paths.corpus, MOST)
  logits = heads.logits(features.model.head, found)
  outside = task.answers.outputs(logits)
  scores = {"ood_score": [1 - values for values in (fitted.validation, fitted.test)]}
  scores["ood_score"].append(1 - fitted.score.score(found, task.answers.certainty(logits)))
  if task.single_label:
    scores["probability"] = [values.max(axis=1) for values in (splits["validation"], splits["test"], outside)]
  return {"dataset": config.ood_dataset, "num_examples": len(found)} | {
    name: _told_apart(*values) for name, values in scores.items()
  }


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
