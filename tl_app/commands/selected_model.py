"""The selected model of a run: its evaluation, and the weights and tasks that are written."""

from collections.abc import Sequence

import numpy as np

from tl_app import files
from tl_app.backbones import tuned
from tl_app.config.groups import AnswerConfig
from tl_app.features.frozen import Features
from tl_app.model import checkpoint, stages
from tl_app.model.model import Model
from tl_app.recipes.phase import Phase
from tl_app.report import predictions
from tl_app.training.selection import HEADS, Candidate, Selection
from tl_app.workdir import Record


def facts(selection: Selection, best: Candidate) -> dict:
  """Returns what metrics.json holds about the selection.

  Args:
    selection: the `Selection`.
    best: the selected `Candidate` with its final values.
  """
  return {
    "candidates": selection.baselines | selection.metrics,
    "selection_reason": selection.reason,
    "selected_phase": best.phase,
  }


def evaluate(task, selected: Candidate, features: Features, record: Record) -> tuple[dict, np.ndarray]:
  """Evaluates the selected model on the validation and test splits and writes the test predictions.

  A model that has learnt from the validation split is measured there by the answers of cross-validation.

  Args:
    task: the calibrated `Task`.
    selected: the selected `Candidate`.
    features: the `Features` of the run, whose model holds the values of the candidate.
    record: the `Record` of the run.

  Returns:
    (the metrics; the outputs of the model on the test split, float64 [test examples, outputs]).
  """
  train_data, metrics, outputs = features.data, {}, {}
  is_probe = selected.name in HEADS
  logits_of = features.head_logits if is_probe else features.logits
  with record.clock("evaluate"):
    for name, rows in (("test", train_data.test), ("validation", train_data.validation)):
      crossed = name == "validation" and selected.targets is not None
      logits = selected.logits if crossed else logits_of(rows)
      targets = selected.targets if crossed else train_data.targets[rows]
      metrics[name] = task.metrics.compute_metrics(logits, targets)
      outputs[name] = task.answers.outputs(logits)
    test = train_data.examples.take(train_data.test)
    rows = task.answers.rows(test.ids, test.labels, outputs["test"])
    predictions.write(record.paths.predictions, task.answers.columns, rows, test.inputs)
  metrics |= task.metrics.baseline(train_data.train_targets, train_data.targets[train_data.test])
  metrics |= {"task": task.name, "primary_metric": task.metrics.primary_metric}
  metrics["validation"] |= selected.estimate
  metrics |= {"selected": "probe" if is_probe else "fine_tuned", "selected_candidate": selected.name}
  return metrics, outputs["test"]


def save(model: Model, task, record: Record) -> None:
  """Writes the weights of the selected model, its task, and its out-of-distribution score if it has one."""
  with files.atomic_path(record.paths.weights) as new:
    checkpoint.write_network(new, model.network)
  if model.ood:
    model.ood.save(record.paths.ood)
  record.write_task(task.get_config())


def save_candidates(
  candidates: list[Candidate], phase_list: Sequence[Phase], features: Features, answers: AnswerConfig, record: Record
) -> None:
  """Writes the weights and the task of every candidate, see `Workdir.candidate`."""
  model = features.model
  changing = [id(variable) for variable in stages.changing(model, phase_list)]
  for candidate in candidates:
    changed = dict(zip(changing, candidate.values))
    directory = record.paths.candidate(candidate.name)
    with files.atomic_path(directory / tuned.WEIGHTS) as new:
      checkpoint.write(new, checkpoint.arrays(model, changed, head_only=candidate.name in HEADS))
    task = model.task.calibrate(candidate.logits, candidate.targets_in(features.data), answers)
    record.write_task(task.get_config(), directory)
