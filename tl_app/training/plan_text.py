"""The plan as the user reads it before training starts."""

from collections.abc import Iterator

from tl_app.compute.devices import Devices
from tl_app.data.examples import SPLITS
from tl_app.data.splitting.splits import Splits
from tl_app.errors.counts import number_of
from tl_app.recipes.phase import HEAD
from tl_app.report import formatting
from tl_app.tasks.task import Task
from tl_app.training import objectives
from tl_app.training.planning import Plan


def data_lines(dataset: str, split: Splits, task: Task, why: str) -> Iterator[str]:
  """Yields the lines about the data, which come before the backbone is loaded.

  Args:
    dataset: value of --dataset.
    split: the `Splits`.
    task: the fitted `Task`.
    why: the reason for its choice.
  """
  counts = ", ".join(f"{len(getattr(split, name)):,} {name}" for name in SPLITS)
  yield f"data: {dataset}, {task.codec.describe()}; {counts} examples"
  yield f"task: {task.name}, {why}"


def lines(plan: Plan, devices: Devices) -> Iterator[str]:
  """Yields the lines about a plan: the backbone, the preprocessing, the devices, and what each phase trains."""
  backbone = plan.backbone
  yield f"backbone: {backbone['name']}, {backbone['parameters']:,} parameters, features [{backbone['feature_size']}]"
  yield from (f"  {note}" for note in backbone["notes"])
  yield f"input: {formatting.what_is_read(plan.preprocessing)}"
  yield f"devices: {devices.describe()}"
  for phase, facts in zip(plan.phases, plan.phase_facts):
    imbalance = phase.objective.imbalance
    treatment = f", imbalance: {imbalance}" if imbalance != "none" else ""
    yield f"phase {phase.name}: {_work(phase)}{treatment}"
    if facts["changed_examples"]:
      yield f"  training examples are augmented: {facts['changed_examples']}"
    if phase.trains.train_stages != (HEAD,):
      yield from _table(facts["stages"], {stage["name"]: stage["parameters"] for stage in plan.stages})


def to_do(plan: Plan, num_examples: int, export: bool) -> str:
  """Returns what a run does after its plan, as a line. How long it takes is known after the first steps.

  Args:
    plan: the `Plan`.
    num_examples: number of examples whose features are needed.
    export: whether the run exports.
  """
  phases = [
    f"phase {phase.name}"
    + (f" (at most {number_of(phase.schedule.steps, 'step')})" if phase.optimizer.uses_gradients else "")
    for phase in plan.phases
  ]
  parts = [
    f"features of {number_of(num_examples, 'example')}",
    *phases,
    "selection and test",
    *(["export"] if export else []),
  ]
  left = "; the time left is shown after the first steps of each phase and after each epoch"
  return f"to do: {', '.join(parts)}{left if any(phase.optimizer.uses_gradients for phase in plan.phases) else ''}"


def _table(rows, parameters):
  yield f"  {'':12} {'variables':>19} {'parameters':>25}"
  yield f"  {'stage':12} {'all':>9} {'trained':>9} {'all':>12} {'trained':>12} {'lr':>9} {'bn':>6}"
  for row in rows:
    rate = f"{row['learning_rate']:.2e}" if row["trainable"] else "frozen"
    yield (
      f"  {row['name']:12} {row['variables']:9} {row['trainable']:9} {parameters[row['name']]:12,} "
      f"{row['parameters']:12,} {rate:>9} {row['bn']:>6}"
    )


def _work(phase):
  optimizer, schedule = phase.optimizer, phase.schedule
  if not optimizer.uses_gradients:
    return f"solved by scikit-learn ({optimizer.solver}: {optimizer.solver_reason})"
  # Of a probe that is not in closed form.
  reason = f" ({optimizer.solver_reason})" if optimizer.solver_reason else ""
  return (
    f"at most {number_of(schedule.epochs, 'epoch')} of {number_of(schedule.steps_per_epoch, 'batch', 'batches')} of "
    f"{_batch(phase.inputs)}"
    f"{objectives.of(phase).description(phase)}, {optimizer.algorithm}, weight decay {optimizer.weight_decay:g}, "
    f"{schedule.curve} schedule{reason}"
  )


def _batch(inputs):
  if inputs.batch_tokens:
    return f"up to {inputs.batch_tokens:,} tokens, {inputs.batch_size} texts on average"
  return str(inputs.batch_size)
