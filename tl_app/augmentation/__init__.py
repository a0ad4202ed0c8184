"""Random changes of training examples: `texts`, `images`, and `mixing` of the images of a batch.

`Modality.augmentation` makes the function that --augment names; the training stream and `data.copies` apply it.
"""


def make_mix(phase, seed):
  """Returns the function (images, targets, number) -> (images, targets) of a phase, or None if it mixes nothing."""
  from tl_app.augmentation import mixing

  return mixing.Mix(phase.mixup, phase.cutmix, phase.clean_from, seed) if phase.mixes else None


def described(phase, modality):
  """Returns what happens to the training examples of a phase, in a few words; "" where nothing does.

  Args:
    phase: `Phase`.
    modality: `Modality` of the inputs.
  """
  descriptions = []
  if phase.augment != "none":
    descriptions.append(f"{phase.augment} ({modality.describe_augmentation(phase.augment)})")
  if phase.copies:
    descriptions.append(f"{phase.copies} copies of each beside it, made once")
  descriptions += [f"{name} {getattr(phase, name):g}" for name in ("mixup", "cutmix") if getattr(phase, name)]
  if phase.mixes:
    descriptions.append(f"unmixed from step {phase.clean_from + 1} of {phase.steps}")
  return ", ".join(descriptions)
