"""Recipes: pure functions from `Config` and `Facts` to a list of `Phase`. No TensorFlow is needed to read a plan."""

import dataclasses
import math
import re

from tl_app.errors import UserError

HEAD = "head"
# What of a stage trains, beside a regular expression over variable paths.
ALL, BIAS_NORM, KERNELS = "all", "bias_norm", "kernels"

# Share of the steps before the peak rate: Devlin et al. 2019; AutoGluon's default.
WARMUP = 0.1
# Fewer optimizer steps leave a small data set untrained (Mosbach et al. 2021 take 20 epochs on a few thousand texts).
FINE_TUNING_STEPS = 1000
EPOCHS = (3, 20)
# What a phase minimises, and the recipes whose head reads features of length 1, since their angles are what is learnt.
LOSS, CONTRAST = "loss", "contrast"
UNIT_LENGTH = ("contrastive",)
# On banking77 with ten examples a class, 60 batches of 64 gave what 120 did.
CONTRAST_STEPS = 60
CONTRAST_EPOCHS = (1, 20)
CONTRAST_RATE = 0.5
CONTRAST_EACH = 4
# Mixup and cutmix end before the last epochs, so that training ends on examples as they are (YOLOX, Ge et al. 2021, the
# last 15 of 300; timm's --mixup-off-epoch). Of a few epochs that is a larger share.
CLEAN_SHARE = 0.15
# LoRA trains at about five times the rate of full fine-tuning (Hu et al. 2022, 5e-4 for RoBERTa-base); BitFit likewise.
LIGHT_RATE = 5.0


@dataclasses.dataclass(frozen=True)
class Phase:
  """One stretch of training.

  Attributes:
    name: "probe", "fine_tune", ..
    train_stages: names of the stages that train, from the input upwards; "head" is what is new.
    epochs: passes over the training examples, at most.
    steps_per_epoch: batches; every example is used once per pass on average.
    batch_size: global number of examples per batch; where `batch_tokens` decides, about the mean of them.
    batch_tokens: as --batch_tokens.
    learning_rates: {stage: peak rate}; the schedule is a linear warm-up, then cosine to exactly 0 at the last step.
    warmup_steps: batches until the peak rate.
    weight_decay: decoupled, times the rate; never on biases and normalisation.
    patience: epochs without a better `monitor` until the phase ends; 0 is never.
    monitor: what is compared on the validation split: "loss" (lower is better) or the task's score (ties: loss).
    only: what trains within the stages of the backbone: "all", "bias_norm", "kernels", or a regular expression.
    bn: as --bn.
    solver: as --probe_solver; all but "adamw" are scikit-learn's and train the head alone.
    fresh_head: the head starts at zero again.
    fresh_features: the head is fitted on what the phases before have made of the backbone, not on the frozen one.
    objective: "loss" of the task, or "contrast", see `contrastive.SupervisedContrast`: the head takes no part.
    batch_classes: classes of a batch, with equally many examples each; 0: as they come.
    lora_rank: rank of the updates of `only="kernels"`; 0 updates them whole.
    clip_norm: largest global norm of a gradient; 0 is no limit.
    label_smoothing: share of the target spread over all classes.
    accumulate_steps: batches per optimizer step.
    microbatches: equal parts in which a batch is computed one after the other, where memory does not hold it whole.
    longest: positions of the examples for which that number is; shorter texts take fewer parts.
    ema: momentum of the averaged weights; 0 keeps none.
    augment: as --augment.
    copies: as --augment_copies.
    mixup, cutmix: alpha of the shares in which images are mixed; 0 is off.
    imbalance: as --imbalance.
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
  only: str = ALL
  bn: str = "frozen"
  solver: str = "adamw"
  fresh_head: bool = False
  fresh_features: bool = False
  objective: str = LOSS
  batch_tokens: int = 0
  batch_classes: int = 0
  lora_rank: int = 0
  clip_norm: float = 0.0
  label_smoothing: float = 0.0
  accumulate_steps: int = 1
  microbatches: int = 1
  longest: int = 1
  ema: float = 0.0
  augment: str = "none"
  copies: int = 0
  mixup: float = 0.0
  cutmix: float = 0.0
  imbalance: str = "none"

  @property
  def steps(self):
    """Batches of the whole phase."""
    return self.epochs * self.steps_per_epoch

  @property
  def mixes(self):
    """Whether images and targets are mixed."""
    return self.mixup > 0 or self.cutmix > 0

  @property
  def clean_from(self):
    """Number, from 0, of the first batch that is not mixed."""
    return self.steps - math.ceil(CLEAN_SHARE * self.steps)

  @property
  def backbone_trains(self):
    """Whether any stage of the backbone trains."""
    return any(stage != HEAD for stage in self.train_stages)


def plan(config, facts, num_devices=1):
  """Returns the phases of `config.recipe`, in order.

  Raises:
    UserError: --train_stages names nothing, or the recipe cannot train it.
  """
  phases = RECIPES[config.recipe](config, facts, num_devices)
  # --train_stages=none leaves the probe.
  return phases if phases[-1].backbone_trains or phases[-1].fresh_features else phases[:1]


def probe(config, facts, num_devices=1):
  """The head alone, on frozen features, until the validation loss stops falling."""
  batch_size = _batch_size(config.examples_per_step, facts.num_train, num_devices)
  steps_per_epoch = math.ceil(facts.num_train / batch_size)
  return [
    Phase(
      name="probe",
      train_stages=(HEAD,),
      epochs=config.head_epochs,
      steps_per_epoch=steps_per_epoch,
      batch_size=batch_size,
      learning_rates={HEAD: config.head_learning_rate},
      warmup_steps=math.ceil(WARMUP * config.head_epochs * steps_per_epoch),
      weight_decay=config.weight_decay,
      patience=config.early_stopping_patience,
      monitor="loss",
      solver=config.probe_solver,
      augment=config.augment if config.augment_copies else "none",
      copies=config.augment_copies,
      imbalance=config.imbalance,
    )
  ]


def lp_ft(config, facts, num_devices=1):
  """The probe to convergence, then --train_stages from there at a small rate (Kumar et al. 2022)."""
  names, only = train_stages(config.train_stages, facts)
  return probe(config, facts, num_devices) + [_fine_tune(config, facts, num_devices, names, only=only)]


def gradual(config, facts, num_devices=1):
  """The probe, then from the top stage downwards, one more a phase; ULMFiT's unfreezing (Howard & Ruder 2018).

  The epochs are shared among the phases; where there are more stages than epochs, several join at once.
  """
  names, only = train_stages(config.train_stages, facts)
  phases = probe(config, facts, num_devices)
  backbone = [name for name in names if facts.stages.get(name)]
  if not backbone and any(name != HEAD for name in names):
    raise UserError(f"--train_stages={config.train_stages}: nothing in these stages can train; choose others")
  epochs = _epochs(config, facts, num_devices)
  count = min(len(backbone), epochs)
  for k in range(1, count + 1):
    lowest = backbone[len(backbone) - round(len(backbone) * k / count)]
    unfrozen = names[names.index(lowest) :] if k < count else names
    share = epochs // count + (epochs % count if k == count else 0)
    phase = _fine_tune(config, facts, num_devices, unfrozen, only=only, epochs=share)
    phases.append(dataclasses.replace(phase, name=f"unfreeze_{k}"))
  return phases


def full(config, facts, num_devices=1):
  """--train_stages at once from a fresh head; the probe is only measured beside it."""
  names, only = train_stages(config.train_stages, facts)
  if HEAD not in names:
    raise UserError(f"--recipe=full starts from a fresh head: add head to --train_stages={config.train_stages}")
  phase = _fine_tune(config, facts, num_devices, names, only=only)
  rates = phase.learning_rates | {HEAD: config.head_learning_rate}
  return probe(config, facts, num_devices) + [
    dataclasses.replace(phase, name="full", fresh_head=True, learning_rates=rates)
  ]


def lora(config, facts, num_devices=1):
  """The probe, then low-rank updates of the dense and convolution kernels of --train_stages (Hu et al. 2022)."""
  names, only = train_stages(config.train_stages, facts)
  if only != ALL:
    raise UserError("--recipe=lora chooses the kernels itself: give --train_stages as stage names")
  phase = _fine_tune(config, facts, num_devices, names, only=KERNELS, boost=LIGHT_RATE)
  return probe(config, facts, num_devices) + [dataclasses.replace(phase, name="lora", lora_rank=config.lora_rank)]


def bias_norm(config, facts, num_devices=1):
  """The probe, then the biases and the normalisation of --train_stages only (BitFit, Ben Zaken et al. 2022)."""
  names, only = train_stages(config.train_stages, facts)
  if only != ALL:
    raise UserError("--recipe=bias_norm chooses the variables itself: give --train_stages as stage names")
  phase = _fine_tune(config, facts, num_devices, names, only=BIAS_NORM, boost=LIGHT_RATE)
  return probe(config, facts, num_devices) + [dataclasses.replace(phase, name="bias_norm")]


def contrastive(config, facts, num_devices=1):
  """The probe; then --train_stages by supervised contrast; then the probe again, on the features that have come of it.

  For few examples a class (Tunstall et al. 2022, SetFit; here with the loss of Khosla et al. 2020).
  """
  names, only = train_stages(config.train_stages, facts)
  names = tuple(name for name in names if name != HEAD)
  first = probe(config, facts, num_devices)
  if not names:
    return first
  # What an example is told apart from is in its batch alone.
  classes = min(facts.num_classes, max(2, 2 * config.examples_per_step // CONTRAST_EACH))
  size = classes * max(2, 2 * config.examples_per_step // classes)
  own = {"early_stopping_patience": 0, "ema": 0.0, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0}
  wide = dataclasses.replace(config, batch_size=size, imbalance="none", **own)
  per_epoch = math.ceil(facts.num_train / size)
  epochs = config.epochs or min(CONTRAST_EPOCHS[1], max(CONTRAST_EPOCHS[0], round(CONTRAST_STEPS / per_epoch)))
  phase = _fine_tune(wide, facts, num_devices, names, only=only, epochs=epochs, boost=CONTRAST_RATE)
  changes = {"name": "contrast", "objective": CONTRAST, "monitor": "loss", "batch_size": size, "batch_classes": classes}
  phase = dataclasses.replace(phase, **changes, steps_per_epoch=per_epoch)
  return [*first, phase, dataclasses.replace(first[0], name="refit", fresh_head=True, fresh_features=True)]


RECIPES = {
  "probe": probe,
  "lp_ft": lp_ft,
  "gradual": gradual,
  "full": full,
  "lora": lora,
  "bias_norm": bias_norm,
  "contrastive": contrastive,
}


def train_stages(text, facts):
  """Reads --train_stages.

  Args:
    text: "all", "none", "top:N", stage names with commas, or a regular expression over variable paths.
    facts: `Facts`.

  Returns:
    (names of the stages that train, from the input upwards; what of them trains: "all" or the regular expression).

  Raises:
    UserError: no stage and no variable has such a name.
  """
  backbone = list(facts.stages)
  if not text.strip():
    raise UserError("--train_stages is empty: give all, none, top:N, stage names or a regular expression")
  if text in ("all", "none"):
    return (*(backbone if text == "all" else []), HEAD), ALL
  if re.fullmatch(r"top:\d+", text):
    count, training = int(text[4:]), [name for name in backbone if facts.stages[name]]
    if count > len(training):
      raise UserError(
        f"--train_stages={text}, but this backbone has {len(training)} stages that can train: {', '.join(training)}"
      )
    return (*training[len(training) - count :], HEAD), ALL
  wanted = [name.strip() for name in text.split(",") if name.strip()]
  if wanted and set(wanted) <= {*backbone, HEAD}:
    return tuple(name for name in (*backbone, HEAD) if name in wanted), ALL
  try:
    expression = re.compile(text)
  except re.error as error:
    raise UserError(f"--train_stages={text} is neither stage names nor a regular expression: {error}") from None
  found = tuple(name for name, paths in facts.stages.items() if any(expression.search(path) for path in paths))
  if not found:
    raise UserError(
      f"--train_stages={text} is no stage of this backbone ({', '.join([*backbone, HEAD])}), and no name of a variable "
      "that can train matches it as a regular expression"
    )
  return (*found, HEAD), text


def learning_rate(config, facts):
  """Returns the peak learning rate of fine-tuning the whole network: --learning_rate, or the modality's default."""
  return config.learning_rate or facts.learning_rate


def _fine_tune(config, facts, num_devices, names, only=ALL, epochs=None, boost=1.0):
  batch_size, steps_per_epoch = _batches(config, facts, num_devices)
  epochs = epochs or _epochs(config, facts, num_devices)
  rate = learning_rate(config, facts) * (1.0 if config.learning_rate else boost)
  top = config.backbone_learning_rate or rate
  training = [name for name in reversed(facts.stages) if facts.stages[name]]
  depth = {name: i for i, name in enumerate(training)}
  rates = {name: rate if name == HEAD else top * config.layer_decay ** depth.get(name, 0) for name in names}
  phase = Phase(
    name="fine_tune",
    train_stages=tuple(names),
    epochs=epochs,
    steps_per_epoch=steps_per_epoch,
    batch_size=batch_size,
    learning_rates=rates,
    warmup_steps=0,
    weight_decay=config.weight_decay,
    patience=config.early_stopping_patience,
    monitor=facts.score,
    only=only,
    bn=config.bn,
    clip_norm=config.clip_norm,
    label_smoothing=config.label_smoothing,
    accumulate_steps=config.accumulate_steps,
    batch_tokens=config.batch_tokens,
    ema=config.ema,
    augment=config.augment,
    copies=config.augment_copies,
    mixup=config.mixup,
    cutmix=config.cutmix,
    imbalance=config.imbalance,
  )
  return dataclasses.replace(phase, warmup_steps=math.ceil(WARMUP * phase.steps))


def _epochs(config, facts, num_devices):
  if config.epochs:
    return config.epochs
  per_epoch = _batches(config, facts, num_devices)[1] / config.accumulate_steps
  return min(EPOCHS[1], max(EPOCHS[0], round(FINE_TUNING_STEPS / per_epoch)))


def _batches(config, facts, num_devices):
  """Returns (examples of a batch of fine-tuning, batches of an epoch)."""
  if config.batch_tokens:
    # A whole number of batches, divided and multiplied again, may come out above itself.
    return max(1, round(facts.batch_examples)), math.ceil(round(facts.num_train / facts.batch_examples, 6))
  batch_size = _batch_size(config.examples_per_step, facts.num_train, num_devices)
  return batch_size, math.ceil(facts.num_train / batch_size)


def _batch_size(batch_size, num_train, num_devices):
  # A batch larger than the data set would hold every example several times.
  return max(num_devices, min(batch_size, num_train) // num_devices * num_devices)
