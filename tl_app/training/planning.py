"""The plan of a run: decided, checked, written and said before anything trains."""

import dataclasses
import logging
import math

import numpy as np

from tl_app import augmentation, files
from tl_app import config as config_lib
from tl_app.backbones.backbone import parameters
from tl_app.compute import precision
from tl_app.data import modalities, pipeline
from tl_app.errors import UserError
from tl_app.features import inference_engine, session
from tl_app.model import stages
from tl_app.model.variables import matrix_shape
from tl_app.preprocessing import long_text
from tl_app.recipes import recipes

log = logging.getLogger(__name__)

# The automatic --max_length holds this share of the training texts whole.
LENGTH_QUANTILE = 0.99
# Flags that say how the backbone trains, and nothing of the head alone.
FINE_TUNING = ("epochs", "learning_rate", "backbone_learning_rate", "layer_decay", "bn", "clip_norm", "ema")
FINE_TUNING += ("accumulate_steps", "batch_tokens", "augment", "mixup", "cutmix", "label_smoothing", "precision", "jit")
FINE_TUNING += ("max_minutes", "train_stages", "recipe")
# Values by which --train_stages says itself that the head alone trains.
HEAD_ALONE = ("none", recipes.HEAD)


def plan(run, recipe):
  """Decides text length and phases, writes plan.json, says it, and returns the phases."""
  preprocessing = settle_preprocessing(run)
  backbone, model = run.model.backbone, run.model
  phases = recipe(run.config, facts(run), run.strategy.num_replicas_in_sync)
  check_phases(phases, model)
  precision.check(run.config, backbone, run.strategy.num_replicas_in_sync)
  inference_engine.check(run.config.frozen_engine, run.strategy.num_replicas_in_sync)
  if run.config.accumulate_steps > 1 and run.strategy.num_replicas_in_sync > 1:
    raise UserError(
      f"--accumulate_steps={run.config.accumulate_steps}: Keras cannot accumulate over several devices; raise "
      "--batch_size instead, or pass --strategy=single"
    )
  for phase in phases:
    if phase.accumulate_steps > phase.steps:
      raise UserError(
        f"--accumulate_steps={phase.accumulate_steps}, but phase {phase.name} has {phase.steps} batches in all: no "
        "update would be made; lower it, or raise --epochs"
      )
  strings = any(x.dtype == "string" for x in backbone.network.inputs)
  if strings and run.strategy.num_replicas_in_sync > 1 and any(phase.backbone_trains for phase in phases):
    raise UserError(
      f"{backbone.spec.name} takes texts as strings, and Keras cannot train on strings on several devices: pass "
      "--strategy=single, or --recipe=probe"
    )
  written = {
    "backbone": {
      "name": backbone.spec.name,
      "kind": backbone.spec.kind,
      "feature_size": backbone.feature_size,
      "parameters": sum(parameters(v) for v in backbone.stages.values()),
      "notes": backbone.notes,
    },
    "preprocessing": preprocessing,
    "task": {"name": model.task.name, "why": run.why},
    "class_names": list(model.task.names),
    "stages": [
      {"name": name, "variables": len(variables), "parameters": parameters(variables)}
      for name, variables in model.stages.items()
    ],
    "phases": [
      dataclasses.asdict(phase)
      | {
        "examples": len(run.split.train),
        "changed_examples": augmentation.described(phase, modalities.of(run.examples.modality)),
        "stages": _stage_rows(run, phase),
      }
      for phase in phases
    ],
  }
  files.write_json(run.paths.plan, written)
  for line in _lines(run, written):
    log.info("%s", line)
  modes = {row["bn"] for phase in written["phases"] for row in phase["stages"]}
  for name, why in idle_flags(run.config, phases, modes, run.examples.modality).items():
    log.warning("--%s=%s does nothing here: %s", name, getattr(run.config, name), why)
  return phases


def check_phases(phases, model):
  """Raises `UserError` at phases, from Python mostly, that cannot be run as they stand."""
  if not phases or phases[0].backbone_trains:
    raise UserError("the first phase must train the head alone: start the list with recipes.probe(..)")
  moved = False
  for phase in phases:
    unknown = [name for name in phase.train_stages if name not in model.stages]
    if unknown:
      raise UserError(f"phase {phase.name}: {unknown[0]} is no stage of this backbone ({', '.join(model.stages)})")
    without = [name for name in phase.train_stages if name not in phase.learning_rates]
    if without and phase.solver == "adamw":
      raise UserError(f"phase {phase.name}: learning_rates has no rate of stage {without[0]}")
    if phase.lora_rank and phase.only != recipes.KERNELS:
      raise UserError(f'phase {phase.name}: lora_rank={phase.lora_rank} needs only="{recipes.KERNELS}"')
    if moved and not phase.backbone_trains and not phase.fresh_features:
      raise UserError(f"phase {phase.name} fits the head on a backbone that has moved: give it fresh_features=True")
    moved |= phase.backbone_trains


def idle_flags(config, phases, modes=("batch",), modality="text"):
  """Returns {flag of fine-tuning that `config` gives: why it does nothing in these phases}.

  `modes` are those in which BatchNormalization runs in any stage of them.
  They are no reason to stop: a comparison gives all recipes the same flags.
  """
  idle = {}
  if not any(phase.backbone_trains for phase in phases):
    used = {"augment"} if phases[0].copies else set()
    # Images are taken smaller for it.
    has_size = "image_size" in modalities.of(modality).flags
    used |= {"max_minutes"} if has_size and not config.image_size else set()
    used |= {"train_stages"} if config.train_stages in HEAD_ALONE else set()
    used |= {"recipe"} if config.recipe == "probe" else set()
    idle = {name: "no phase trains the backbone" for name in FINE_TUNING if name not in used}
  elif "batch" not in modes:
    idle["bn"] = "no stage has BatchNormalization that can run on batch statistics in these phases"
  if not any(phase.lora_rank for phase in phases):
    idle["lora_rank"] = "it belongs to --recipe=lora"
  if any(phase.objective == recipes.CONTRAST for phase in phases):
    idle["ema"] = "contrast keeps no averages"
  if phases[0].solver != "adamw":
    names = [] if any(phase.fresh_head and phase.solver == "adamw" for phase in phases) else ["head_learning_rate"]
    names += [] if any(phase.solver == "adamw" for phase in phases) else ["weight_decay", "early_stopping_patience"]
    idle |= dict.fromkeys(
      ["head_epochs", *names], f"--probe_solver={phases[0].solver} does not train by gradient descent"
    )
  return {name: why for name, why in idle.items() if getattr(config, name) != config_lib.FIELDS[name].default}


def note_cuts(run):
  """Writes into plan.json what --max_minutes has left of the phases."""
  if not run.cut:
    return
  written = files.read_json(run.paths.plan)
  for phase in written["phases"]:
    if phase["name"] in run.cut:
      left = run.cut[phase["name"]]
      names = ("epochs", "steps_per_epoch", "warmup_steps")
      phase |= {"planned_epochs": phase["epochs"]} | {name: getattr(left, name, 0) for name in names}
      if left and list(left.train_stages) != phase["train_stages"]:
        phase |= {"planned_stages": phase["train_stages"], "train_stages": left.train_stages}
        phase["stages"] = _stage_rows(run, left)
  files.write_json(run.paths.plan, written)


def facts(run):
  """Returns the `Facts` that recipes are made from."""
  backbone = run.model.backbone
  return config_lib.Facts(
    num_train=len(run.split.train),
    num_classes=len(run.model.task.names),
    learning_rate=modalities.of(run.examples.modality).learning_rate(backbone.width),
    stages={
      name: tuple(v.path for v in variables if id(v) in run.model.can_train)
      for name, variables in backbone.stages.items()
    },
    score=run.model.task.metrics.primary_metric,
    batch_examples=session.batch_examples(run) if run.config.batch_tokens else 0.0,
  )


def settle_preprocessing(run):
  """Chooses the text length where the user left it open; returns what was settled, for plan.json."""
  preprocess, how = run.model.backbone.preprocess, run.config.long_text
  if "image_size" in modalities.of(run.examples.modality).flags:
    return {"image_size": int(preprocess.size)}
  if not preprocess.limit:
    return {"max_length": 0}
  counts = session.token_counts(run)[run.split.train]
  if not run.config.max_length:
    longest = math.ceil(np.quantile(counts, LENGTH_QUANTILE) / 16) * 16
    most = long_text.WINDOW_LENGTH if how == "windows" else preprocess.limit
    preprocess.max_length = int(min(longest, most, preprocess.limit))
  read = long_text.tokens_read(preprocess, counts)
  settled = {"max_length": int(preprocess.max_length), "long_text": how}
  if how == "windows":
    settled["max_windows"] = run.config.max_windows
  if run.model.task.per_token:
    words, known = pipeline.of_texts(preprocess.count_words, run.examples.inputs).sum(axis=0)
    settled["words_not_read"] = round(float(1 - known / words), 4)
  # Rounded down: a share that is said to be whole is.
  share = math.floor(1e4 * read.sum() / counts.sum()) / 1e4
  return settled | {"texts_cut": round(float(np.mean(read < counts)), 4), "tokens_read": share}


def _stage_rows(run, phase):
  """Returns [{"name", "variables", "trainable", "parameters", "learning_rate", "bn"}] of a phase, checked beforehand.

  "parameters" counts what trains: with LoRA the two factors of each kernel.

  Raises:
    UserError: the phase matches nothing, or asks for what this backbone or strategy cannot do.
  """
  model, modes = run.model, stages.batch_norm_modes(run.model, phase)
  if phase.objective == recipes.CONTRAST:
    _check_contrast(run)
  selected = stages.selected(model, phase)
  if "batch" in modes.values() and not model.backbone.averages_statistics and run.strategy.num_replicas_in_sync > 1:
    raise UserError(f"--bn={phase.bn}: the statistics of a SavedModel cannot be averaged over devices; use --bn=frozen")
  rows = []
  for name, variables in model.stages.items():
    chosen = selected.get(name, [])
    rank = phase.lora_rank if name != recipes.HEAD else 0
    count = sum(rank * sum(matrix_shape(v.shape)) for v in chosen) if rank else parameters(chosen)
    rate = phase.learning_rates.get(name, 0.0) if chosen else 0.0
    rows.append(
      {
        "name": name,
        "variables": len(variables),
        "trainable": len(chosen),
        "parameters": count,
        "learning_rate": rate,
        "bn": modes[name],
      }
    )
  return rows


def _check_contrast(run):
  if not run.model.task.single_label:
    raise UserError(f"--recipe={run.config.recipe} needs one class an example, not --task={run.model.task.name}")
  if run.strategy.num_replicas_in_sync > 1:
    raise UserError(f"--recipe={run.config.recipe} compares the examples of one device: pass --strategy=single")


def _lines(run, written):
  """Yields the plan as the user reads it before training starts."""
  split, backbone = run.split, written["backbone"]
  yield f"task: {written['task']['name']}, {written['task']['why']}"
  yield (
    f"data: {run.config.dataset}, {run.model.task.codec.describe()}; {len(split.train)} train, "
    f"{len(split.validation)} validation, {len(split.test)} test examples"
  )
  yield f"backbone: {backbone['name']}, {backbone['parameters']:,} parameters, features [{backbone['feature_size']}]"
  yield from (f"  {note}" for note in backbone["notes"])
  yield "preprocessing: " + ", ".join(f"{name} {value}" for name, value in written["preprocessing"].items())
  for phase in written["phases"]:
    imbalance = f", imbalance: {phase['imbalance']}" if phase["imbalance"] != "none" else ""
    yield f"phase {phase['name']}: {_work(phase)}{imbalance}"
    if phase["changed_examples"]:
      yield f"  its training examples are changed: {phase['changed_examples']}"
    if phase["train_stages"] == (recipes.HEAD,):
      continue
    yield f"  {'stage':12} {'variables':>9} {'trainable':>9} {'parameters':>12} {'rate':>9} {'bn':>6}"
    for row in phase["stages"]:
      rate = f"{row['learning_rate']:.2e}" if row["trainable"] else "frozen"
      yield (
        f"  {row['name']:12} {row['variables']:9} {row['trainable']:9} {row['parameters']:12,} {rate:>9} {row['bn']:>6}"
      )


def _work(phase):
  if phase["solver"] != "adamw":
    return f"solved by scikit-learn ({phase['solver']})"
  return (
    f"at most {phase['epochs']} epochs of {phase['steps_per_epoch']} batches of {_size(phase)}{_objective(phase)}, "
    f"weight decay {phase['weight_decay']:g}, fresh optimizer"
  )


def _size(phase):
  tokens, examples = phase["batch_tokens"], phase["batch_size"]
  return f"up to {tokens:,} tokens, {examples} texts on average" if tokens else str(examples)


def _objective(phase):
  return f" ({phase['batch_classes']} classes), supervised contrast" if phase["objective"] == recipes.CONTRAST else ""
