"""`Plan`: everything that is decided before anything trains."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np

from tl_app.backbones.backbone import Backbone, parameters
from tl_app.compute.devices import Devices
from tl_app.config import AUTO, rules
from tl_app.config.groups import InputConfig
from tl_app.data import modalities, pipeline
from tl_app.data.training_data import TrainingData
from tl_app.errors import UserError
from tl_app.features.frozen import Features
from tl_app.model import stages, variables
from tl_app.model.model import Model
from tl_app.preprocessing import long_text
from tl_app.recipes.facts import Facts
from tl_app.recipes.phase import HEAD, Phase, SupervisedContrastive
from tl_app.training import objectives, phase_augmentation, phase_rules, precision
from tl_app.training.batch_size import BatchSize

log = logging.getLogger(__name__)

# The automatic --max_length holds this share of the training texts whole.
LENGTH_QUANTILE = 0.99
# Default peak learning rate of a backbone with random weights.
RANDOM_LEARNING_RATE = 1e-3
# The preset `balanced` takes the supervised contrastive loss for at most so many training examples of a class, on
# average, and for more classes than a batch holds of it. With ten texts of a class it was better than the loss of the
# task on 77 classes, and worse on two.
CONTRASTIVE_EXAMPLES, CONTRASTIVE_CLASSES = 16, 17
# The preset `balanced` leaves the lower stages as they are, see `Modality.few_frozen`, on fewer examples than this.
FEW_EXAMPLES = 1000
# Flags of fine-tuning by the loss of the task, besides those that rules refuse with --recipe=contrastive.
_OF_TASK_LOSS = ("epochs", "imbalance", "ema", "freeze_head", "head_hidden_units", "head_dropout")


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run does.

  Attributes:
    task: {"name", "why"}.
    backbone: {"name", "kind", "feature_size", "parameters", "notes"}.
    preprocessing: {"image_size"}, or {"max_length", ..}, see `set_preprocessing`.
    class_names: names of the logits.
    stages: [{"name", "variables", "parameters"}].
    phases: the `Phase`s, in order.
    phase_facts: for each phase {"examples", "changed_examples", "stages"}, see `stage_rows`.
    batch_size: what --batch_size=auto has measured.
    results: {name of a phase: what was decided while it ran}.
  """

  task: dict
  backbone: dict
  preprocessing: dict
  class_names: tuple
  stages: list
  phases: tuple[Phase, ...]
  phase_facts: tuple[dict, ...]
  batch_size: BatchSize
  results: dict = dataclasses.field(default_factory=dict)

  def with_results(self, results: Sequence, model: Model) -> "Plan":
    """Returns the plan with what was decided while its phases ran.

    Args:
      results: the `PhaseResult`s.
      model: the `Model`.
    """
    return dataclasses.replace(self, results={r.planned.name: _decided(r, model) for r in results})

  def to_json(self) -> dict:
    """Returns the content of plan.json."""
    phases = [
      phase.to_json() | facts | self.results.get(phase.name, {}) for phase, facts in zip(self.phases, self.phase_facts)
    ]
    content = {
      "backbone": self.backbone,
      "preprocessing": self.preprocessing,
      "task": self.task,
      "class_names": list(self.class_names),
      "stages": self.stages,
      "phases": phases,
    }
    return content | ({"batch_size": self.batch_size.notes} if self.batch_size.notes else {})


def set_preprocessing(config: InputConfig, data: TrainingData, model: Model) -> dict:
  """Chooses the text length, sets it in the model's preprocessing, and returns how inputs are read.

  The length is that of --max_length, or one that holds `LENGTH_QUANTILE` of the training texts whole. It can be chosen
  only after the loaded preprocessing has counted the tokens.

  Returns:
    {"image_size"} in pixels, or {"max_length"} in tokens (0: no limit) with "long_text" and its "max_windows".
  """
  preprocess, how = model.backbone.preprocess, config.long_text
  if not modalities.of(data.examples.modality).varies_in_length:
    return {"image_size": int(preprocess.size)}
  if not preprocess.limit:
    return {"max_length": 0}
  if not config.max_length:
    longest = length_of(data.lengths[data.train])
    limit = long_text.WINDOW_LENGTH if how == "windows" else preprocess.limit
    preprocess.max_length = int(min(longest, limit, preprocess.limit))
  chosen = {"max_length": int(preprocess.max_length), "long_text": how}
  return chosen | ({"max_windows": config.max_windows} if how == "windows" else {})


def length_of(counts: np.ndarray) -> int:
  """Returns the length in tokens, a multiple of 16, that holds `LENGTH_QUANTILE` of the texts whole.

  Args:
    counts: number of tokens of each text, int [n].
  """
  return math.ceil(np.quantile(counts, LENGTH_QUANTILE) / 16) * 16


def truncation(data: TrainingData, model: Model) -> dict:
  """Returns {"texts_cut", "tokens_read"}, shares of the training texts and their tokens, for the length of the model.

  Models that answer per token have "words_not_read" too. It is empty for inputs without a length limit.
  """
  preprocess = model.backbone.preprocess
  if data.lengths is None or not preprocess.limit:
    return {}
  lengths, shares = data.lengths[data.train], {}
  if model.task.per_token:
    words, read = pipeline.of_texts(preprocess.count_words, data.examples.inputs).sum(axis=0)
    shares["words_not_read"] = round(float(1 - read / words), 4)
  read = long_text.tokens_read(preprocess, lengths)
  # Rounded down: a share of 1 means that every token is read.
  share = math.floor(1e4 * read.sum() / lengths.sum()) / 1e4
  return shares | {"texts_cut": round(float(np.mean(read < lengths)), 4), "tokens_read": share}


def facts(config, data: TrainingData, model: Model, devices: Devices) -> Facts:
  """Returns the `Facts` that recipes are made from."""
  backbone, batch_examples = model.backbone, 0.0
  if config.batch_tokens:
    batch_examples = objectives.mean_token_batch(
      config.batch_tokens, config.imbalance, data, backbone.preprocess, devices.replicas, config.seed
    )
  return Facts(
    num_train=len(data.train),
    num_classes=len(model.task.codec.names),
    learning_rate=default_learning_rate(backbone),
    stages={name: tuple(v.path for v in stage if id(v) in model.can_train) for name, stage in backbone.stages.items()},
    primary_metric=model.task.metrics.primary_metric,
    batch_examples=batch_examples,
    pretrained=backbone.pretrained,
    few_steps=modalities.of(backbone.modality).few_steps,
    frozen=frozen(config, data, backbone),
    contrasts=contrasts(config, data, model),
    closed_solver=model.task.closed_solver,
    probe_work=float(_probe_rows(data, model)) * backbone.feature_size * len(model.task.codec.names),
  )


def frozen(config, data: TrainingData, backbone: Backbone) -> tuple[str, ...]:
  """Returns the names of the stages that --train_stages=auto does not train."""
  few = len(data.train) < FEW_EXAMPLES
  if config.recipe != AUTO or config.preset != "balanced" or not backbone.pretrained or not few:
    return ()
  stages = tuple(backbone.stages)
  return stages[: int(modalities.of(backbone.modality).few_frozen * len(stages))]


def contrasts(config, data: TrainingData, model: Model) -> bool:
  """Returns whether the presets `balanced` and `best` fine-tune by the supervised contrastive loss.

  It moves the angles between features, so it is for encoders of sentences, whose features have L2 norm 1, and for few
  texts of many classes, with one class each.
  """
  if config.recipe != AUTO or config.preset == "quick":
    return False
  if any(rules.is_given(config, name) for name in _OF_TASK_LOSS) or config.select in ("averaged", "soup"):
    return False
  try:
    rules.check(rules.FLAGS, dataclasses.replace(config, recipe="contrastive"))
  except UserError:
    return False
  backbone, classes = model.backbone, len(model.task.names)
  suits = backbone.pretrained and backbone.spec.l2_normalized and not backbone.pairs and model.task.single_label
  few = 2 * classes <= len(data.train) <= CONTRASTIVE_EXAMPLES * classes
  return suits and few and classes >= CONTRASTIVE_CLASSES


def _probe_rows(data, model):
  """Returns the number of rows that the probe is fitted on; of words, about as many as there are tokens."""
  rows = data.train_rows.ravel()
  return data.lengths[rows].sum() if model.task.per_token and data.lengths is not None else len(rows)


def default_learning_rate(backbone: Backbone) -> float:
  """Returns the default peak learning rate of fine-tuning: of the record, of random weights, or of the modality."""
  if backbone.spec.learning_rate:
    return backbone.spec.learning_rate
  return modalities.of(backbone.modality).learning_rate(backbone.width) if backbone.pretrained else RANDOM_LEARNING_RATE


def plan_phases(config, data: TrainingData, model: Model, devices: Devices, recipe: Callable) -> list[Phase]:
  """Returns the phases of a recipe, checked.

  Args:
    config: the `Config`.
    data: the `TrainingData`, with lengths.
    model: the `Model`, with its final preprocessing.
    devices: the `Devices`.
    recipe: function (config, facts, num_devices) -> list of `Phase`.

  Raises:
    UserError: a flag does not fit the phases, the backbone or the devices.
  """
  phases = recipe(config, facts(config, data, model, devices), devices.replicas)
  phase_rules.check(config, phases, model, devices)
  precision.warn_if_slow(config.machine, model.backbone)
  _tell_of_random_weights(phases, model.backbone)
  for phase in phases:
    _check_stages(phase, model, devices)
  return phases


def for_other_data(
  config, planned: Sequence[Phase], batch_size: BatchSize, features: Features, recipe: Callable
) -> Callable[[TrainingData], list[Phase]]:
  """Returns a function (`TrainingData`) -> the phases of the recipe for so many examples.

  Args:
    config: the `Config`.
    planned: the phases of the run.
    batch_size: the `BatchSize` of the run.
    features: the `Features` of the run.
    recipe: as of `plan_phases`.
  """
  model, devices = features.model, features.devices
  contrasted = any(isinstance(phase.objective, SupervisedContrastive) for phase in planned)
  lower = frozen(config, features.data, model.backbone)

  def phases_for(data):
    # The run has decided: a fold has fewer examples, the final model more.
    found = dataclasses.replace(facts(config, data, model, devices), contrasts=contrasted, frozen=lower)
    return batch_size.applied(recipe(config, found, devices.replicas))

  return phases_for


def make(
  reason: str, preprocessing: dict, phases: Sequence[Phase], batch_size: BatchSize, data: TrainingData, model: Model
) -> Plan:
  """Returns the `Plan` of a run.

  Args:
    reason: why the task is the one of the model.
    preprocessing: what `set_preprocessing` and `truncation` return.
    phases: what `plan_phases` returns, with the microbatches of `batch_size`.
    batch_size: the `BatchSize`.
    data: the `TrainingData`.
    model: the `Model`.
  """
  backbone = model.backbone
  modality = modalities.of(data.examples.modality)
  return Plan(
    task={"name": model.task.name, "why": reason},
    backbone={
      "name": backbone.spec.name,
      "kind": backbone.spec.kind,
      "feature_size": backbone.feature_size,
      "parameters": sum(parameters(v) for v in backbone.stages.values()),
      "notes": backbone.notes,
    },
    preprocessing=preprocessing,
    class_names=tuple(model.task.codec.names),
    stages=[
      {"name": name, "variables": len(stage), "parameters": parameters(stage)} for name, stage in model.stages.items()
    ],
    phases=tuple(phases),
    phase_facts=tuple(
      {
        "examples": len(data.train),
        "changed_examples": phase_augmentation.describe(phase, modality),
        "stages": stage_rows(phase, model),
      }
      for phase in phases
    ),
    batch_size=batch_size,
  )


def stage_rows(phase: Phase, model: Model) -> list[dict]:
  """Returns [{"name", "variables", "trainable", "parameters", "learning_rate", "bn"}] of a phase.

  "parameters" counts what trains: with LoRA the two factors of each kernel.
  """
  modes, selected, rows = stages.batch_norm_modes(model, phase), stages.selected(model, phase), []
  for name, stage in model.stages.items():
    chosen = selected.get(name, [])
    rank = phase.trains.lora_rank if name != HEAD else 0
    rows.append(
      {
        "name": name,
        "variables": len(stage),
        "trainable": len(chosen),
        "parameters": sum(rank * sum(variables.matrix_shape(v.shape)) for v in chosen) if rank else parameters(chosen),
        "learning_rate": phase.optimizer.learning_rates.get(name, 0.0) if chosen else 0.0,
        "bn": modes[name],
      }
    )
  return rows


def _tell_of_random_weights(phases, backbone):
  """Says of a backbone with random weights what trains, and warns of the stages that do not."""
  if backbone.pretrained:
    return
  name, trained = backbone.spec.name, {stage for phase in phases for stage in phase.trains.train_stages}
  untrained = [stage for stage in backbone.stages if stage not in trained]
  if untrained:
    log.warning(
      "%s starts from random weights, and no phase trains %s: pass --recipe=full --train_stages=all",
      *(name, ", ".join(untrained)),
    )
  else:
    log.info("%s starts from random weights: %s trains all its stages", name, phases[-1].name)


def _check_stages(phase, model, devices):
  """Raises `UserError` if a phase matches no variable, or its BatchNormalization cannot run on these devices."""
  stages.selected(model, phase)
  batch_statistics = "batch" in stages.batch_norm_modes(model, phase).values()
  if batch_statistics and not model.backbone.averages_statistics and devices.replicas > 1:
    raise UserError(
      f"--bn={phase.trains.bn}: the statistics of a SavedModel cannot be averaged over devices; use --bn=frozen"
    )


def _decided(result, model):
  """Returns what a `PhaseResult` adds to the phase in plan.json: the step policy and what --max_minutes left."""
  planned, done = result.planned, result.done
  decided = {"step_policy": dataclasses.asdict(result.policy)} if planned.trains_backbone and done else {}
  if result.refit:
    decided |= {"refit": dataclasses.asdict(result.refit)}
  if result.skipped:
    decided |= {"skipped": result.skipped}
  if done and done.optimizer.strength:
    decided["strength"] = done.optimizer.strength
  if done is planned:
    return decided
  names = ("epochs", "steps_per_epoch", "warmup_steps")
  decided |= {"planned_epochs": planned.schedule.epochs}
  decided |= {name: getattr(done.schedule, name) if done else 0 for name in names}
  if done and done.trains.train_stages != planned.trains.train_stages:
    decided |= {"planned_stages": planned.trains.train_stages, "train_stages": done.trains.train_stages}
    decided["stages"] = stage_rows(done, model)
  return decided
