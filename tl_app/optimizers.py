"""AdamW with a peak learning rate for each variable."""

import keras
import numpy as np


class StagedAdamW(keras.optimizers.Adam):
  """AdamW (Loshchilov & Hutter 2019) in which each variable has its own peak learning rate.

  Scaling gradients would not do: Adam divides the scale away. `learning_rate` is a schedule between 0 and 1; a variable
  moves by schedule times its peak rate, and decays by that times `weight_decay`.
  """

  def __init__(self, learning_rate, rate_of, decays, weight_decay=0.0, **kwargs):
    """Args:
    learning_rate: schedule of the fraction of the peak rate.
    rate_of: function, `keras.Variable` -> peak learning rate.
    decays: function, `keras.Variable` -> bool: whether weight decay applies to it.
    weight_decay: decoupled decay per step, times the rate.
    """
    super().__init__(learning_rate=learning_rate, **kwargs)
    self._rate_of = rate_of
    self._decays = decays
    self._decay = weight_decay

  def build(self, variables):
    super().build(variables)
    self._rates = [float(self._rate_of(v)) for v in variables]
    self._decay_of = [self._decay if self._decays(v) else 0.0 for v in variables]

  def update_step(self, gradient, variable, learning_rate):
    index = self._get_variable_index(variable)
    rate = learning_rate * self._rates[index]
    if self._decay_of[index]:
      step = keras.ops.cast(rate * self._decay_of[index], variable.dtype)
      self.assign_sub(variable, variable * step)
    super().update_step(gradient, variable, rate)


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
  """Linear from 0 to 1 in `warmup_steps`, then cosine to exactly 0 at the last of `steps` updates."""

  def __init__(self, steps, warmup_steps):
    self.steps = steps
    self.warmup_steps = min(warmup_steps, steps - 1)

  def __call__(self, step):
    # Update number 0 already moves: the ramp counts from 1.
    step = keras.ops.cast(step, "float32")
    ramp = (step + 1.0) / max(self.warmup_steps, 1)
    # The last update has number steps - 1.
    progress = (step - self.warmup_steps) / max(self.steps - 1 - self.warmup_steps, 1)
    cosine = 0.5 * (1.0 + keras.ops.cos(np.pi * keras.ops.clip(progress, 0.0, 1.0)))
    return keras.ops.where(step < self.warmup_steps, ramp, cosine)

  def get_config(self):
    return {"steps": self.steps, "warmup_steps": self.warmup_steps}
