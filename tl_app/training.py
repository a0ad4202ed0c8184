"""One run, from a `Config` to a proven SavedModel."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import math
import platform
import resource
import time

import keras
import numpy as np
import tensorflow as tf

from tl_app import (
  backbones,
  callbacks,
  data,
  distribution,
  evaluation,
  feature_cache,
  files,
  heads,
  ladder,
  optimizers,
  recipes,
  report,
  runs,
  serving,
  stages,
)
from tl_app import config as config_lib
from tl_app import model as model_lib
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets, cache_root
from tl_app.data import pipeline, splits
from tl_app.data.examples import Examples
from tl_app.errors import UserError

log = logging.getLogger(__name__)

# Examples per forward pass without gradients, at least: nothing is kept, so more fit than in a training batch.
INFERENCE_BATCH = 64
# The automatic --max_length holds this share of the training texts whole.
LENGTH_QUANTILE = 0.99


@dataclasses.dataclass
class Run:
  """What the steps of one run share.

  Attributes:
    config: the `Config`.
    paths: the `Workdir`.
    assets: the `Assets`.
    strategy: the `tf.distribute.Strategy`.
    examples: the `Examples`; `labels`, int32 [n], are their class indices.
    split: the `Splits`.
    model: the `Model`.
    features: float32 [n, feature_size] of the frozen backbone, once they were needed.
    seconds: {"features", "train", "evaluate", "export"}.
  """

  config: config_lib.Config
  paths: workdir_lib.Workdir
  assets: Assets
  strategy: tf.distribute.Strategy
  examples: Examples
  labels: np.ndarray
  split: splits.Splits
  model: model_lib.Model
  features: np.ndarray | None = None
  seconds: dict = dataclasses.field(
    default_factory=lambda: {"features": 0.0, "train": 0.0, "evaluate": 0.0, "export": 0.0}
  )

  @contextlib.contextmanager
  def clock(self, name):
    """Adds the block's seconds to `seconds[name]`."""
    start = time.monotonic()
    try:
      yield
    finally:
      self.seconds[name] += time.monotonic() - start


def train_and_evaluate(config, workdir, recipe=None):
  """Runs `config` in `workdir` and returns the metrics, as written to metrics.json.

  Args:
    config: `Config`.
    workdir: directory of the run.
    recipe: function (config, facts, num_devices) -> list of `recipes.Phase`, in place of --recipe. It starts with
      `recipes.probe`, which the ladder measures the others against.

  Raises:
    UserError: something the user must change; no result is written.
    RunFailed: the run itself failed: NaN, audit, parity.
  """
  config = dataclasses.replace(config, workdir=str(workdir))
  config_lib.validate(config)
  spec = backbones.resolve(config.backbone)
  with workdir_lib.claim(workdir, config) as paths:
    run = prepare(config, paths, spec)
    phases = plan(run, recipe or recipes.plan)
    rung, figures = climb(run, phases)
    metrics, probabilities = evaluate(run, rung)
    metrics |= figures
    save(run)
    if config.export:
      metrics["parity"] = export(run, probabilities)
    files.write_json(paths.metrics, metrics | machine(run))
    report.write(paths.root, run.examples)
    print(evaluation.summary(files.read_json(paths.metrics), paths.root))
    return files.read_json(paths.metrics)


def prepare(config, paths, spec):
  """Loads examples, splits them, loads the backbone and puts a head on it."""
  strategy = distribution.strategy(config.strategy, config.num_devices)
  keras.utils.set_random_seed(config.seed)
  assets = Assets(config.cache_dir, config.offline)
  examples = data.load(config, assets)
  split = splits.make(examples, config)
  for note in split.notes:
    log.warning("%s", note)
  files.write_json(paths.splits, split.manifest())
  with strategy.scope():
    model = model_lib.load(config, spec, assets, split.class_names, config.max_length)
  if model.backbone.modality != examples.modality:
    raise UserError(
      f"--backbone={config.backbone} reads {model.backbone.modality}s, but --dataset={config.dataset} "
      f"holds {examples.modality}s: choose a backbone for {examples.modality}s"
    )
  labels = np.searchsorted(split.class_names, examples.labels.astype(str)).astype(np.int32)
  return Run(config, paths, assets, strategy, examples, labels, split, model)


def plan(run, recipe):
  """Decides text length and phases, writes plan.json, says it, and returns the phases."""
  preprocessing = settle_preprocessing(run)
  backbone, model = run.model.backbone, run.model
  facts = config_lib.Facts(
    num_train=len(run.split.train),
    num_classes=len(run.split.class_names),
    modality=run.examples.modality,
    feature_size=backbone.feature_size,
    stages={name: tuple(v.path for v in variables) for name, variables in backbone.stages.items()},
  )
  phases = recipe(run.config, facts, run.strategy.num_replicas_in_sync)
  if phases[0].backbone_trains:
    raise UserError("the first phase must train the head alone: start the list with recipes.probe(..)")
  written = {
    "backbone": {
      "name": backbone.spec.name,
      "kind": backbone.spec.kind,
      "feature_size": backbone.feature_size,
      "parameters": sum(parameters(v) for v in backbone.stages.values()),
      "notes": backbone.notes,
    },
    "preprocessing": preprocessing,
    "class_names": run.split.class_names,
    "stages": [
      {"name": name, "variables": len(variables), "parameters": parameters(variables)}
      for name, variables in model.stages.items()
    ],
    "phases": [
      dataclasses.asdict(phase) | {"examples": facts.num_train, "stages": stage_rows(run, phase)} for phase in phases
    ],
  }
  files.write_json(run.paths.plan, written)
  for line in plan_lines(run, written):
    log.info("%s", line)
  return phases


def stage_rows(run, phase):
  """Returns [{"name", "variables", "trainable", "parameters", "learning_rate", "bn"}] of a phase, checked beforehand.

  "parameters" counts what trains: with LoRA the two factors of each kernel.

  Raises:
    UserError: the phase matches nothing, or asks for what this backbone or strategy cannot do.
  """
  model, modes = run.model, stages.batch_norm_modes(run.model, phase)
  selected = stages.selected(model, phase)
  if "batch" in modes.values() and model.backbone.spec.kind == "saved_model" and run.strategy.num_replicas_in_sync > 1:
    raise UserError(f"--bn={phase.bn}: the statistics of a SavedModel cannot be averaged over devices; use --bn=frozen")
  rows = []
  for name, variables in model.stages.items():
    chosen = selected.get(name, [])
    rank = phase.lora_rank if name != recipes.HEAD else 0
    count = sum(rank * sum(optimizers.matrix_shape(v.shape)) for v in chosen) if rank else parameters(chosen)
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


def plan_lines(run, written):
  """Yields the plan as the user reads it before training starts."""
  split, backbone = run.split, written["backbone"]
  yield (
    f"data: {run.config.dataset}, {len(split.class_names)} classes; {len(split.train)} train, "
    f"{len(split.validation)} validation, {len(split.test)} test examples"
  )
  yield f"backbone: {backbone['name']}, {backbone['parameters']:,} parameters, features [{backbone['feature_size']}]"
  yield from (f"  {note}" for note in backbone["notes"])
  yield "preprocessing: " + ", ".join(f"{name} {value}" for name, value in written["preprocessing"].items())
  for phase in written["phases"]:
    yield (
      f"phase {phase['name']}: at most {phase['epochs']} epochs of {phase['steps_per_epoch']} batches of "
      f"{phase['batch_size']}, weight decay {phase['weight_decay']:g}, fresh optimizer"
    )
    if len(phase["train_stages"]) == 1:
      continue
    yield f"  {'stage':12} {'variables':>9} {'trainable':>9} {'parameters':>12} {'rate':>9} {'bn':>6}"
    for row in phase["stages"]:
      rate = f"{row['learning_rate']:.2e}" if row["trainable"] else "frozen"
      yield (
        f"  {row['name']:12} {row['variables']:9} {row['trainable']:9} {row['parameters']:12,} {rate:>9} {row['bn']:>6}"
      )


def parameters(variables):
  """Returns the number of weights in `variables`."""
  return sum(math.prod(v.shape) for v in variables)


def settle_preprocessing(run):
  """Chooses the text length where the user left it open; returns what was settled, for plan.json."""
  preprocess = run.model.backbone.preprocess
  if run.examples.modality == "image":
    return {"image_size": int(preprocess.size)}
  if not preprocess.limit:
    return {"max_length": 0}
  texts = run.examples.inputs[run.split.train]
  counts = np.concatenate(
    [preprocess.count_tokens(tf.constant(list(texts[i : i + 1024]))) for i in range(0, len(texts), 1024)]
  )
  if not run.config.max_length:
    longest = math.ceil(np.quantile(counts, LENGTH_QUANTILE) / 16) * 16
    preprocess.max_length = int(min(longest, preprocess.limit))
  cut = float(np.mean(counts > preprocess.max_length))
  return {"max_length": int(preprocess.max_length), "texts_cut": round(cut, 4)}


def climb(run, phases):
  """Trains the phases and leaves the best rung in the model.

  Returns:
    (name of the rung that ships, {"rungs", "rung_reason"} for metrics.json).
  """
  labels = run.labels[run.split.validation]
  features = frozen_features(run)
  train, validation = run.split.train, run.split.validation
  figures = {
    name: {"accuracy": accuracy}
    for name, accuracy in ladder.marks(features[train], run.labels[train], features[validation], labels).items()
  }
  names = {name for phase in phases for name in phase.train_stages}
  variables = [v for name, members in run.model.stages.items() if name in names for v in members]
  heads.standardize(run.model.head, features[train])
  rungs = []
  for phase in phases:
    averaged = fit(run, phase)
    if not phase.backbone_trains:
      rungs.append(ladder.Rung("probe", head_logits(run, validation), callbacks.values(variables)))
  if phases[-1].backbone_trains:
    rungs.append(_fine_tuned(run, "fine_tuned", variables))
    if averaged:
      averaged()
      rungs.append(_fine_tuned(run, "averaged", variables))
  best, why, of_rungs = ladder.choose(rungs, labels)
  for variable, value in zip(variables, best.values):
    variable.assign(value)
  log.info(
    "rungs on the validation split: %s", ", ".join(f"{n} {f['accuracy']:.4f}" for n, f in (figures | of_rungs).items())
  )
  log.info("%s", why)
  return best.name, {"rungs": figures | of_rungs, "rung_reason": why}


def _fine_tuned(run, name, variables):
  return ladder.Rung(name, predict(run, run.model.network, run.split.validation), callbacks.values(variables))


def fit(run, phase):
  """Runs one phase: set stages, compile, feed, fit, keep the best epoch, audit.

  Returns:
    A function that puts the averaged weights into the model, or None where the phase keeps none.
  """
  model = run.model
  with run.clock("train"), run.strategy.scope():
    if phase.fresh_head:
      logits = model.head.get_layer("logits")
      logits.set_weights([np.zeros(w.shape, np.float32) for w in logits.weights])
    stages.set_trainable(model, phase)
    before = stages.state(model, phase)
    keep = solve(run, phase) if phase.solver != "linear" else descend(run, phase)
    changes = stages.audit(model, before)
  moved = ", ".join(f"{name} {c['changed']}/{c['variables']}" for name, c in changes.items() if c["changed"])
  log.info("audit of phase %s: changed variables: %s; all others identical to the bit", phase.name, moved or "none")
  return keep


def solve(run, phase):
  """Fits the head by scikit-learn on the frozen features."""
  features, train, validation = frozen_features(run), run.split.train, run.split.validation
  tried = heads.solve(
    run.model.head,
    phase.solver,
    features[train],
    run.labels[train],
    features[validation],
    run.labels[validation],
  )
  log.info("%s: %s", phase.solver, "; ".join(f"C {t['C']:g} accuracy {t['accuracy']:.4f}" for t in tried))


def descend(run, phase):
  """Fits by gradient descent and puts the best epoch back; returns as `fit`."""
  network, dataset, validation_logits = feed(run, phase)
  compile_for(network, phase, run.model)
  changing = [v for name in phase.train_stages for v in run.model.stages[name]]
  keep = callbacks.KeepBest(changing, phase.monitor, phase.patience)
  network.fit(
    dataset,
    epochs=phase.epochs,
    steps_per_epoch=phase.steps_per_epoch,
    callbacks=watchers(run, phase, validation_logits, keep),
    verbose=callbacks.verbosity() if phase.backbone_trains else 0,
    shuffle=False,  # the dataset is
  )
  if keep.averaged is None:
    return None
  return lambda: [variable.assign(value) for variable, value in zip(changing, keep.averaged)]


def feed(run, phase):
  """Returns (network to fit, endless dataset, function giving the validation logits)."""
  train, validation = run.split.train, run.split.validation
  if phase.backbone_trains:
    dataset = pipeline.for_training(
      run.examples.inputs[train],
      run.labels[train],
      run.model.backbone.preprocess,
      run.examples.modality,
      phase.batch_size,
      run.config.seed,
    )
    network = model_lib.training_network(run.model, phase.train_stages)
    return network, dataset, lambda: predict(run, run.model.network, validation)
  features = frozen_features(run)
  dataset = pipeline.for_features(features[train], run.labels[train], phase.batch_size, run.config.seed)
  return run.model.head, dataset, lambda: head_logits(run, validation)


def compile_for(network, phase, model):
  """Compiles `network` for one phase; a fresh optimizer, since its slots belong to other variables and rates."""
  stage_of = {id(v): name for name, variables in model.stages.items() for v in variables}
  optimizer = optimizers.StagedAdamW(
    optimizers.WarmupCosine(phase.steps, phase.warmup_steps),
    rate_of=lambda variable: phase.learning_rates[stage_of[id(variable)]],
    decays=stages.decays,
    weight_decay=phase.weight_decay,
    rank_of=lambda variable: phase.lora_rank if stage_of[id(variable)] != recipes.HEAD else 0,
    clip_norm=phase.clip_norm,
    gradient_accumulation_steps=phase.accumulate_steps if phase.accumulate_steps > 1 else None,
    use_ema=phase.ema > 0,
    ema_momentum=phase.ema or None,
  )
  # Now, and not while `fit` traces: low-rank factors start from the values of their kernels.
  optimizer.build(network.trainable_variables)
  network.compile(
    optimizer=optimizer,
    loss=cross_entropy(len(model.class_names), phase.label_smoothing),
    metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    jit_compile=False,
    # A step of the head alone is far shorter than the way into Python and back.
    steps_per_execution=1 if phase.backbone_trains else min(phase.steps_per_epoch, 256),
  )


def cross_entropy(num_classes, label_smoothing):
  """Returns the loss of int32 [batch] and logits [batch, num_classes]; Keras smooths one-hot targets only."""
  if not label_smoothing:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
  return lambda labels, logits: smoothed(keras.ops.one_hot(labels, num_classes), logits)


def watchers(run, phase, validation_logits, keep):
  """Returns the callbacks of a phase; validation comes first, since the others read its figures."""
  watching = [
    callbacks.StopAtNaN(phase),
    callbacks.Validate(validation_logits, run.labels[run.split.validation]),
    keep,
    callbacks.JsonLog(run.paths.log, phase),
    keras.callbacks.TensorBoard(str(run.paths.tensorboard / phase.name), write_graph=False),
  ]
  return watching + ([] if phase.backbone_trains else [callbacks.SparseProgress(phase, log.info)])


def frozen_features(run):
  """Returns the frozen backbone's features, float32 [n, feature_size], of every example of a split; computed once."""
  if run.features is None:
    used = np.concatenate([run.split.train, run.split.validation, run.split.test])
    run.features = np.zeros((len(run.examples), run.model.backbone.feature_size), np.float32)
    run.features[used] = extract(run, used, cache=feature_store(run))
  return run.features


def extract(run, indices, cache=None):
  """Returns the backbone's features of the examples at `indices`, float32 [len, feature_size]."""
  with run.clock("features"):
    return feature_cache.features(
      cache,
      run.examples.hashes[indices],
      lambda part: predict(run, run.model.features, indices[part], verbose=int(callbacks.verbosity() == 1)),
    )


def feature_store(run):
  """Returns the `FeatureCache` of this backbone, preprocessing and pooling, or None where it is off."""
  choice, backbone = run.config.feature_cache, run.model.backbone
  if choice == "off":
    return None
  root = cache_root(run.config.cache_dir) / "features" if choice == "auto" else choice
  key = feature_cache.key(
    weights=model_lib.fingerprint(backbone.stages),
    kind=backbone.spec.kind,
    pooling=backbone.spec.pooling if run.config.pooling == "auto" else run.config.pooling,
    preprocessing=[backbone.preprocess.identity, getattr(backbone.preprocess, "max_length", 0)],
    versions=[importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub")],
  )
  return feature_cache.FeatureCache(f"{root}/{key}", backbone.feature_size)


def predict(run, network, indices, verbose=0):
  """Returns `network`'s output for the examples at `indices`, float32 [len, ..]."""
  replicas = run.strategy.num_replicas_in_sync
  batch_size = max(run.config.batch_size, INFERENCE_BATCH)
  return model_lib.predict(
    network, run.model.backbone, run.examples.inputs[indices], batch_size - batch_size % replicas, verbose
  )


def head_logits(run, indices):
  """Returns the head's logits on the frozen features, float32 [len, classes]."""
  return keras.ops.convert_to_numpy(run.model.head(frozen_features(run)[indices], training=False))


def evaluate(run, rung):
  """Measures what ships on the validation and test splits and writes the test predictions.

  Returns:
    (the metrics, float64 [test examples, classes] probabilities of the test split).
  """
  names, metrics, probabilities = run.split.class_names, {}, {}
  with run.clock("evaluate"):
    for name, indices in (("test", run.split.test), ("validation", run.split.validation)):
      logits = head_logits(run, indices) if rung == "probe" else predict(run, run.model.network, indices)
      metrics[name] = evaluation.measure(logits, run.labels[indices], names)
      probabilities[name] = evaluation.softmax(logits)
    test = run.examples.take(run.split.test)
    evaluation.write_predictions(run.paths.predictions, test.ids, test.labels, probabilities["test"], names)
  metrics["majority_accuracy"] = evaluation.majority_accuracy(run.labels[run.split.train], run.labels[run.split.test])
  metrics["rung"] = "probe" if rung == "probe" else "fine_tuned"
  return metrics, probabilities["test"]


def save(run):
  """Writes the weights that ship."""
  with files.atomic_path(run.paths.weights) as new:
    run.model.network.save_weights(new)


def export(run, probabilities):
  """Exports what was saved and compares it with the test split's `probabilities`; returns the proof."""
  with run.clock("export"):
    return serving.export_and_prove(
      runs.restore(run.paths, run.config, run.assets),
      run.paths.export,
      run.examples.inputs[run.split.test],
      probabilities,
    )


def machine(run):
  """Returns what the run cost and what it ran on, for metrics.json."""
  packages = (
    "tl_app",
    "tensorflow",
    "keras",
    "keras-hub",
    "tensorflow-hub",
    "tensorflow-text",
    "scikit-learn",
    "numpy",
  )
  return {
    "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
    "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    "environment": {
      "python": platform.python_version(),
      "platform": platform.platform(),
      "devices": [device.name for device in tf.config.list_logical_devices()],
      "replicas": run.strategy.num_replicas_in_sync,
      "packages": {name: importlib.metadata.version(name) for name in packages},
    },
  }
