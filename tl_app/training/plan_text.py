"""The plan as the user reads it before training starts."""

from collections.abc import Iterator

from tl_app.data.training_data import TrainingData
from tl_app.model.model import Model
from tl_app.recipes.phase import HEAD
from tl_app.training import objectives
from tl_app.training.planning import Plan


def lines(plan: Plan, dataset: str, data: TrainingData, model: Model) -> Iterator[str]:
  """Yields the lines about a plan.

  Args:
    plan: the `Plan`.
    dataset: value of --dataset.
    data: the `TrainingData`.
    model: the `Model`.
  """
  backbone = plan.backbone
  yield f"task: {plan.task['name']}, {plan.task['why']}"
  yield (
    f"data: {dataset}, {model.task.codec.describe()}; {len(data.train)} train, {len(data.validation)} validation, "
    f"{len(data.test)} test examples"
  )
  yield f"backbone: {backbone['name']}, {backbone['parameters']:,} parameters, features [{backbone['feature_size']}]"
  yield from (f"  {note}" for note in backbone["notes"])
  yield "preprocessing: " + ", ".join(f"{name} {value}" for name, value in plan.preprocessing.items())
  for phase, facts in zip(plan.phases, plan.phase_facts):
    imbalance = phase.objective.imbalance
    treatment = f", imbalance: {imbalance}" if imbalance != "none" else ""
    yield f"phase {phase.name}: {_work(phase)}{treatment}"
    if facts["changed_examples"]:
      yield f"  training examples are augmented: {facts['changed_examples']}"
    if phase.trains.train_stages != (HEAD,):
      yield from _table(facts["stages"])


def _table(rows):
  yield f"  {'stage':12} {'variables':>9} {'trainable':>9} {'parameters':>12} {'lr':>9} {'bn':>6}"
  for row in rows:
    rate = f"{row['learning_rate']:.2e}" if row["trainable"] else "frozen"
    yield (
      f"  {row['name']:12} {row['variables']:9} {row['trainable']:9} {row['parameters']:12,} {rate:>9} {row['bn']:>6}"
    )


def _work(phase):
  optimizer, schedule = phase.optimizer, phase.schedule
  if not optimizer.uses_gradients:
    return f"solved by scikit-learn ({optimizer.solver})"
  return (
    f"at most {schedule.epochs} epochs of {schedule.steps_per_epoch} batches of {_batch(phase.inputs)}"
    f"{objectives.of(phase).description(phase)}, weight decay {optimizer.weight_decay:g}, new optimizer"
  )


def _batch(inputs):
  if inputs.batch_tokens:
    return f"up to {inputs.batch_tokens:,} tokens, {inputs.batch_size} texts on average"
  return str(inputs.batch_size)
