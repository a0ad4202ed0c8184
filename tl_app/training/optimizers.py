"""AdamW with a peak learning rate for each variable, and low-rank updates."""

import math

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.model.variables import matrix_shape

# Optimizer steps between two updates of the averaged weights: each is a pass over all weights, and took a thirteenth of
# MiniLM's step on 32 short questions.
AVERAGE_EVERY = 4


class StagedAdamW(keras_internals.Adam):
  """AdamW (Loshchilov & Hutter 2019) in which each variable has its own peak learning rate.

  Scaling gradients would not do: Adam divides the scale away. `learning_rate` is a schedule between 0 and 1; a variable
  moves by schedule times its peak rate, and decays by that times `weight_decay`.

  A variable of rank r > 0 stays W0 + A B (LoRA, Hu et al. 2022): its gradient G moves A by G B' and B by A' G, and the
  sum is written back at once. So it works on whatever holds the kernel, an opaque SavedModel too, and nothing is left
  to merge.
  """

  def __init__(self, learning_rate, rate_of, decays, weight_decay=0.0, rank_of=None, clip_norm=0.0, **kwargs):
    """Creates the optimizer.

    Args:
      learning_rate: schedule of the fraction of the peak rate.
      rate_of: function, `keras.Variable` -> peak learning rate.
      decays: function, `keras.Variable` -> bool: whether weight decay applies to it.
      weight_decay: decoupled decay per step, times the rate.
      rank_of: function, `keras.Variable` -> rank of its updates, 0 for whole ones. None: all whole.
      clip_norm: largest global norm of the gradient over all devices; 0 is no limit.
      **kwargs: of `keras.optimizers.Adam`.
    """
    super().__init__(learning_rate=learning_rate, **kwargs)
    self._rate_of = rate_of
    self._decays = decays
    self._decay = weight_decay
    self._rank_of = rank_of or (lambda variable: 0)
    self._clip_norm = clip_norm
    # Of `clip_norm`, for this step: a batch that counts twice may be twice as large.
    self.clip_share = 1.0

  def build(self, variables):
    if self.built:
      return
    ranks = [self._rank_of(variable) for variable in variables]
    self._factored = {id(variable) for variable, rank in zip(variables, ranks) if rank}
    factors = [self._factors(variable, rank) for variable, rank in zip(variables, ranks) if rank]
    super().build([*variables, *(factor for pair in factors for factor in pair[:2])])
    self._rates = [float(self._rate_of(v)) for v in variables]
    self._decay_of = [self._decay if self._decays(v) and not rank else 0.0 for v, rank in zip(variables, ranks)]
    pairs = iter(factors)
    self._low_rank = [next(pairs) if rank else None for rank in ranks]

  def add_variable_from_reference(self, reference_variable, name=None, **kwargs):
    """Adds a slot; None for Adam's moments of a variable that moves by its factors."""
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

  def sum_over_devices(self, grads_and_vars):
    # Here, and not through `global_clipnorm`, which would clip each device's part by itself.
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
    if self._low_rank[index]:
      self._update_low_rank(gradient, variable, rate, *self._low_rank[index])
      return
    if self._decay_of[index]:
      step = keras.ops.cast(rate * self._decay_of[index], variable.dtype)
      self.assign(variable, variable * (1 - step))
    # Dense before anything is squared: of an embedding's gradient Keras squares the parts of a row, not their sum.
    gradient = tf.convert_to_tensor(gradient)
    if self.num_replicas > 1:
      super().update_step(gradient, variable, rate)
    else:
      self._update_at_once(gradient, variable, rate)

  def _update_at_once(self, gradient, variable, rate):
    """Adam's step in one pass over memory; Keras' own, of the same formula, makes about ten."""
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

  def update_averages(self, trainable_variables):
    # Keras averages after every batch, also after those whose gradients are only kept: the momentum would be another.
    moved = keras.ops.equal((self.batches + 1) % (self.gradient_accumulation_steps or 1), 0)
    number = self.iterations + 1
    due = moved & (keras.ops.equal(number, 1) | keras.ops.equal(number % AVERAGE_EVERY, 0))
    # Weights of momentum ** age that add up to 1 from the start (as Adam corrects its moments, Kingma & Ba 2015): of
    # few steps the first values would else be most of the average.
    decay, before = self.ema_momentum**AVERAGE_EVERY, keras.ops.cast(number // AVERAGE_EVERY, "float32")
    momentum = decay * (1 - decay**before) / (1 - decay ** (before + 1))

    def average(share):
      for variable, mean in zip(trainable_variables, self.averaged_variables):
        own = keras.ops.cast(share, variable.dtype)
        mean.assign(own * mean + (1 - own) * variable)

    if self.num_replicas > 1:
      # Variables of several devices cannot be assigned in a branch.
      average(keras.ops.where(due, momentum, 1.0))
    else:
      tf.cond(due, lambda: average(momentum), lambda: None)

  def _update_low_rank(self, gradient, variable, rate, down, up, base):
    gradient = tf.reshape(tf.convert_to_tensor(gradient), matrix_shape(variable.shape))
    a, b = tf.convert_to_tensor(down.value), tf.convert_to_tensor(up.value)
    super().update_step(tf.matmul(gradient, b, transpose_b=True), down.value, rate)
    super().update_step(tf.matmul(a, gradient, transpose_a=True), up.value, rate)
    product = tf.matmul(tf.convert_to_tensor(down.value), tf.convert_to_tensor(up.value))
    self.assign(variable, tf.convert_to_tensor(base.value) + tf.reshape(product, variable.shape))


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
  """Linear from 0 to 1 in `warmup_steps`, then cosine to exactly 0 at the last of `steps` updates.

  Both are counted in batches, as Keras counts; `every` so many make an update.
  """

  def __init__(self, steps, warmup_steps, every=1):
    self.every = every
    self.steps = max(1, steps // every)
    self.warmup_steps = min(-(-warmup_steps // every), self.steps - 1)

  def __call__(self, step):
    # Update number 0 already moves: the ramp counts from 1.
    step = keras.ops.cast(step // self.every, "float32")
    ramp = (step + 1.0) / max(self.warmup_steps, 1)
    # The last update has number steps - 1.
    progress = (step - self.warmup_steps) / max(self.steps - 1 - self.warmup_steps, 1)
    cosine = 0.5 * (1.0 + keras.ops.cos(np.pi * keras.ops.clip(progress, 0.0, 1.0)))
    return keras.ops.where(step < self.warmup_steps, ramp, cosine)

  def get_config(self):
    return {
      "steps": self.steps * self.every,
      "warmup_steps": self.warmup_steps * self.every,
      "every": self.every,
    }
