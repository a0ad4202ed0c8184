"""Recipes: pure functions from `Config` and `Facts` to a list of `Phase`. This module does not import TensorFlow."""

import dataclasses
import math

from tl_app.errors import UserError
from tl_app.recipes import probe_solver, train_stages
from tl_app.recipes.phase import (
  ALL,
  BIAS_NORM,
  HEAD,
  KERNELS,
  InputSpec,
  OptimizerSpec,
  Phase,
  Schedule,
  SupervisedContrastive,
  TaskLoss,
  Trainable,
)

# Peak learning rate of a head that starts from zero, with Adam.
HEAD_RATE = 1e-3
# {optimizer: factor of the default learning rates, which are those of Adam}.
OPTIMIZER_MULTIPLIERS = {"sgd": 10.0, "lion": 0.1, "lamb": 10.0, "adafactor": 10.0}
# With fewer optimizer steps a small data set is underfitted (Mosbach et al. 2021 take 20 epochs for a few thousand
# texts).
FINE_TUNING_STEPS = 1000
# Smallest and largest number of epochs of fine-tuning.
EPOCHS = (3, 20)
# The preset `balanced` fine-tunes fewer than 1,000 examples for so many epochs, or for `Facts.few_steps` if these are
# more.
BALANCED_EPOCHS = 10
# Fine-tunings of the preset `best`.
BEST_SEEDS = 3
# The same three numbers for random weights, which need more steps; early stopping ends most runs before.
STEPS_FROM_RANDOM = 3000
EPOCHS_FROM_RANDOM = (10, 60)
# Recipes that train the angles between features, so that the head reads L2-normalised features.
L2_NORMALIZED = ("contrastive",)
# Name of the phase that trains the head of an objective of pretraining alone.
WARM_UP = "warm_up"
# On banking77 with ten examples per class, 60 batches of 64 were as good as 120.
CONTRASTIVE_STEPS = 60
CONTRASTIVE_EPOCHS = (1, 20)
CONTRASTIVE_MULTIPLIER = 0.5
EXAMPLES_PER_CLASS = 4
# LoRA uses about five times the learning rate of full fine-tuning (Hu et al. 2022, 5e-4 for RoBERTa-base), and so does
# BitFit.
LIGHT_MULTIPLIER = 5.0


def plan(config, facts, num_devices=1) -> list[Phase]:
  """Returns the phases of `config.recipe`, in order.

  Args:
    config: the `Config`.
    facts: the `Facts`.
    num_devices: number of devices.

  Raises:
    UserError: --train_stages names nothing, or the recipe cannot train it.
  """
  phases = _with_seeds(RECIPES[config.recipe](config, facts, num_devices), config)
  # --train_stages=none leaves the probe.
  last = phases[-1]
  return phases if last.trains_backbone or last.inputs.recompute_features else phases[:1]


def _with_seeds(phases, config):
  """Returns the phases with those of --fine_tuning_seeds, each from the probe and with another order of examples."""
  if len(phases) != 2 or not phases[1].objective.trains_head:
    return phases
  tuned = phases[1]
  again = range(1, config.fine_tuning_seeds or (BEST_SEEDS if config.preset == "best" else 1))
  return [*phases, *(tuned.replace(name=f"{tuned.name}_{k + 1}", restart=True, seed_offset=k) for k in again)]


def auto(config, facts, num_devices=1) -> list[Phase]:
  """Returns the phases of --preset: the probe, `lp_ft`, `contrastive`, or `full` for a backbone with random weights.

  A head that was trained on random features is no better start than a new one. `contrastive` is for few texts of
  many classes.
  """
  if config.probe_alone:
    return probe(config, facts, num_devices)
  if not facts.pretrained:
    return full(config, facts, num_devices)
  return (contrastive if facts.contrasts else lp_ft)(config, facts, num_devices)


def probe(config, facts, num_devices=1) -> list[Phase]:
  """Trains the head alone, on frozen features, until the validation loss stops falling."""
  batch_size = _batch_size(config.examples_per_step, facts.num_train, num_devices)
  steps_per_epoch = math.ceil(facts.num_train / batch_size)
  solver, reason = probe_solver.choose(config, facts)
  return [
    Phase(
      name="probe",
      trains=Trainable((HEAD,)),
      schedule=Schedule(
        epochs=config.head_epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=math.ceil(config.warmup * config.head_epochs * steps_per_epoch),
        patience=config.early_stopping_patience,
        monitor="loss",
        curve=config.schedule,
      ),
      optimizer=OptimizerSpec(
        learning_rates={HEAD: _head_rate(config)},
        weight_decay=_weight_decay(config),
        solver=solver,
        solver_reason=reason,
        algorithm=config.optimizer,
        momentum=config.momentum,
      ),
      objective=TaskLoss(imbalance=config.imbalance),
      inputs=InputSpec(
        batch_size=batch_size,
        augment=config.augment if config.augment_copies else "none",
        augment_copies=config.augment_copies,
      ),
    )
  ]


def lp_ft(config, facts, num_devices=1) -> list[Phase]:
  """Trains the probe to convergence, then fine-tunes --train_stages at a small learning rate (Kumar et al. 2022)."""
  names, trainable_filter = train_stages.parse(config.train_stages, facts, config.freeze_head)
  phase = _fine_tune(config, facts, num_devices, names)
  return [*probe(config, facts, num_devices), phase.replace(trainable_filter=trainable_filter)]


def gradual(config, facts, num_devices=1) -> list[Phase]:
  """Trains the probe, then unfreezes one more stage per phase, from the top stage down (ULMFiT, Howard & Ruder 2018).

  The epochs are shared among the phases; with more stages than epochs, a phase unfreezes several stages.
  """
  names, trainable_filter = train_stages.parse(config.train_stages, facts, config.freeze_head)
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
    phase = _fine_tune(config, facts, num_devices, unfrozen, epochs=share)
    phases.append(phase.replace(name=f"unfreeze_{k}", trainable_filter=trainable_filter))
  return phases


def full(config, facts, num_devices=1) -> list[Phase]:
  """Trains --train_stages and a new head at once. The probe is trained too, for comparison."""
  names, trainable_filter = train_stages.parse(config.train_stages, facts, config.freeze_head)
  if HEAD not in names:
    raise UserError("--recipe=full trains a new head: remove --freeze_head")
  phase = _fine_tune(config, facts, num_devices, names)
  learning_rates = phase.optimizer.learning_rates | {HEAD: _head_rate(config)}
  changes = {"trainable_filter": trainable_filter, "reset_head": True, "learning_rates": learning_rates}
  return [*probe(config, facts, num_devices), phase.replace(name="full", **changes)]


def lora(config, facts, num_devices=1) -> list[Phase]:
  """Trains the probe, then low-rank updates of the dense and convolution kernels of --train_stages (Hu et al. 2022)."""
  names = _whole_stages(config, facts, "kernels")
  phase = _fine_tune(config, facts, num_devices, names, lr_multiplier=LIGHT_MULTIPLIER)
  changes = {"trainable_filter": KERNELS, "lora_rank": config.lora_rank}
  return [*probe(config, facts, num_devices), phase.replace(name="lora", **changes)]


def bias_norm(config, facts, num_devices=1) -> list[Phase]:
  """Trains the probe, then only the biases and normalisation of --train_stages (BitFit, Ben Zaken et al. 2022)."""
  names = _whole_stages(config, facts, "variables")
  phase = _fine_tune(config, facts, num_devices, names, lr_multiplier=LIGHT_MULTIPLIER)
  return [*probe(config, facts, num_devices), phase.replace(name="bias_norm", trainable_filter=BIAS_NORM)]


def contrastive(config, facts, num_devices=1) -> list[Phase]:
  """Trains the probe, then --train_stages with the supervised contrastive loss, then the probe on the new features.

  This is meant for few examples per class (SetFit, Tunstall et al. 2022; here with the loss of Khosla et al. 2020).
  """
  names, trainable_filter = train_stages.parse(config.train_stages, facts, config.freeze_head)
  names = tuple(name for name in names if name != HEAD)
  first = probe(config, facts, num_devices)
  if not names:
    return first
  # An example is compared only with the examples of its batch, so the batch is twice as large.
  classes = min(facts.num_classes, max(2, 2 * config.examples_per_step // EXAMPLES_PER_CLASS))
  # All devices get equally many examples.
  multiple = num_devices // math.gcd(classes, num_devices)
  # No more of a class than there are: a repeated example costs as much as another one, and teaches less.
  of_class = min(2 * config.examples_per_step // classes, math.ceil(facts.num_train / facts.num_classes))
  batch_size = classes * multiple * max(-(-2 // multiple), of_class // multiple)
  steps_per_epoch = math.ceil(facts.num_train / batch_size)
  least, most = CONTRASTIVE_EPOCHS
  epochs = config.epochs or min(most, max(least, round(CONTRASTIVE_STEPS / steps_per_epoch)))
  phase = _fine_tune(config, facts, num_devices, names, epochs, CONTRASTIVE_MULTIPLIER, (batch_size, steps_per_epoch))
  phase = dataclasses.replace(phase, name="contrastive", objective=SupervisedContrastive(classes))
  changes = {"trainable_filter": trainable_filter, "monitor": "loss", "patience": 0}
  changes |= {"ema": 0.0, "mixup": 0.0, "cutmix": 0.0, "batch_tokens": 0}
  refit = first[0].replace(name="refit", reset_head=True, recompute_features=True)
  return [*first, phase.replace(**changes), refit]


def pretrain(config, facts, objective, warm_up_steps=0, num_devices=1) -> list[Phase]:
  """Returns the phases of a pretraining: the head alone if it needs a warm-up, then --train_stages with it.

  Args:
    config: the `Config`.
    facts: the `Facts`.
    objective: the settings of the objective, one of `phase.PRETRAINING_OBJECTIVES`.
    warm_up_steps: smallest number of steps of the head alone; 0 for no such phase.
    num_devices: number of devices.

  Raises:
    UserError: --train_stages names nothing.
  """
  names, trainable_filter = train_stages.parse(config.train_stages, facts)
  phase = dataclasses.replace(_fine_tune(config, facts, num_devices, names), name=objective.name, objective=objective)
  phase = phase.replace(trainable_filter=trainable_filter, monitor="loss", ema=0.0)
  if not phase.trains_backbone:
    raise UserError(f"--train_stages={config.train_stages} trains nothing of the backbone: name stages, or use all")
  if not warm_up_steps:
    return [phase]
  epochs = math.ceil(warm_up_steps / phase.schedule.steps_per_epoch)
  changes = {"train_stages": (HEAD,), "trainable_filter": ALL, "epochs": epochs, "patience": 0}
  changes |= {"warmup_steps": math.ceil(config.warmup * epochs * phase.schedule.steps_per_epoch), "accumulate_steps": 1}
  head = phase.replace(name=WARM_UP, learning_rates={HEAD: _head_rate(config)}, **changes)
  return [head, phase]


RECIPES = {
  "auto": auto,
  "probe": probe,
  "lp_ft": lp_ft,
  "gradual": gradual,
  "full": full,
  "lora": lora,
  "bias_norm": bias_norm,
  "contrastive": contrastive,
}


def _whole_stages(config, facts, what):
  """Returns the names of the stages that train, for a recipe that selects the variables itself."""
  names, trainable_filter = train_stages.parse(config.train_stages, facts, config.freeze_head)
  if trainable_filter != ALL:
    raise UserError(f"--recipe={config.recipe} selects the {what} itself: use stage names in --train_stages")
  return names


def _fine_tune(config, facts, num_devices, names, epochs=None, lr_multiplier=1.0, batches=None):
  """Returns the phase that fine-tunes the stages `names`.

  Args:
    config: the `Config`.
    facts: the `Facts`.
    num_devices: number of devices.
    names: names of the stages, from the input upwards.
    epochs: number of epochs; None for the flags' or the default number.
    lr_multiplier: factor of the default learning rate; --learning_rate replaces both.
    batches: (examples per batch, batches per epoch); None for those of the flags.
  """
  batch_size, steps_per_epoch = batches or _batches(config, facts, num_devices)
  epochs = epochs or _epochs(config, facts, num_devices)
  rate = config.learning_rate or facts.learning_rate * lr_multiplier * _rate_multiplier(config)
  top = config.backbone_learning_rate or rate
  trainable = [name for name in reversed(facts.stages) if facts.stages[name]]
  depth = {name: i for i, name in enumerate(trainable)}
  decay = config.layer_decay if facts.pretrained else 1.0
  automatic_bn = "frozen" if facts.pretrained else "train"
  return Phase(
    name="fine_tune",
    trains=Trainable(tuple(names), bn=automatic_bn if config.bn == "auto" else config.bn),
    schedule=Schedule(
      epochs=epochs,
      steps_per_epoch=steps_per_epoch,
      warmup_steps=math.ceil(config.warmup * (epochs * steps_per_epoch)),
      patience=config.early_stopping_patience,
      monitor=facts.primary_metric,
      curve=config.schedule,
    ),
    optimizer=OptimizerSpec(
      learning_rates={name: rate if name == HEAD else top * decay ** depth.get(name, 0) for name in names},
      weight_decay=_weight_decay(config),
      clip_norm=config.clip_norm,
      accumulate_steps=config.accumulate_steps,
      ema=config.ema,
      algorithm=config.optimizer,
      momentum=config.momentum,
    ),
    objective=TaskLoss(config.label_smoothing, config.imbalance),
    inputs=InputSpec(
      batch_size=batch_size,
      batch_tokens=config.batch_tokens,
      augment=config.augment,
      augment_copies=config.augment_copies,
      mixup=config.mixup,
      cutmix=config.cutmix,
    ),
  )


def _head_rate(config):
  """Returns the peak learning rate of a new head."""
  return config.head_learning_rate or HEAD_RATE * _rate_multiplier(config)


def _rate_multiplier(config):
  return OPTIMIZER_MULTIPLIERS.get(config.optimizer, 1.0)


def _weight_decay(config):
  """Returns the weight decay: Adam without it is what --optimizer=adam means."""
  return 0.0 if config.optimizer == "adam" else config.weight_decay


def _epochs(config, facts, num_devices):
  if config.epochs:
    return config.epochs
  updates_per_epoch = _batches(config, facts, num_devices)[1] / config.accumulate_steps
  steps, (least, most) = (FINE_TUNING_STEPS, EPOCHS) if facts.pretrained else (STEPS_FROM_RANDOM, EPOCHS_FROM_RANDOM)
  if config.preset == "best":
    steps, least, most = 2 * steps, 2 * least, 2 * most
  elif config.recipe == "auto" and facts.pretrained:
    few = max(BALANCED_EPOCHS, math.ceil(facts.few_steps / updates_per_epoch), facts.num_train // 100)
    most = min(most, few)
  return min(most, max(least, round(steps / updates_per_epoch)))


def _batches(config, facts, num_devices):
  """Returns (examples per batch of fine-tuning, batches per epoch)."""
  if config.batch_tokens:
    # Rounded before `ceil`: by rounding errors a whole number of batches may be slightly too large.
    return max(1, round(facts.batch_examples)), math.ceil(round(facts.num_train / facts.batch_examples, 6))
  batch_size = _batch_size(config.examples_per_step, facts.num_train, num_devices)
  return batch_size, math.ceil(facts.num_train / batch_size)


def _batch_size(batch_size, num_train, num_devices):
  # A batch larger than the data set would contain examples several times.
  return max(num_devices, min(batch_size, num_train) // num_devices * num_devices)
