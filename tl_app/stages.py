"""Which stages train: set by name, total, and proven afterwards."""

import keras

from tl_app import model as model_lib
from tl_app.errors import RunFailed, UserError


def set_trainable(model, train_stages):
  """Makes exactly the variables of `train_stages` trainable; compile again afterwards.

  BatchNormalization runs in inference mode everywhere: its moving statistics stay, its scale and offset train with
  their stage (fine-tuning batches are too small for good statistics).

  Raises:
    UserError: a name that is not a stage of this model.
  """
  unknown = [name for name in train_stages if name not in model.stages]
  if unknown:
    raise UserError(f"unknown stage {unknown[0]!r}: this backbone has {', '.join(model.stages)}")
  model.network.trainable = True
  for layer in model.network._flatten_layers(include_self=False):
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.trainable = False
  for name, variables in model.stages.items():
    for variable in variables:
      variable.trainable = name in train_stages and id(variable) in model.can_train


def audit(model, before, train_stages):
  """Compares checksums with those taken before a phase.

  Args:
    model: the `Model` after the phase.
    before: `model.checksums(model.stages)` before it.
    train_stages: what the plan said should train.

  Returns:
    {stage: {"variables", "changed"}}.

  Raises:
    RunFailed: a frozen variable changed, or a stage that should train did not move at all.
  """
  after = model_lib.checksums(model.stages)
  result = {}
  for name, sums in after.items():
    changed = sum(a != b for a, b in zip(sums, before[name]))
    result[name] = {"variables": len(sums), "changed": changed}
    if name not in train_stages and changed:
      raise RunFailed(f"audit: {changed} of {len(sums)} variables of the frozen stage {name} changed")
    if name in train_stages and sums and not changed and any(v.trainable for v in model.stages[name]):
      raise RunFailed(f"audit: stage {name} should have trained, but none of its {len(sums)} variables changed")
  return result


def decays(variable):
  """Whether weight decay applies: matrices and kernels, not biases and normalisation (BERT, Devlin et al. 2019)."""
  return len(variable.shape) > 1 and "norm" not in variable.path.lower()
