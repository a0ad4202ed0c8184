"""The selected model of a run: its evaluation, and the weights and tasks that are written."""

from collections.abc import Mapping, Sequence

from tl_app import files
from tl_app.backbones import tuned
from tl_app.config.groups import AnswerConfig
from tl_app.data.training_data import TrainingData
from tl_app.features.frozen import Features
from tl_app.model import checkpoint, stages
from tl_app.model.model import Model
from tl_app.recipes.phase import Phase
from tl_app.report import predictions
from tl_app.tasks.task import Task
from tl_app.training.answered import Answered
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
    "selected": "probe" if best.name in HEADS else "fine_tuned",
    "selected_candidate": best.name,
    "selected_phase": best.phase,
    "compared": selection.best.estimate,
  }


def test_answers(selected: Candidate, features: Features, record: Record) -> Answered:
  """Returns what the selected model answers on the test split.

  Args:
    selected: the selected `Candidate`.
    features: the `Features` of the run, whose model holds the values of the candidate.
    record: the `Record` of the run.
  """
  rows = features.data.test
  with record.clock("evaluate"):
    logits = (features.head_logits if selected.name in HEADS else features.logits)(rows)
  return Answered(logits, features.data.targets[rows], rows)


def evaluate(task, held: Answered, tested: Answered, data: TrainingData, record: Record) -> dict:
  """Returns the metrics of the selected model on the validation and test splits; writes the test predictions.

  A model that has learnt from the validation split is measured there by the answers of cross-validation.

  Args:
    task: the calibrated `Task`.
    held: the answers that calibrated it, see `Candidate.answered`.
    tested: the answers on the test split.
    data: the `TrainingData`.
    record: the `Record` of the run.
  """
  with record.clock("evaluate"):
    metrics = {
      "test": task.metrics.compute_metrics(tested.logits, tested.targets),
      "validation": task.metrics.compute_metrics(held.logits, held.targets) | held.estimate,
    }
    outputs = task.answers.outputs(tested.logits)
    test = data.examples.take(tested.rows)
    predictions.write_answers(record.paths.predictions, task.answers, test, outputs, tested.ood_scores)
  metrics |= task.metrics.baseline(data.train_targets, tested.targets)
  return metrics | {"task": task.name, "primary_metric": task.metrics.primary_metric}


def save(model: Model, task, record: Record) -> None:
  """Writes the weights of the selected model, its task, and its out-of-distribution score if it has one."""
  with files.atomic_path(record.paths.weights) as new:
    checkpoint.write_network(new, model.network)
  if model.ood:
    model.ood.save(record.paths.ood)
  record.write_task(task.get_config())


def save_candidates(
  calibrated: Mapping[str, Task],
  candidates: Sequence[Candidate],
  phase_list: Sequence[Phase],
  features: Features,
  config: AnswerConfig,
  record: Record,
) -> None:
  """Writes the weights and the task of every candidate that has a model, see `Workdir.candidate`.

  Args:
    calibrated: {name of a candidate: its calibrated `Task`}; the others are calibrated.
    candidates: the candidates.
    phase_list: the phases of the `Plan`.
    features: the `Features` of the run.
    config: the `AnswerConfig`.
    record: the `Record` of the run.
  """
  model = features.model
  changing = [id(variable) for variable in stages.changing(model, phase_list)]
  for candidate in candidates:
    if not candidate.values:
      continue
    changed = dict(zip(changing, candidate.values))
    directory = record.paths.candidate(candidate.name)
    with files.atomic_path(directory / tuned.WEIGHTS) as new:
      checkpoint.write(new, checkpoint.arrays(model, changed, head_only=candidate.name in HEADS))
    task = calibrated.get(candidate.name)
    if task is None:
      held = candidate.answered(features.data)
      task = model.task.calibrate(held.logits, held.targets, config)
    record.write_task(task.get_config(), directory)
