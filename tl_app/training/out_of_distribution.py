"""Fits the out-of-distribution score of the selected model, measures it, and chooses what is accepted by it."""

import dataclasses

import numpy as np
import sklearn.metrics

from tl_app.config import Config
from tl_app.config.groups import AnswerConfig
from tl_app.data.examples import strings
from tl_app.data.splitting.splits import Splits
from tl_app.features.frozen import Features
from tl_app.model import heads, inference, ood
from tl_app.model.model import Model
from tl_app.model.ood import OodScore
from tl_app.tasks import selective, statistics
from tl_app.tasks.label_codec import OOD_SCORE
from tl_app.tasks.task import Task
from tl_app.training import unlabelled
from tl_app.training.answered import Answered
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
    validation: the answers on the validation split, with their scores.
    test: those on the test split.
  """

  score: OodScore
  validation: Answered
  test: Answered


def check(config: Config, features: Features, record: Record) -> None:
  """Checks that --ood_dataset, if it is given, can be read.

  Raises:
    UserError: it cannot, or it holds another modality than the data.
  """
  if config.ood_dataset:
    modality = features.data.examples.modality
    unlabelled.check(config, "ood_dataset", modality, record.paths.corpus, MOST)


def fit(
  config: AnswerConfig, selected: Candidate, held: Answered, tested: Answered, features: Features
) -> Fitted | None:
  """Returns the `Fitted` score, which the model gets too, or None if no flag asks for it.

  Args:
    config: the `AnswerConfig`.
    selected: the selected `Candidate`.
    held: its answers on examples that it has not learnt from, see `Candidate.answered`.
    tested: its answers on the test split.
    features: the `Features` of the run, whose model holds the values of the candidate.
  """
  if not config.needs_ood:
    return None
  data, model, certainty = features.data, features.model, features.model.task.answers.certainty
  # The held-out examples of cross-validation are training examples too, among which the references are.
  held = held.take(np.isin(held.rows, data.validation))

  def features_of(rows):
    return features.frozen()[rows] if selected.name in HEADS else features.predict(model.features, rows)

  known = features_of(held.rows)
  model.ood = ood.fit(features_of(_references(data.examples, data.train)), known, certainty(held.logits))
  of_held = model.ood.score(known, certainty(held.logits))
  of_test = model.ood.score(features_of(tested.rows), certainty(tested.logits))
  return Fitted(
    model.ood, dataclasses.replace(held, ood_scores=of_held), dataclasses.replace(tested, ood_scores=of_test)
  )


def _references(examples, train):
  """Returns the rows of training examples that the score compares with, int [k]."""
  assert examples.classes is not None
  return train[ood.spread(examples.classes[train])]


def of_candidate(model: Model, split: Splits, config: AnswerConfig, batch_size: int) -> Model:
  """Returns the model of a candidate that was not selected with a score of its own, if a flag asks for one.

  Args:
    model: the restored `Model`.
    split: the `Splits` of the run.
    config: the `AnswerConfig` of the run.
    batch_size: number of examples per forward pass.
  """
  if not config.needs_ood:
    return model
  task, examples, rows = model.task, split.examples, split.validation
  examples = dataclasses.replace(examples, classes=strings(task.codec.classes(examples.labels.tolist())))

  def features_of(rows):
    return inference.predict(model.features, model.backbone, examples.inputs[rows], batch_size)

  known = features_of(rows)
  logits = heads.logits(model.head, known)
  certainty = task.answers.certainty(logits)
  score = ood.fit(features_of(_references(examples, split.train)), known, certainty)
  targets = task.codec.targets(examples.labels[rows].tolist())
  held = Answered(logits, targets, rows, ood_scores=score.score(known, certainty))
  return dataclasses.replace(model, ood=score, task=accepting(task, held, config))


def accepting(task: Task, held: Answered | None, config: AnswerConfig) -> Task:
  """Returns the calibrated task with the limit of --max_error or --min_accept, if --accept_by asks for the score.

  Args:
    task: the calibrated `Task`.
    held: the answers on the validation split, with their scores; None if there are no scores.
    config: the `AnswerConfig`.
  """
  if held is None or config.accept_by != OOD_SCORE:
    return task
  assert held.ood_scores is not None
  known = 1 - held.ood_scores
  if config.max_error:
    right = task.metrics.right(task.answers.outputs(held.logits), held.targets)
    # Rules refuse --max_error for other tasks.
    assert right is not None
    threshold = selective.threshold_for_error(known, right, config.max_error)
  else:
    threshold = selective.threshold_for_share(known, config.min_accept)
  return task.with_codec(accept_by=OOD_SCORE, accept_threshold=1 - threshold)


def accepted(task: Task, answered: Answered) -> dict:
  """Returns {"selective"} of answers if they are accepted by the score, see `selective.measure`; else {}.

  Args:
    task: what `accepting` returned.
    answered: the answers, with their scores.
  """
  if task.codec.accept_by != OOD_SCORE:
    return {}
  assert answered.ood_scores is not None
  accepted = answered.ood_scores <= task.codec.accept_threshold
  found = selective.measure(accepted, task.metrics.right(task.answers.outputs(answered.logits), answered.targets))
  return {"selective": {"by": OOD_SCORE, "threshold": task.codec.accept_threshold} | found}


def measured(
  metrics: dict, task: Task, fitted: Fitted | None, features: Features, config: Config, record: Record
) -> dict:
  """Returns the metrics with what is measured by the score.

  Args:
    metrics: the content of metrics.json.
    task: what `accepting` returned.
    fitted: what `fit` returned.
    features: the `Features` of the run.
    config: the `Config`.
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
  found = {name: metrics[name] | accepted(task, getattr(fitted, name)) for name in ("test", "validation")}
  if config.ood_dataset:
    found["ood"] = {"dataset": config.ood_dataset} | _compared(task, fitted, features, config, record)
  return metrics | found


def _compared(task, fitted, features, config, record):
  with record.clock("evaluate"):
    found = unlabelled.features_of(config, "ood_dataset", features.model, record.paths.corpus, MOST)
  logits = heads.logits(features.model.head, found)
  outside = fitted.score.score(found, task.answers.certainty(logits))
  splits = fitted.validation, fitted.test
  scores = {"ood_score": [1 - values for values in (*(part.ood_scores for part in splits), outside)]}
  if task.single_label:
    answers = [task.answers.outputs(values) for values in (*(part.logits for part in splits), logits)]
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
