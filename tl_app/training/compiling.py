"""`PhaseSteps`: the training steps of one phase, ready to be compiled."""

import dataclasses

import keras
import numpy as np

from tl_app.compute.precision import PLAIN, StepPolicy
from tl_app.model import stages
from tl_app.model.model import Model
from tl_app.recipes.phase import HEAD, Phase
from tl_app.training import objectives, optimizers, train_steps

# Steps of the head alone that Keras runs in one call: such a step is far shorter than the way into Python and back.
HEAD_STEPS_PER_CALL = 256


@dataclasses.dataclass(frozen=True)
class PhaseSteps:
  """The training steps of one phase on one network.

  Attributes:
    network: `keras.Model` to fit, see `with_phase_steps`.
    phase: the `Phase`.
    model: the `Model` of the run, whose variables `network` shares.
    train_targets: [train, ..]; a loss that weights classes counts them.
    schedule: returns learning rates as shares of the peak ones; None for those of the phase.
  """

  network: keras.Model
  phase: Phase
  model: Model
  train_targets: np.ndarray
  schedule: keras.optimizers.schedules.LearningRateSchedule | None = None

  def compile(self, policy: StepPolicy = PLAIN) -> None:
    """Compiles the network with a new optimizer, since its slots belong to other variables and learning rates."""
    network, phase = self.network, self.phase
    replicas = network.distribute_strategy.num_replicas_in_sync
    optimizer = self._optimizer()
    # Now, and not while `fit` traces: low-rank factors start from the values of their kernels.
    optimizer.build(network.trainable_variables)
    if policy.precision == "mixed_float16":
      # Keras scales the loss by itself only if the model as a whole has this policy.
      optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    objective = objectives.of(phase)
    # TensorFlow cannot run Keras' loop over steps on several devices: a placeholder in its branches stays unfed.
    one_step = phase.trains_backbone or replicas > 1
    network.compile(
      optimizer=optimizer,
      loss=objective.loss(self.model.task, phase, self.train_targets),
      metrics=objective.keras_metrics(self.model.task),
      jit_compile=policy.jit,
      steps_per_execution=1 if one_step else min(phase.schedule.steps_per_epoch, HEAD_STEPS_PER_CALL),
    )

  def _optimizer(self):
    phase, spec = self.phase, self.phase.optimizer
    stage_of = {id(v): name for name, variables in self.model.stages.items() for v in variables}
    planned = phase.schedule
    schedule = optimizers.WarmupSchedule(planned.steps, planned.warmup_steps, spec.accumulate_steps, planned.curve)
    return optimizers.make(
      spec,
      self.schedule or schedule,
      rate_of=lambda variable: spec.learning_rates[stage_of[id(variable)]],
      decays=stages.decays,
      rank_of=lambda variable: phase.trains.lora_rank if stage_of[id(variable)] != HEAD else 0,
    )


def with_phase_steps(network: keras.Model, phase: Phase) -> keras.Model:
  """Returns `network`, or a model over its layers whose training steps are those of the phase.

  These compute a batch in microbatches, or weight the batches of --batch_tokens by their size.
  """
  network = train_steps.microbatched(network, phase.inputs.microbatches, phase.inputs.longest)
  return train_steps.size_weighted(network, phase.inputs.batch_size if phase.inputs.batch_tokens else 0)
