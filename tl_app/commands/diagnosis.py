"""What a training tells of its model and data after the evaluation: slices, and labels that are probably wrong."""

import numpy as np

from tl_app.assets import cache_root
from tl_app.checking import noise, summary
from tl_app.checking import review as review_lib
from tl_app.config import Config
from tl_app.data import corrections
from tl_app.data.corrections import Proposal
from tl_app.data.splitting import splits
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.data.splitting.splits import Splits
from tl_app.errors import UserError
from tl_app.features.frozen import Features
from tl_app.report import slices
from tl_app.report.slices.measure import LEAST
from tl_app.training.answered import Answered
from tl_app.workdir import Record

# Examples by features by classes. A review of as many training labels takes about 5 s of one core; more are left to
# `tl_app.check`.
MAX_WORK = 5e7


def check_groups(config: Config, split: Splits) -> None:
  """Raises `UserError` if --select_metric=worst_group finds no group in the validation split."""
  groups = slices.of_user(split.examples.take(split.validation))
  if config.select_metric == "worst_group" and slices.worst_group(groups, lambda mask: 0.0) is None:
    raise UserError(
      f"--select_metric=worst_group: no group has {LEAST} of the {len(split.validation):,} validation examples, "
      "or there is one group only: raise --validation_fraction, or remove the flag"
    )


def diagnosed(metrics: dict, task, tested: Answered, features: Features, config: Config, record: Record) -> dict:
  """Returns the metrics with what is found out, and writes slices_test.csv and label_review.csv.

  Args:
    metrics: the content of metrics.json.
    task: the calibrated `Task`.
    tested: the answers of the selected model on the test split.
    features: the `Features` of the run.
    config: the `Config`.
    record: the `Record` of the run.

  Returns:
    The metrics: "test" also has "slices", see `slices.measured`, and there is "label_review": {"test", "train": number
    of labels that are probably wrong, "not_reviewed": {split: reason}}.
  """
  with record.clock("evaluate"):
    test, index = features.data.examples.take(tested.rows), DecodedImageIndex(cache_root(config.cache_dir))
    outputs = task.answers.outputs(tested.logits)
    found = slices.measured(task, test, outputs, index, record.paths.slices)
    review = _review_labels(task, tested, outputs, features, record.paths.label_review)
  return metrics | {"test": metrics["test"] | found, "label_review": review}


def _review_labels(task, tested, outputs, features, path):
  data = features.data
  subject = summary.subject(data.examples, data.split, task)
  fault = _fault(task)
  not_reviewed = {split: fault for split in ("test", "train") if fault}
  of_train = [] if fault else _train_fault(task, features)
  if of_train:
    not_reviewed["train"] = of_train
  proposals = [review_lib.conflicts(subject)] if task.single_label else []
  if "test" not in not_reviewed:
    proposals.append(_of_test(task, tested, outputs))
  if "train" not in not_reviewed:
    units = splits.units(data.examples, subject.fingerprints)[data.train]
    labels, rows = data.examples.labels[data.train], features.frozen()[data.train]
    found, *_ = noise.review(labels, rows, units, np.full(len(labels), "train"))
    proposals.append(proposal._replace(index=int(data.train[proposal.index])) for proposal in found)
  merged = review_lib.merged(*proposals)
  if task.single_label:
    corrections.write(path, data.examples, merged)
  counts = {split: sum(proposal.split == split for proposal in merged) for split in ("test", "train")}
  return counts | ({"not_reviewed": not_reviewed} if not_reviewed else {})


def _fault(task):
  """Returns why no labels can be compared with predictions, or ""."""
  return noise.missing_package() if task.single_label else f"--task={task.name} has no check of it"


def _train_fault(task, features):
  """Returns why the labels of the training split are not compared with predictions, or ""."""
  if not features.model.backbone.pretrained:
    return "the frozen features of random weights tell nothing"
  work = len(features.data.train) * features.model.backbone.feature_size * len(task.names)
  return "python -m tl_app.check: it takes longer than a run should" if work > MAX_WORK else ""


def _of_test(task, tested, outputs):
  """Returns the test labels that are probably wrong by the probabilities of the model, which has not seen them."""
  reason = "the selected model"
  return [
    Proposal(int(tested.rows[i]), task.names[label], confidence, reason, "test")
    for i, label, confidence in noise.issues(tested.targets, outputs)
  ]
