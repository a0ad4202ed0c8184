"""Keras' optimizers with a peak learning rate per variable, low-rank updates of AdamW, and learning rate schedules."""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.model import heads
from tl_app.model.variables import matrix_shape
from tl_app.recipes.phase import OptimizerSpec

# Optimizer steps between two updates of the averaged weights. An update reads all weights, which took a thirteenth of
# the step of MiniLM on 32 short questions.
AVERAGE_EVERY = 4


class Staged(keras_internals.Optimizer):
  """A peak learning rate per variable, for an optimizer of Keras that is another base class.

  The learning rate of a variable is `learning_rate`, a schedule between 0 and 1, times its peak learning rate.
  Gradients cannot be scaled instead, since most optimizers divide by their scale. An optimizer can be used if the step
  of a variable is proportional to the learning rate that `update_step` is given.
  """

  def __init__(
    self,
    learning_rate: keras.optimizers.schedules.LearningRateSchedule,
    rate_of: Callable[[keras.Variable], float],
    decays: Callable[[keras.Variable], bool],
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    **kwargs,
  ):
    """Creates the optimizer.

    Args:
      learning_rate: schedule of the fraction of the peak learning rate, 0 to 1.
      rate_of: function that returns the peak learning rate of a variable.
      decays: function that returns whether weight decay applies to a variable.
      weight_decay: decoupled weight decay per step, multiplied by the learning rate.
      clip_norm: largest global norm of the gradients, summed over all devices; 0 is no limit.
      **kwargs: arguments of the optimizer of Keras.
    """
    super().__init__(learning_rate=learning_rate, **kwargs)
    self._rate_of = rate_of
    self._decays = decays
    self._decay = weight_decay
    self._clip_norm = clip_norm
    # Factor of `clip_norm` in this step: a batch with twice the weight may have twice the norm.
    self.clip_share = 1.0

  def build(self, variables):
    if self.built:
      return
    super().build(variables)
    self.set_rates(variables)

  def set_rates(self, variables: list) -> None:
    """Notes the peak learning rate and the weight decay of each trainable variable."""
    self._rates = [float(self._rate_of(v)) for v in variables]
    self._decay_of = [self._decay if self._decays(v) else 0.0 for v in variables]

  def sum_over_devices(self, grads_and_vars):
    # `global_clipnorm` of Keras would clip the gradients of each device separately.
    limit = self._clip_norm * self.clip_share
    reduced = super().sum_over_devices(grads_and_vars)
    if not self._clip_norm:
      return reduced
    known = [gradient for gradient, _ in reduced if gradient is not None]
    clipped = iter(tf.clip_by_global_norm(known, limit)[0])
    return [(gradient if gradient is None else next(clipped), variable) for gradient, variable in reduced]

  def update_step(self, gradient, variable, learning_rate):
    index = self.index_of(variable)
    rate = learning_rate * self._rates[index]
    if self._decay_of[index]:
      step = keras.ops.cast(rate * self._decay_of[index], variable.dtype)
      self.assign(variable, variable * (1 - step))
    # Converted to dense before squaring: for the sparse gradient of an embedding, Keras would square the contributions
    # to a row, not their sum.
    self.move(tf.convert_to_tensor(gradient), variable, rate)

  def move(self, gradient, variable, rate) -> None:
    """Updates a variable by its dense gradient, as the optimizer of Keras does with the learning rate `rate`."""
    super().update_step(gradient, variable, rate)

  def update_averages(self, trainable_variables):
    # Keras averages after every batch, even if its gradients are only accumulated, which would change the momentum.
    moved = keras.ops.equal((self.batches + 1) % (self.gradient_accumulation_steps or 1), 0)
    number = self.iterations + 1
    due = moved & (keras.ops.equal(number, 1) | keras.ops.equal(number % AVERAGE_EVERY, 0))
    # Bias correction as for the moments of Adam (Kingma & Ba 2015): without it the initial values would dominate the
    # average of few steps.
    decay, before = self.ema_momentum**AVERAGE_EVERY, keras.ops.cast(number // AVERAGE_EVERY, "float32")
    momentum = decay * (1 - decay**before) / (1 - decay ** (before + 1))

    def average(share):
      for variable, mean in zip(trainable_variables, self.averaged_variables):
        factor = keras.ops.cast(share, variable.dtype)
        mean.assign(factor * mean + (1 - factor) * variable)

    if self.num_replicas > 1:
      # TensorFlow cannot assign mirrored variables inside `tf.cond`.
      average(keras.ops.where(due, momentum, 1.0))
    else:
      tf.cond(due, lambda: average(momentum), lambda: None)


class StagedAdamW(Staged, keras_internals.Adam):
  """AdamW (Loshchilov & Hutter 2019) with a peak learning rate per variable and low-rank updates.

  With rank r > 0 a variable is W0 + A B (LoRA, Hu et al. 2022): its gradient G updates A with G B^T and B with A^T G,
  and the sum is written into the variable in every step. So it works with every layer that holds a kernel, an opaque
  SavedModel too, and the updates need not be merged after training.
  """

  def __init__(self, *args, rank_of: Callable[[keras.Variable], int] | None = None, **kwargs):
    """Creates the optimizer.

    Args:
      *args: as for `Staged`.
      rank_of: function that returns the rank of the updates of a variable, 0 for full updates. None: all full. Weight
        decay does not apply to low-rank updates.
      **kwargs: as for `Staged`, and arguments of `keras.optimizers.Adam`.
    """
    super().__init__(*args, **kwargs)
    self._rank_of = rank_of or (lambda variable: 0)

  def build(self, variables):
    if self.built:
      return
    ranks = [self._rank_of(variable) for variable in variables]
    self._factored = {id(variable) for variable, rank in zip(variables, ranks) if rank}
    factors = [self._factors(variable, rank) for variable, rank in zip(variables, ranks) if rank]
    keras_internals.Adam.build(self, [*variables, *(factor for pair in factors for factor in pair[:2])])
    self.set_rates(variables)
    self._decay_of = [0.0 if rank else decay for decay, rank in zip(self._decay_of, ranks)]
    pairs = iter(factors)
    self._low_rank = [next(pairs) if rank else None for rank in ranks]

  def add_variable_from_reference(self, reference_variable, name=None, **kwargs):
    """Adds a slot variable. A variable with low-rank updates has no moments of its own and gets None."""
    if id(reference_variable) in self._factored and name in ("momentum", "velocity"):
      return None
    return super().add_variable_from_reference(reference_variable, name=name, **kwargs)

  def _factors(self, variable, rank):
    rows, columns = matrix_shape(variable.shape)
    seed = keras.random.SeedGenerator(0)
    a = keras.random.normal((rows, rank), stddev=1.0 / math.sqrt(rank), seed=seed)
    down = self.add_variable((rows, rank), initializer=lambda shape, dtype: tf.cast(a, dtype), name="lora_a")
    up = self.add_variable((rank, columns), initializer="zeros", name="lora_b")
    value = keras.ops.convert_to_numpy(variable)
    base = self.add_variable(value.shape, initializer=lambda shape, dtype: tf.cast(value, dtype), name="lora_base")
    return down, up, base

  def move(self, gradient, variable, rate):
    factors = self._low_rank[self.index_of(variable)]
    if factors:
      self._update_low_rank(gradient, variable, rate, *factors)
    elif self.num_replicas > 1:
      super().move(gradient, variable, rate)
    else:
      self._update_fused(gradient, variable, rate)

  def _update_fused(self, gradient, variable, rate):
    """Applies Adam's update in one pass over memory; Keras makes about ten passes for the same formula."""
    index, dtype = self.index_of(variable), variable.dtype
    step = tf.cast(self.iterations + 1, dtype)
    beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
    tf.raw_ops.ResourceApplyAdam(
      var=variable.handle,
      m=self.first_moments[index].value.handle,
      v=self.second_moments[index].value.handle,
      beta1_power=tf.pow(beta_1, step),
      beta2_power=tf.pow(beta_2, step),
      lr=tf.cast(rate, dtype),
      beta1=beta_1,
      beta2=beta_2,
      epsilon=tf.cast(self.epsilon, dtype),
      grad=tf.cast(gradient, dtype),
    )

  def _update_low_rank(self, gradient, variable, rate, down, up, base):
    gradient = tf.reshape(gradient, matrix_shape(variable.shape))
    a, b = tf.convert_to_tensor(down.value), tf.convert_to_tensor(up.value)
    super().move(tf.matmul(gradient, b, transpose_b=True), down.value, rate)
    super().move(tf.matmul(a, gradient, transpose_a=True), up.value, rate)
    product = tf.matmul(tf.convert_to_tensor(down.value), tf.convert_to_tensor(up.value))
    self.assign(variable, tf.convert_to_tensor(base.value) + tf.reshape(product, variable.shape))


class StagedSGD(Staged, keras.optimizers.SGD):
  """SGD with momentum, with a peak learning rate per variable."""


class StagedLion(Staged, keras.optimizers.Lion):
  """Lion (Chen et al. 2023) with a peak learning rate per variable."""


class StagedLamb(Staged, keras.optimizers.Lamb):
  """LAMB (You et al. 2020) with a peak learning rate per variable, which multiplies its trust ratio."""


class StagedAdafactor(Staged, keras.optimizers.Adafactor):
  """Adafactor (Shazeer & Stern 2018) with a peak learning rate per variable, relative to the size of the variable."""


class StagedMuon(Staged, keras.optimizers.Muon):
  """Muon (Jordan et al. 2024) with a peak learning rate per variable.

  As in Keras, it updates matrices; embeddings and all that is no matrix are updated by Adam. So are the logits, as the
  authors advise.
  """

  def __init__(self, *args, **kwargs):
    super().__init__(*args, exclude_layers=[heads.LOGITS], adam_weight_decay=None, **kwargs)
    # `Staged` applies the weight decay, with the learning rate of the variable.
    self.weight_decay = None


OPTIMIZERS = {
  "adamw": StagedAdamW,
  "adam": StagedAdamW,
  "sgd": StagedSGD,
  "lion": StagedLion,
  "lamb": StagedLamb,
  "adafactor": StagedAdafactor,
  "muon": StagedMuon,
}


def make(
  spec: OptimizerSpec,
  schedule: keras.optimizers.schedules.LearningRateSchedule,
  rate_of: Callable[[keras.Variable], float],
  decays: Callable[[keras.Variable], bool],
  rank_of: Callable[[keras.Variable], int],
) -> Staged:
  """Returns the optimizer of a phase.

  Args:
    spec: the `OptimizerSpec`.
    schedule: schedule of the fraction of the peak learning rate.
    rate_of: as for `Staged`.
    decays: as for `Staged`.
    rank_of: as for `StagedAdamW`; the other optimizers have no low-rank updates.
  """
  more = {"rank_of": rank_of} if OPTIMIZERS[spec.algorithm] is StagedAdamW else {}
  more |= {"momentum": spec.momentum} if spec.algorithm == "sgd" else {}
  return OPTIMIZERS[spec.algorithm](
    *(schedule, rate_of, decays),
    weight_decay=spec.weight_decay,
    clip_norm=spec.clip_norm,
    gradient_accumulation_steps=spec.accumulate_steps if spec.accumulate_steps > 1 else None,
    use_ema=spec.ema > 0,
    ema_momentum=spec.ema or None,
    **more,
  )


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
  """Learning rate schedule: linear from 0 to 1, then a curve of --schedule."""

  def __init__(self, steps: int, warmup_steps: int, every: int = 1, curve: str = "cosine"):
    """Creates the schedule.

    Args:
      steps: number of batches.
      warmup_steps: number of batches of the linear part.
      every: number of batches per optimizer update, with gradient accumulation.
      curve: name in `CURVES`.
    """
    self.every = every
    self.steps = max(1, steps // every)
    self.warmup_steps = min(-(-warmup_steps // every), self.steps - 1)
    self.curve = curve

  def __call__(self, step):
    # The first update has number 0 and a learning rate above 0, so the ramp counts from 1.
    step = keras.ops.cast(step // self.every, "float32")
    ramp = (step + 1.0) / max(self.warmup_steps, 1)
    if self.curve == "one_cycle":
      ramp = ONE_CYCLE_START + (1.0 - ONE_CYCLE_START) * (1.0 - _cosine(keras.ops.minimum(ramp, 1.0)))
    # The last update has number steps - 1.
    progress = (step - self.warmup_steps) / max(self.steps - 1 - self.warmup_steps, 1)
    falling = CURVES[self.curve](keras.ops.clip(progress, 0.0, 1.0), step / self.steps)
    return keras.ops.where(step < self.warmup_steps, ramp, falling)

  def get_config(self):
    return {
      "steps": self.steps * self.every,
      "warmup_steps": self.warmup_steps * self.every,
      "every": self.every,
      "curve": self.curve,
    }


def _cosine(progress):
  return 0.5 * (1.0 + keras.ops.cos(np.pi * progress))


# First learning rate of one_cycle as a share of the peak, as in PyTorch's OneCycleLR.
ONE_CYCLE_START = 1 / 25
# Shares of all steps after which the learning rate of "steps" is a tenth of what it was, as in He et al. 2016.
MILESTONES = (0.5, 0.75)
# {name: function, (progress since the warm-up, progress since the first step), 0 to 1 -> share of the peak}.
CURVES = {
  "cosine": lambda since_peak, since_start: _cosine(since_peak),
  "linear": lambda since_peak, since_start: 1.0 - since_peak,
  "constant": lambda since_peak, since_start: keras.ops.ones_like(since_peak),
  "steps": lambda since_peak, since_start: (
    0.1 ** sum(keras.ops.cast(since_start >= milestone, "float32") for milestone in MILESTONES)
  ),
  "one_cycle": lambda since_peak, since_start: _cosine(since_peak),
}
