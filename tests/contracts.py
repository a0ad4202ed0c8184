"""The promises of the seams. Each function checks one object of a seam; every kind runs through it."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import tensorflow as tf

from tl_app import tasks
from tl_app.backbones.backbone import Backbone
from tl_app.checking import findings
from tl_app.config import Config
from tl_app.config.groups import AnswerConfig
from tl_app.data import modalities
from tl_app.data.examples import Inputs
from tl_app.data.modalities import Modality
from tl_app.data.training_data import TrainingData
from tl_app.errors import RunFailed, UserError
from tl_app.model import stages
from tl_app.model.model import Model
from tl_app.preprocessing.base import Preprocess
from tl_app.recipes.phase import HEAD, Phase
from tl_app.serving import handover
from tl_app.tasks.task import Task
from tl_app.training import compiling, objectives

# Attributes of `Backbone` that other packages read in place of asking for the kind of network.
CAPABILITIES = (
  "single_mode",
  "has_training_mode",
  "averages_statistics",
  "keeps_own_precision",
  "compiles_with_xla",
  "tracks_assets",
)
# Optimizer steps on one batch, after which its loss must be lower.
STEPS = 5


def check_backbone(backbone: Backbone, raw: np.ndarray) -> None:
  """Checks a loaded backbone.

  Args:
    backbone: with freshly loaded weights.
    raw: object array [n, ..] of at least two raw examples, as a `Column` holds them.
  """
  network, stages = backbone.network, backbone.stages
  members = [id(variable) for variables in stages.values() for variable in variables]
  assert len(members) == len(set(members)), "a variable is in two stages"
  assert set(members) == {id(variable) for variable in network.weights}, "the stages do not cover the network"

  inputs = backbone.preprocess(_tensor(raw))
  outputs = _numpy(network(inputs, training=False))
  _check_outputs(backbone, outputs, len(raw))
  again = _numpy(network(inputs, training=False))
  assert _same(again, outputs), "inference mode is not deterministic"
  alone = _numpy(network(backbone.preprocess(_tensor(raw[:1])), training=False))
  np.testing.assert_allclose(alone["features"][0], outputs["features"][0], atol=1e-5)

  assert not any(backbone.can_split(stage) for stage in list(stages)[:1]), "there is nothing below the first stage"
  for stage in list(stages)[1:]:
    if backbone.can_split(stage):
      _check_split(backbone, stage, inputs, outputs)
    else:
      with pytest.raises(ValueError):
        backbone.split(stage)
  with pytest.raises(ValueError):
    backbone.split("no_such_stage")

  assert all(isinstance(getattr(backbone, name), bool) for name in CAPABILITIES)
  if backbone.single_mode:
    backbone.set_training_mode(True)
    backbone.set_training_mode(False)
    assert _same(_numpy(network(inputs, training=False)), outputs), "the mode does not come back"
  else:
    with pytest.raises(ValueError):
      backbone.set_training_mode(True)
  facts = backbone.cache_facts()
  assert json.loads(json.dumps(facts)) == facts, "the facts of the cache key are not JSON"
  assert all(isinstance(note, str) and note for note in backbone.notes)
  assert backbone.modality == backbone.spec.modality and isinstance(backbone.preprocess, Preprocess)


def _check_outputs(backbone, outputs, count):
  assert all(value.dtype == np.float32 for value in outputs.values())
  assert all(np.isfinite(value).all() for value in outputs.values())
  features = outputs["features"]
  assert (len(features), features.shape[-1]) == (count, backbone.feature_size)
  assert backbone.feature_size % backbone.width == 0
  if "mask" in outputs:
    mask = outputs["mask"]
    assert mask.shape == features.shape[:2] == (count, backbone.preprocess.max_length)
    assert set(np.unique(mask)) <= {0.0, 1.0} and not features[mask == 0].any()
  else:
    assert features.ndim == 2
  for name in ("sequence", "map"):
    assert name not in outputs or len(outputs[name]) == count


def _check_split(backbone, stage, inputs, outputs):
  trunk, tail = backbone.split(stage)
  assert _same(_numpy(tail(trunk(inputs, training=False), training=False)), outputs), f"split at {stage} differs"
  names = list(backbone.stages)
  below = [variable for name in names[: names.index(stage)] for variable in backbone.stages[name]]
  above = [variable for name in names[names.index(stage) :] for variable in backbone.stages[name]]
  assert {id(variable) for variable in trunk.weights} == {id(variable) for variable in below}
  assert {id(variable) for variable in tail.weights} == {id(variable) for variable in above}


def check_preprocess(preprocess: Preprocess, raw: np.ndarray, directory, other: Preprocess) -> None:
  """Checks a preprocessing.

  Args:
    preprocess: what is checked.
    raw: object array [n, ..] of at least two raw examples.
    directory: an empty directory for an export.
    other: a second one, made in the same way.
  """
  for name, default in inspect.get_annotations(Preprocess, eval_str=True).items():
    assert isinstance(getattr(preprocess, name), default), f"{name} is no {default.__name__}"
  assert preprocess.identity and preprocess.identity == other.identity
  assert preprocess.max_length <= (preprocess.limit or preprocess.max_length)

  texts = _tensor(raw)
  expected = _numpy(preprocess(texts))
  assert _same(_numpy(other(texts)), expected), "equal identities, different inputs"
  traced = tf.function(preprocess.__call__, input_signature=[tf.TensorSpec([None, *raw.shape[1:]], tf.string)])
  assert _same(_numpy(traced(texts)), expected), "the graph differs from eager execution"
  stream = tf.data.Dataset.from_tensors(texts).map(preprocess)
  assert _same(_numpy(next(iter(stream))), expected), "the training stream differs"
  module = tf.Module()
  module.preprocess, module.serve = preprocess, traced
  tf.saved_model.save(module, str(directory))
  assert _same(_numpy(tf.saved_model.load(str(directory)).serve(texts)), expected), "the export differs"

  if preprocess.size:
    assert expected[""].shape == (len(raw), preprocess.size, preprocess.size, 3)
    assert expected[""].min() >= 0 and expected[""].max() <= 1
  else:
    counts = preprocess.count_tokens(texts)
    assert counts.dtype == tf.int32 and counts.shape[0] == len(raw)
  if preprocess.limit:
    assert all(values.dtype == np.int32 and values.shape[-1] <= preprocess.max_length for values in expected.values())
    special = preprocess.special_tokens
    assert special is None or len({int(token) for token in special}) == 3
  if preprocess.can_arrange:
    columns = [preprocess.tokenize_column(texts if raw.ndim == 1 else texts[:, i]) for i in range(raw[:1].size)]
    arranged = _numpy(preprocess.arrange(columns))
    assert arranged and _same({name: expected[name] for name in arranged}, arranged), "the tokens are elsewhere"
  if preprocess.can_pack and raw.ndim == 1:
    packed = _numpy(preprocess.pack(preprocess.tokenize(texts)))
    assert packed["input_word_ids"].shape[1] <= preprocess.max_length
  if preprocess.can_join_pairs:
    joined = _numpy(preprocess.join(texts, texts))
    assert joined["input_word_ids"].shape[1] <= preprocess.max_length


def check_modality(modality: Modality, values: np.ndarray, preprocess: Preprocess, augmentations: list[str]) -> None:
  """Checks a modality.

  Args:
    modality: one of `modalities.MODALITIES`.
    values: object array [n] of at least two different inputs, as a `Column` holds them.
    preprocess: of a backbone that reads them.
    augmentations: names of --augment that fit.
  """
  assert modalities.of(modality.name) is modality
  fields = {field.name for field in dataclasses.fields(Config)}
  assert {modality.column_flag, *modality.flags} <= fields, "a flag does not exist"
  others = [flag for other in modalities.MODALITIES.values() if other is not modality for flag in other.flags]
  assert not set(modality.flags) & set(others), "two modalities claim one flag"
  assert set(modality.token_checks) <= set(findings.KINDS)
  assert all(
    isinstance(getattr(modality, name), str) and getattr(modality, name) for name in ("plural", "encoded_form")
  )
  assert 0 < modality.learning_rate(768) <= modality.learning_rate(64) < 1

  encoded = [modality.encode(value) for value in values]
  assert all(data and not reason for data, reason in encoded), "a good input is refused"
  assert all(modality.verify(data) is None for data, _ in encoded)
  again = [modality.from_bytes(data, store=lambda data: data) for data, _ in encoded]
  assert [modality.encode(value) for value in again] == encoded, "bytes do not survive a round trip"
  assert modality.encode(None)[1] and modality.encode(None)[0] == b""
  if modality.is_decoded:
    assert modality.verify(encoded[0][0][:20]), "a damaged input is not found"

  rows = [preprocess(tf.constant([data])) for data, _ in encoded]
  inputs = Inputs.of(modality.name, values)
  assert inputs.modality == modality.name and list(inputs.array()) == list(values)
  inference = modality.inference_step(inputs, preprocess)
  training = modality.training_steps(inputs, preprocess)
  assert next(iter(training)) == "read"
  for index, expected in enumerate(rows):
    position = tf.constant([index] if modality.is_batched else index)
    value = position
    for step in training.values():
      value = step(value, tf.constant(0, tf.int64), position)
    for found in (value, inference(position)):
      found = found if modality.is_batched else found[None]
      assert _same(_numpy(found), _numpy(expected)), "training, inference and export read an input differently"

  for name in augmentations:
    assert modality.describe_augmentation(name)
    _check_augmentation(modality, name, inputs, preprocess)
  previews = [modality.preview(row) for row in inputs.rows()]
  assert all(len(preview) == 1 and set(preview) <= {"text", "image"} for preview in previews)
  assert all(preview == json.loads(json.dumps(preview)) for preview in previews)


def _check_augmentation(modality, name, inputs, preprocess):
  """The augmentation depends on the seed and the number of the element alone, and changes what the network reads."""

  def augmented(seed, number):
    augment = modality.augmentation(name, inputs, seed)
    steps = modality.training_steps(inputs, preprocess, augment)
    value = position = tf.constant([0] if modality.is_batched else 0)
    for step in steps.values():
      value = step(value, tf.constant(number, tf.int64), position)
    return _numpy(value)

  first = [augmented(seed=0, number=number) for number in range(8)]
  again = [augmented(seed=0, number=number) for number in range(8)]
  other = [augmented(seed=1, number=number) for number in range(8)]
  assert all(map(_same, first, again)), f"{name} is not repeatable"
  assert not all(map(_same, first, other)), f"{name} ignores the seed"
  assert not all(_same(first[0], one) for one in first), f"{name} changes nothing"
  augment = modality.augmentation(name, inputs, 0)
  copies = [modality.augmented_copy(inputs.rows()[0], "digest", augment, number) for number in (1, 1, 2)]
  assert copies[0][1] == copies[1][1] and isinstance(copies[0][1], str)


def check_task(task: Task, config: Config, labels: list[str], inputs: list[str]) -> None:
  """Checks a task that is not fitted.

  Args:
    task: one of `tasks.TASKS`, or another one that `tasks.from_config` knows.
    config: flags that fit the task.
    labels: at least twelve label cells; every class has two or more.
    inputs: the raw text of each, for the signature of the export.
  """
  fitted = task.configure(config, labels).fit(labels)
  assert task.codec != fitted.codec, "fit changed the task in place"
  targets = fitted.codec.targets(labels)
  perfect = fitted.codec.as_probabilities(targets)
  logits = np.random.default_rng(0).normal(size=perfect.shape).astype(np.float32)
  outputs = fitted.answers.outputs(logits)
  assert len(targets) == len(labels) == len(fitted.codec.classes(labels))
  assert perfect.dtype == np.float32 and perfect.shape[-1] == len(fitted.names)
  assert outputs.dtype == np.float64 and outputs.shape == logits.shape

  tuned = fitted.calibrate(logits, targets, AnswerConfig())
  for version in (fitted, tuned):
    fields = json.loads(json.dumps(version.get_config(), allow_nan=False))
    assert tasks.from_config(fields) == version, "the config does not give the task again"
  _check_metrics(tuned, targets, perfect, logits)
  _check_loss(tuned, targets, perfect, logits)
  _check_answers(tuned, labels, inputs, targets, logits)


def _check_metrics(task, targets, perfect, logits):
  metrics = task.metrics
  computed = metrics.compute_metrics(logits, targets)
  assert json.loads(json.dumps(computed, allow_nan=False)) == computed, "the metrics are not JSON"
  assert next(iter(metrics.metric_titles)) == metrics.primary_metric
  assert set(metrics.metric_titles) | {"loss", "num_examples", "per_class"} <= set(computed) | {"per_class"}
  score = metrics.score(logits, targets)
  assert computed[metrics.primary_metric] == pytest.approx(score)
  monitored = metrics.monitor_metrics(logits, targets)
  assert monitored[metrics.primary_metric] == pytest.approx(score) and np.isfinite(monitored["loss"])
  assert metrics.score(perfect, targets) > max(score, metrics.score(-perfect, targets))
  sentences = [*metrics.describe(computed), *metrics.describe_failures(computed)]
  assert (
    sentences and all(not text[0].islower() and text.endswith(".") for text in sentences) and metrics.headline(computed)
  )
  baseline = metrics.baseline(targets, targets)
  assert "against" in metrics.describe_against(computed, baseline)
  assert json.loads(json.dumps(baseline, allow_nan=False)) == baseline
  assert metrics.baseline_score(baseline) < metrics.score(perfect, targets) and metrics.baseline_score({}) is None
  assert metrics.p_value(logits, logits, targets) > 0.5 and 0 < metrics.p_value(perfect, -perfect, targets) < 0.5
  with pytest.raises(UserError):
    metrics.compute_metrics(logits[:0], targets[:0])
  with pytest.raises(RunFailed):
    metrics.compute_metrics(logits * np.nan, targets)


def _check_loss(task, targets, perfect, logits):
  losses = [task.loss.loss(0.0)]
  losses += [task.loss.loss(0.1)] if task.supports_label_smoothing else []
  losses += [task.loss.weighted_loss(0.0, name, targets) for name in task.imbalances if name != "balanced"]
  for loss in losses:
    right, wrong, random = (float(np.mean(loss(targets, values))) for values in (perfect, -perfect, logits))
    assert right < wrong and np.isfinite(random), "the loss of right answers is not lower"
  assert task.loss.mean_loss(perfect, targets) < task.loss.mean_loss(-perfect, targets)
  bias = task.loss.initial_bias(targets)
  assert bias.shape == (len(task.names),) and np.isfinite(bias).all()
  for solver in task.probe_solvers[1:]:
    estimators = task.loss.probe_estimators(solver)
    assert estimators and all(strength > 0 for strength, _ in estimators)


def _check_answers(task, labels, inputs, targets, logits):
  answers, outputs = task.answers, task.answers.outputs(logits)
  rows = [
    dict(zip(answers.columns, row, strict=True)) for row in answers.rows(map(str, range(len(labels))), labels, outputs)
  ]
  rows = [{name: str(value) for name, value in row.items()} for row in rows]
  assert [row["id"] for row in rows] == [str(number) for number in range(len(labels))]
  sums = task.metrics.sufficient_statistics(rows).sum(axis=0)
  assert task.metrics.score_from_statistics(sums) == pytest.approx(task.metrics.score(logits, targets))
  wrong = [answers.error(row) for row in rows]
  assert all(error is None or np.isfinite(error) for error in wrong)

  _check_explained(answers, logits)
  raw = [text.encode() for text in inputs]
  served = {name: value.numpy() for name, value in answers.signature_outputs(logits, tf.constant(raw)).items()}
  assert served.keys() <= handover.MEANINGS.keys(), "the README of the export does not say what an output is"
  decoded = list(answers.decode(served, raw))
  assert len(decoded) == len(raw) and json.loads(json.dumps(decoded, allow_nan=False)) == decoded
  for answer, example in zip(decoded, inputs):
    cells = answers.label_cells(answer)
    assert answers.describe_answer(answer) and len(cells) == len(answers.label_columns)
    if all(cells):
      answers.check_labels(cells, [example])
  text = {name: np.char.decode(v.astype(bytes), "utf-8") if v.dtype == object else v for name, v in served.items()}
  parity = answers.parity(text, outputs)
  assert json.loads(json.dumps(parity, allow_nan=False)) == parity
  assert answers.is_equal(parity, 1e-4), answers.describe_parity(parity)
  assert not answers.is_equal(answers.parity(text, np.roll(outputs, 1, axis=0)), 1e-4), "a difference is not found"


def _check_explained(answers, logits):
  for of_example in logits:
    found = answers.explained(of_example)
    assert found and {each.name for each in found} <= set(answers.explainable)
    for each in [*found, *answers.explained(of_example, answers.explainable)]:
      # Higher logits of the answer, higher score.
      raised = of_example.copy()
      raised[each.place] += 1.0
      before, after = (
        float(answers.score(tf.constant(values)[None], each.place)[0]) for values in (of_example, raised)
      )
      assert np.isfinite(each.value) and before < after
  assert [each.name for each in answers.explained(logits[0], answers.explainable)] == list(answers.explainable)
  with pytest.raises(UserError, match="--class=no such name is unknown; the model knows: "):
    answers.explained(logits[0], ["no such name"])


def check_objective(phase: Phase, model: Model, data: TrainingData) -> None:
  """Checks what a phase minimises.

  Args:
    phase: a phase that takes optimizer steps.
    model: the `Model`, with freshly loaded weights.
    data: the `TrainingData`, with examples of every class.
  """
  objective = objectives.of(phase)
  assert objective.problem(model.task, replicas=1) == ""
  assert isinstance(objective.fits_head, bool) and isinstance(objective.plans_batches, bool)
  assert isinstance(objective.description(phase), str)

  first, again, other = (_batches(objective, phase, model, data, seed) for seed in (0, 0, 1))
  assert all(batch.dtype == np.int32 and batch.ndim == 1 for batch in first)
  assert all(batch.min() >= 0 and batch.max() < len(data.train) for batch in first)
  assert all(map(np.array_equal, first, again)), "the batches of one seed differ"
  assert not all(map(np.array_equal, first, other)), "the seed changes nothing"

  stages.set_trainable(model, phase)
  network = compiling.with_phase_steps(objective.network(model, phase), phase)
  names = [name for name in phase.trains.train_stages if name != HEAD or phase.objective.trains_head]
  expected = {id(variable) for name in names for variable in stages.selected(model, phase)[name]}
  assert {id(variable) for variable in network.trainable_variables} == expected, "the network trains other variables"
  compiling.PhaseSteps(network, phase, model, data.train_targets).compile()

  before = {name: [np.array(variable) for variable in variables] for name, variables in model.stages.items()}
  inputs = model.backbone.preprocess(_tensor(data.inputs[data.train[first[0]]].array()))
  targets = data.train_targets[first[0]]
  start = network.test_on_batch(inputs, targets, return_dict=True)["loss"]
  for _ in range(STEPS):
    network.train_on_batch(inputs, targets)
  end = network.test_on_batch(inputs, targets, return_dict=True)["loss"]
  assert np.isfinite([start, end]).all() and end < start, f"the loss does not fall: {start} to {end}"
  moved = {
    name
    for name, variables in model.stages.items()
    if any(not np.array_equal(variable, value) for variable, value in zip(variables, before[name]))
  }
  assert moved == set(names), "steps change other stages than those of the phase"


def _batches(objective, phase, model, data, seed):
  dataset = objective.index_batches(phase, data, model.backbone.preprocess, 1, seed)
  return list(dataset.take(4).as_numpy_iterator())


def _tensor(raw):
  return tf.constant(raw.tolist(), tf.string)


def _numpy(values):
  """Returns {name: array} of a tensor, under "", or of a dict of tensors."""
  named = values if isinstance(values, dict) else {"": values}
  return {name: np.asarray(value) for name, value in named.items()}


def _same(first, second):
  """Whether two dicts of arrays are equal to the bit."""
  return first.keys() == second.keys() and all(
    first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]) for name in first
  )
