"""Random changes of training examples; the training stream (`pipeline.training_parts`) and `copies` alone have them."""

from tl_app.errors import UserError


def make(name, modality, inputs, seed):
  """Returns what `pipeline.training_parts` takes as `augment`, or None.

  Args:
    name: of --augment.
    modality: "text" or "image".
    inputs: object array [n] of the training split's `Examples.inputs`: texts give the words that replace others.
    seed: int.

  Raises:
    UserError: it does not fit the modality or the texts, or a package is absent.
  """
  if name == "none":
    return None
  if modality == "image":
    from tl_app.augmentation import images

    return images.Augment(name, seed)
  if name == "rand":
    raise UserError("--augment=rand is for images: texts take light or medium")
  from tl_app.augmentation import texts

  return texts.Augment(name, inputs, seed)


def make_mix(phase, seed):
  """Returns what `pipeline.training_parts` takes as `mix`, or None where the phase mixes nothing."""
  from tl_app.augmentation import mixing

  return mixing.Mix(phase.mixup, phase.cutmix, phase.clean_from, seed) if phase.mixes else None


def described(phase, modality):
  """Returns what happens to the training examples of a phase, in a few words; "" where nothing does."""
  said = []
  if phase.augment != "none":
    from tl_app.augmentation import images, texts

    said.append(f"{phase.augment} ({(images if modality == 'image' else texts).described(phase.augment)})")
  if phase.copies:
    said.append(f"{phase.copies} copies of each beside it, made once")
  said += [f"{name} {getattr(phase, name):g}" for name in ("mixup", "cutmix") if getattr(phase, name)]
  if phase.mixes:
    said.append(f"unmixed from step {phase.clean_from + 1} of {phase.steps}")
  return ", ".join(said)
