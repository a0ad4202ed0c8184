"""`PhaseSteps`: the training steps of one phase, ready to be compiled."""

import abc
import dataclasses
import weakref
from collections.abc import Callable

import keras
import numpy as np

from tl_app.model import stages
from tl_app.model.model import BackboneWithHead, Model
from tl_app.recipes.phase import HEAD, Phase
from tl_app.training import objectives, optimizers, train_steps
from tl_app.training.precision import PLAIN, StepPolicy

# Steps of the head alone that Keras runs in one call: such a step is far shorter than the way into Python and back.
HEAD_STEPS_PER_CALL = 256
# {network: (what its compiled steps depend on, its optimizer)}.
_COMPILED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class _Steps(abc.ABC):
  """The training steps of one phase on one network; a subclass has the loss.

  Attributes:
    network: `keras.Model` to fit, see `with_phase_steps`.
    phase: the `Phase`.
    model: the `BackboneWithHead` of the run, whose variables `network` shares.
  """

  network: keras.Model
  phase: Phase
  model: BackboneWithHead

  @property
  def has_long_steps(self) -> bool:
    """Whether a step is longer than the way into Python and back."""
    return self.phase.trains_backbone

  @abc.abstractmethod
  def loss(self) -> Callable:
    """Returns a new loss."""

  @abc.abstractmethod
  def constants(self) -> tuple:
    """Returns what else the compiled steps depend on, comparable by ==."""

  def metrics(self) -> list | None:
    """Returns the Keras metrics of the training batches, or None."""
    return None

  def learning_rates(self) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rates as shares of the peak ones."""
    planned, every = self.phase.schedule, self.phase.optimizer.accumulate_steps
    return optimizers.WarmupSchedule(planned.steps, planned.warmup_steps, every, planned.curve)

  def compile(self, policy: StepPolicy = PLAIN) -> None:
    """Compiles the network with a new optimizer, since its slots belong to other variables and learning rates.

    A network that was compiled for the same steps is kept, since TensorFlow traces new ones for seconds: its optimizer
    gets the values of the new one.
    """
    network, phase = self.network, self.phase
    optimizer, made_of = self._scaled_optimizer(policy), self._made_of(policy)
    known, kept = _COMPILED.get(network, (None, None))
    if known == made_of and kept is network.optimizer:
      for variable, value in zip(kept.variables, optimizer.variables, strict=True):
        variable.assign(value)
      return
    replicas = network.distribute_strategy.num_replicas_in_sync
    # TensorFlow cannot run Keras' loop over steps on several devices: a placeholder in its branches stays unfed.
    one_step = self.has_long_steps or replicas > 1
    network.compile(
      optimizer=optimizer,
      loss=self.loss(),
      metrics=self.metrics(),
      jit_compile=policy.jit,
      steps_per_execution=1 if one_step else min(phase.schedule.steps_per_epoch, HEAD_STEPS_PER_CALL),
    )
    _COMPILED[network] = made_of, optimizer

  def _made_of(self, policy):
    """Returns what the compiled steps depend on. Names of phases and order of the examples are not among it."""
    phase = self.phase.replace(name="", seed_offset=0)
    return policy, phase, self.constants(), [id(variable) for variable in self.network.trainable_variables]

  def _scaled_optimizer(self, policy):
    optimizer = self._optimizer()
    # Keras scales the loss by itself only if the model as a whole has this policy.
    if policy.precision == "mixed_float16":
      optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # Now, and not while `fit` traces: low-rank factors start from the values of their kernels.
    optimizer.build(self.network.trainable_variables)
    return optimizer

  def _optimizer(self):
    phase, spec = self.phase, self.phase.optimizer
    stage_of = {id(v): name for name, variables in self.model.stages.items() for v in variables}
    return optimizers.make(
      spec,
      self.learning_rates(),
      rate_of=lambda variable: spec.learning_rates[stage_of[id(variable)]],
      decays=stages.decays,
      rank_of=lambda variable: phase.trains.lora_rank if stage_of[id(variable)] != HEAD else 0,
    )


@dataclasses.dataclass(frozen=True)
class PhaseSteps(_Steps):
  """The training steps of one phase on labels.

  Attributes:
    model: the `Model` of the run.
    train_targets: [train, ..]; a loss that weights classes counts them.
    schedule: returns learning rates as shares of the peak ones; None for warm-up and cosine.
  """

  model: Model
  train_targets: np.ndarray
  schedule: keras.optimizers.schedules.LearningRateSchedule | None = None

  def loss(self):
    """Returns the loss of the phase's objective."""
    return objectives.of(self.phase).loss(self.model.task, self.phase, self.train_targets)

  def constants(self):
    """Returns the given schedule, and the classes if the loss weights them."""
    weighted = objectives.of(self.phase).weights_classes(self.phase)
    return self.schedule, self.train_targets.tobytes() if weighted else None

  def metrics(self):
    """Returns the Keras metrics of the task."""
    return objectives.of(self.phase).keras_metrics(self.model.task)

  def learning_rates(self):
    """Returns `schedule`, or warm-up and cosine."""
    return self.schedule or super().learning_rates()


@dataclasses.dataclass(frozen=True)
class PretrainingSteps(_Steps):
  """The training steps of one phase of pretraining.

  Attributes:
    make_loss: function that returns a new loss.
  """

  make_loss: Callable[[], Callable]

  @property
  def has_long_steps(self):
    """A step runs the whole backbone, frozen or not."""
    return True

  def loss(self):
    """Returns the loss of the phase's objective."""
    return self.make_loss()

  def constants(self):
    """Returns the function that makes the loss."""
    return (self.make_loss,)


def with_phase_steps(network: keras.Model, phase: Phase) -> keras.Model:
  """Returns `network`, or a model over its layers whose training steps are those of the phase.

  These compute a batch in microbatches, or weight the batches of --batch_tokens by their size.
  """
  network = train_steps.microbatched(network, phase.inputs.microbatches, phase.inputs.longest)
  return train_steps.size_weighted(network, phase.inputs.batch_size if phase.inputs.batch_tokens else 0)


def release(model: Model) -> None:
  """Frees the optimizers and the compiled steps of a model: an optimizer holds two more copies of what it trains.

  Args:
    model: the `Model`, whose next phase is compiled anew.
  """
  for network in (*model.training_networks.values(), model.network, model.head):
    if _COMPILED.pop(network, None):
      # One without slots; Keras would go on tracking the old one beside None.
      network.compile(optimizer="sgd")
  model.training_networks.clear()
