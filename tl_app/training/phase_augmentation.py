"""What a phase changes in its training examples."""

from tl_app.recipes.phase import Phase


def make_mix(phase: Phase, seed: int):
  """Returns the function (images, targets, number) -> (images, targets) of a phase, or None if it mixes nothing."""
  from tl_app.data.augmentation import mixing

  inputs = phase.inputs
  return mixing.Mix(inputs.mixup, inputs.cutmix, phase.first_unmixed_step, seed) if inputs.mixes else None


def describe(phase: Phase, modality) -> str:
  """Returns what happens to the training examples of a phase, in a few words; "" if nothing does.

  Args:
    phase: the `Phase`.
    modality: the `Modality` of the inputs.
  """
  inputs, changes = phase.inputs, []
  if inputs.augment != "none":
    changes.append(f"{inputs.augment} ({modality.describe_augmentation(inputs.augment)})")
  if inputs.augment_copies:
    changes.append(f"{inputs.augment_copies} copies of each beside it, made once")
  changes += [f"{name} {getattr(inputs, name):g}" for name in ("mixup", "cutmix") if getattr(inputs, name)]
  if inputs.mixes:
    changes.append(f"unmixed from step {phase.first_unmixed_step + 1} of {phase.schedule.steps}")
  return ", ".join(changes)
