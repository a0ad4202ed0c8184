"""Recipes: pure functions from `Config` and `Facts` to a list of `Phase`. No TensorFlow is needed to read a plan."""

import dataclasses
import math

HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Phase:
  """One stretch of training.

  Attributes:
    name: "probe", "full", ..
    train_stages: names of the stages that train, from the input upwards; "head" is what is new.
    epochs: passes over the training examples, at most.
    steps_per_epoch: optimizer steps; every example is used once per pass on average.
    batch_size: global number of examples per step.
    learning_rates: {stage: peak rate}; the schedule is linear warm-up from 0, then cosine to exactly 0 at the last step.
    warmup_steps: steps until the peak rate.
    weight_decay: decoupled, times the rate; never on biases and normalisation.
    patience: epochs without a better `monitor` until the phase ends; 0 is never.
    monitor: what is compared on the validation split: "loss" (lower is better) or "accuracy" (ties: loss).
  """

  name: str
  train_stages: tuple
  epochs: int
  steps_per_epoch: int
  batch_size: int
  learning_rates: dict
  warmup_steps: int
  weight_decay: float
  patience: int
  monitor: str

  @property
  def steps(self):
    """Optimizer steps of the whole phase."""
    return self.epochs * self.steps_per_epoch

  @property
  def backbone_trains(self):
    """Whether any stage of the backbone trains."""
    return any(stage != HEAD for stage in self.train_stages)


def plan(config, facts, num_devices=1):
  """Returns the phases of `config.recipe`, in order."""
  return RECIPES[config.recipe](config, facts, num_devices)


def probe(config, facts, num_devices=1):
  """The head alone, on frozen features, until the validation loss stops falling."""
  rates = {HEAD: config.head_learning_rate}
  return [_phase(config, facts, num_devices, "probe", config.head_epochs, rates, monitor="loss")]


def full(config, facts, num_devices=1):
  """Everything from a fresh head, the backbone at --learning_rate and the head at --head_learning_rate."""
  rates = dict.fromkeys(facts.stage_names, config.learning_rate) | {HEAD: config.head_learning_rate}
  return [_phase(config, facts, num_devices, "full", config.epochs, rates, monitor="accuracy")]


RECIPES = {"probe": probe, "full": full}


def _phase(config, facts, num_devices, name, epochs, rates, monitor):
  batch_size = _batch_size(config.batch_size, facts.num_train, num_devices)
  steps_per_epoch = math.ceil(facts.num_train / batch_size)
  return Phase(
      name=name,
      train_stages=tuple(rates),
      epochs=epochs,
      steps_per_epoch=steps_per_epoch,
      batch_size=batch_size,
      learning_rates=rates,
      warmup_steps=math.ceil(WARMUP * epochs * steps_per_epoch),
      weight_decay=config.weight_decay,
      patience=config.early_stopping_patience,
      monitor=monitor,
  )


# Devlin et al. 2019 and AutoGluon's default: the first tenth of the steps.
WARMUP = 0.1


def _batch_size(batch_size, num_train, num_devices):
  # A batch larger than the data set would hold every example several times.
  return max(num_devices, min(batch_size, num_train) // num_devices * num_devices)
