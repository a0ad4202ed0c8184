"""Rules about flags that can speak once the phases are known; see `config.rules` for the rules that need less.

A rule of `RULES` takes (config, phases, model, devices) and returns one line about what cannot work, or "". A rule of
`WITHOUT_EFFECT` returns {flag: reason} of flags that change nothing; these are only logged. To add a rule, write its
function and put it into a table; `tests/training/test_phase_rules.py` requires an example of each.
"""

from collections.abc import Sequence

from tl_app.compute.devices import Devices
from tl_app.config import rules
from tl_app.model.model import Model
from tl_app.recipes.phase import KERNELS, Phase
from tl_app.training import objectives


def check(config, phases: Sequence[Phase], model: Model, devices: Devices) -> None:
  """Raises `UserError` with the line of the first rule that the flags or the phases break."""
  for rule in RULES:
    rules.require(rule(config, phases, model, devices))


def probe_comes_first(config, phases, model, devices):
  """Model selection compares everything with the probe."""
  if not phases or phases[0].trains_backbone:
    return "the first phase must train the head alone: start the list with recipes.probe(..)"
  return ""


def stages_exist(config, phases, model, devices):
  """A phase names stages of this backbone."""
  for phase in phases:
    unknown = [name for name in phase.trains.train_stages if name not in model.stages]
    if unknown:
      return f"phase {phase.name}: {unknown[0]} is no stage of this backbone ({', '.join(model.stages)})"
  return ""


def stages_have_learning_rates(config, phases, model, devices):
  """Gradient descent needs a learning rate for each stage that trains."""
  for phase in phases:
    missing = [name for name in phase.trains.train_stages if name not in phase.optimizer.learning_rates]
    if missing and phase.optimizer.uses_gradients:
      return f"phase {phase.name}: learning_rates has no learning rate for stage {missing[0]}"
  return ""


def lora_updates_kernels(config, phases, model, devices):
  """Low-rank updates are defined for kernels."""
  for phase in phases:
    if phase.trains.lora_rank and phase.trains.trainable_filter != KERNELS:
      return f'phase {phase.name}: lora_rank={phase.trains.lora_rank} needs trainable_filter="{KERNELS}"'
  return ""


def refit_needs_a_closed_form(config, phases, model, devices):
  """Cross-validation fits the probe many times."""
  optimizer = phases[0].optimizer
  if config.refit == "always" and optimizer.uses_gradients:
    return f"--refit=always needs a probe that scikit-learn solves, which this one is not ({optimizer.solver_reason})"
  return ""


def features_are_not_stale(config, phases, model, devices):
  """Frozen features are those of the backbone before it trains."""
  trained = False
  for phase in phases:
    if trained and not phase.trains_backbone and not phase.inputs.recompute_features:
      return f"phase {phase.name} fits the head after the backbone has trained: give it recompute_features=True"
    trained |= phase.trains_backbone
  return ""


def accumulation_makes_an_update(config, phases, model, devices):
  """A phase has at least the batches of one optimizer step."""
  for phase in phases:
    steps = phase.schedule.steps
    if phase.optimizer.accumulate_steps > steps:
      return (
        f"--accumulate_steps={phase.optimizer.accumulate_steps}, but phase {phase.name} has {steps} batches in all: no "
        "update would be made; lower it, or raise --epochs"
      )
  return ""


def strings_train_on_one_device(config, phases, model, devices):
  """Keras cannot distribute batches of strings in training."""
  backbone = model.backbone
  takes_strings = any(x.dtype == "string" for x in backbone.network.inputs)
  if takes_strings and devices.replicas > 1 and any(phase.trains_backbone for phase in phases):
    return (
      f"{backbone.spec.name} takes texts as strings, and Keras cannot train on strings on several devices: pass "
      "--strategy=single, or --recipe=probe"
    )
  return ""


def objectives_fit(config, phases, model, devices):
  """Some objectives need classes, or one device."""
  problems = (objectives.of(phase).problem(model.task, devices.replicas) for phase in phases)
  return next((f"--recipe={config.recipe} {problem}" for problem in problems if problem), "")


RULES = (
  probe_comes_first,
  stages_exist,
  stages_have_learning_rates,
  lora_updates_kernels,
  refit_needs_a_closed_form,
  features_are_not_stale,
  accumulation_makes_an_update,
  strings_train_on_one_device,
  objectives_fit,
)

# Flags about how the backbone trains, which do not concern the head alone.
FINE_TUNING_FLAGS = (
  *("epochs", "learning_rate", "backbone_learning_rate", "layer_decay", "bn", "clip_norm", "ema", "accumulate_steps"),
  *("batch_tokens", "augment", "mixup", "cutmix", "label_smoothing", "precision", "jit", "max_minutes", "train_stages"),
  *("freeze_head", "fine_tuning_seeds", "interpolate", "recipe"),
)
# Values of --train_stages that leave the head alone.
HEAD_ALONE = ("none", "head")


def flags_without_effect(config, phases: Sequence[Phase], bn_modes=("batch",), has_image_size=False) -> dict[str, str]:
  """Returns {flag: why it does nothing in these phases}, for flags that could matter with other phases.

  They do not stop a run: a comparison gives all recipes the same flags.

  Args:
    config: the `Config`.
    phases: of the run.
    bn_modes: modes in which BatchNormalization runs in any stage of them, see `stages.batch_norm_modes`.
    has_image_size: whether --max_minutes may choose smaller images.
  """
  reasons = {}
  for rule in WITHOUT_EFFECT:
    reasons |= rule(config, phases, bn_modes, has_image_size)
  return {name: reason for name, reason in reasons.items() if rules.is_given(config, name)}


def fine_tuning_needs_a_backbone_phase(config, phases, bn_modes, has_image_size):
  """Flags of fine-tuning do nothing for a head alone, except those that the head or the choice of phases uses."""
  if any(phase.trains_backbone for phase in phases):
    return {}
  used = {"augment"} if phases[0].inputs.augment_copies else set()
  used |= {"max_minutes"} if has_image_size and not config.image_size else set()
  used |= {"train_stages"} if config.train_stages in HEAD_ALONE else set()
  used |= {"recipe"} if config.recipe == "probe" else set()
  return {name: "no phase trains the backbone" for name in FINE_TUNING_FLAGS if name not in used}


def bn_needs_batch_normalization(config, phases, bn_modes, has_image_size):
  """--bn is about BatchNormalization on batch statistics."""
  if "batch" in bn_modes or not any(phase.trains_backbone for phase in phases):
    return {}
  return {"bn": "no stage has BatchNormalization that can run on batch statistics in these phases"}


def rank_needs_lora(config, phases, bn_modes, has_image_size):
  """--lora_rank is about low-rank updates."""
  return {} if any(phase.trains.lora_rank for phase in phases) else {"lora_rank": "it belongs to --recipe=lora"}


def ema_needs_averages(config, phases, bn_modes, has_image_size):
  """Some objectives keep no averaged weights."""
  if all(phase.objective.keeps_averages for phase in phases):
    return {}
  return {"ema": f"--recipe={config.recipe} keeps no averaged weights"}


def frozen_heads_need_the_task_loss(config, phases, bn_modes, has_image_size):
  """Some objectives train the backbone without the head."""
  if any(phase.trains_backbone and phase.objective.trains_head for phase in phases):
    return {}
  return {"freeze_head": f"--recipe={config.recipe} trains the backbone without the head"}


def optimizer_flags_need_gradients(config, phases, bn_modes, has_image_size):
  """scikit-learn's solvers take no optimizer steps."""
  if phases[0].optimizer.uses_gradients:
    return {}
  gradient = [phase for phase in phases if phase.optimizer.uses_gradients]
  names = [] if any(phase.trains.reset_head for phase in gradient) else ["head_learning_rate"]
  names += (
    [] if gradient else ["weight_decay", "early_stopping_patience", "optimizer", "momentum", "schedule", "warmup"]
  )
  reason = f"--probe_solver={phases[0].optimizer.solver} does not train by gradient descent"
  return dict.fromkeys(["head_epochs", *names], reason)


WITHOUT_EFFECT = (
  bn_needs_batch_normalization,
  rank_needs_lora,
  ema_needs_averages,
  frozen_heads_need_the_task_loss,
  # After the rule above, whose reason it replaces.
  fine_tuning_needs_a_backbone_phase,
  optimizer_flags_need_gradients,
)
