"""Every kind of backbone, preprocessing, modality, task and objective keeps the promises of `tests/contracts.py`."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_modules
import tiny_presets

from tests import contracts
from tl_app import backbones, tasks
from tl_app.assets import Assets
from tl_app.backbones import long_text, text_pairs, token_features
from tl_app.config import Config
from tl_app.data import modalities, training_data
from tl_app.data.examples import Examples, Inputs
from tl_app.data.splitting.splits import Splits
from tl_app.model import model as model_lib
from tl_app.recipes import phase, recipes
from tl_app.recipes.facts import Facts
from tl_app.training import objectives

TEXTS = np.array(["the film is good", "bad film, badly!", "", "cafe is the word1 " * 9], dtype=object)
PAIRS = np.array([[first, second] for first, second in zip(TEXTS, TEXTS[::-1])], dtype=object)


# How the files of each kind are written below an empty directory.
WRITERS = {
  "image_module": lambda root: tiny_modules.image(root, size=16),
  "image_module_of_any_size": tiny_modules.image,
  "image_module_with_a_map": tiny_modules.image_map,
  "image_module_without_variables": tiny_modules.image_constant,
  "image_module_with_a_signature": tiny_modules.image_signature,
  "text_module": tiny_modules.bert,
  "text_module_of_strings": tiny_modules.strings,
  "preprocessing_module": tiny_modules.bert_preprocess,
  "kerashub_bert": lambda root: tiny_presets.bert(root, list(tiny_modules.VOCABULARY), layers=2),
  "kerashub_distilbert": lambda root: tiny_presets.bert(root, list(tiny_modules.VOCABULARY), "DistilBert", layers=2),
  "kerashub_resnet": lambda root: tiny_presets.resnet(root, size=32),
}


@functools.cache
def _written(name, root):
  return WRITERS[name](root / name)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
  """Returns a function, kind of `BACKBONES` -> backbone with freshly loaded weights."""
  root = tmp_path_factory.mktemp("files")

  def load_files(name, preprocessor="", **options):
    if preprocessor:
      options["preprocessor"] = _written(preprocessor, root)
    return backbones.load(backbones.resolve(_written(name, root)), Assets(offline=True), **options)

  return lambda kind: BACKBONES[kind](load_files)


def _short(backbone, max_length=12):
  """Returns a text backbone that reads fewer tokens than it can."""
  backbone.preprocess.max_length = max_length
  return backbone


def _from_nothing(name):
  """Returns a small backbone without pretrained weights, the same each time."""
  keras.utils.set_random_seed(0)
  spec = backbones.configured(backbones.resolve(name), "auto", width=8, depth=2)
  return backbones.load(backbones.with_vocabulary(spec, TEXTS, 100), Assets(offline=True), image_size=0)


# How a backbone of each kind is loaded from these files.
BACKBONES = {
  "image_module": lambda load: load("image_module"),
  "image_module_of_any_size": lambda load: load("image_module_of_any_size", image_size=16),
  "image_module_with_a_map": lambda load: load("image_module_with_a_map", image_size=16),
  "image_module_without_variables": lambda load: load("image_module_without_variables"),
  "image_module_with_a_signature": lambda load: load("image_module_with_a_signature"),
  "text_module": lambda load: load("text_module"),
  "text_module_with_preprocessing": lambda load: load("text_module", preprocessor="preprocessing_module"),
  "text_module_of_strings": lambda load: load("text_module_of_strings"),
  "kerashub_bert": lambda load: load("kerashub_bert"),
  "kerashub_distilbert": lambda load: load("kerashub_distilbert"),
  "kerashub_resnet": lambda load: load("kerashub_resnet"),
  "tokens": lambda load: _short(token_features.read_words(load("kerashub_bert"))),
  "windows": lambda load: _short(long_text.read_long(load("kerashub_bert"), "windows", 3)),
  "head_tail": lambda load: _short(long_text.read_long(load("kerashub_bert"), "head_tail", 1)),
  "cross_encoder": lambda load: _short(text_pairs.read_pairs(load("kerashub_bert"), "cross_encoder")),
  "bi_encoder": lambda load: _short(text_pairs.read_pairs(load("kerashub_bert"), "bi_encoder")),
  "lstm": lambda load: _short(_from_nothing("lstm.scratch")),
  "cnn_small": lambda load: _from_nothing("cnn_small.scratch"),
  "bi_encoder_of_a_module": lambda load: text_pairs.read_pairs(load("text_module_of_strings"), "bi_encoder"),
}


def _raw(backbone):
  """Returns raw examples that the backbone reads, object array [4] or [4, 2]."""
  if backbone.preprocess.size:
    return np.array([_encoded_image(seed) for seed in range(4)], dtype=object)
  return PAIRS if backbone.pairs else TEXTS


def _encoded_image(seed):
  pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed, 24, 3), np.uint8)
  return tf.io.encode_png(pixels).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone(load, kind):
  backbone = load(kind)
  contracts.check_backbone(backbone, _raw(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKBONES)
def test_preprocess(load, kind, tmp_path):
  backbone, other = load(kind), load(kind)
  contracts.check_preprocess(backbone.preprocess, _raw(backbone), tmp_path, other.preprocess)


# A backbone that reads inputs of the modality, and values of --augment.
MODALITIES = {"text": ("kerashub_bert", ["light"]), "image": ("image_module", ["light", "medium", "rand"])}


def test_every_modality_is_checked():
  assert set(MODALITIES) == set(modalities.MODALITIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODALITIES)
def test_modality(load, name):
  kind, augmentations = MODALITIES[name]
  values = np.array([text for text in TEXTS if text] if name == "text" else _raw(load(kind)), dtype=object)
  contracts.check_modality(modalities.of(name), values, load(kind).preprocess, augmentations)


WORDS = ("red", "green", "blue")
NUMBERS = range(12)
# The task, flags, and label cells.
TASKS = {
  "single_label": (tasks.SINGLE_LABEL, {}, [WORDS[number % 3] for number in NUMBERS]),
  "single_label_with_imbalance": (
    tasks.IMBALANCED,
    {"imbalance": "class_weights"},
    [WORDS[number % 3] for number in NUMBERS],
  ),
  "multi_label": (tasks.MULTI_LABEL, {}, [json.dumps(WORDS[: number % 4]) for number in NUMBERS]),
  "multi_label_of_columns": (
    tasks.MULTI_LABEL,
    {"label_columns": "red,green"},
    [json.dumps([str(number % 2), str(number // 2 % 2)]) for number in NUMBERS],
  ),
  "regression": (tasks.REGRESSION, {}, [f"{10 + number * 0.5}" for number in NUMBERS]),
  "regression_of_two_targets": (
    tasks.REGRESSION,
    {"label_columns": "price,weight"},
    [json.dumps([str(number / 2), str(-3.5 * number)]) for number in NUMBERS],
  ),
  "token_classification": (
    tasks.TOKEN_CLASSIFICATION,
    {},
    ["O B-place I-place", "B-person O O", "O O B-place"] * 4,
  ),
}


@pytest.mark.parametrize("name", TASKS)
def test_task(name):
  task, flags, labels = TASKS[name]
  inputs = [f"number {index} here" for index in NUMBERS]
  contracts.check_task(task, Config(**flags), labels, inputs)


def _training_data(texts, labels, task):
  """Returns the `TrainingData` of texts that are all in the training split."""
  texts, labels = (np.array(values, dtype=object) for values in (texts, labels))
  hashes = np.array([f"{number:03}" for number in range(len(texts))], dtype=object)
  inputs = Inputs.of("text", texts)
  examples = Examples(hashes, inputs, labels, hashes, task.codec.classes(labels), skipped=[], source="texts")
  none = np.zeros(0, np.int64)
  split = Splits(examples, train=np.arange(len(texts)), validation=none, test=none, notes=[], settings={})
  return training_data.make(examples, split, task.codec.targets(labels))


# The recipe whose phase has the objective, further flags, and the stages that train.
OBJECTIVES = {
  "task_loss_of_the_head": ({"recipe": "probe"}, "probe"),
  "task_loss": ({"recipe": "full"}, "full"),
  "task_loss_with_imbalance": ({"recipe": "full", "imbalance": "class_weights"}, "full"),
  "task_loss_of_one_stage": ({"recipe": "lp_ft", "train_stages": "top:1"}, "fine_tune"),
  "supervised_contrastive": ({"recipe": "contrastive"}, "contrastive"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(load, name):
  flags, phase_name = OBJECTIVES[name]
  keras.utils.set_random_seed(0)
  labels = [WORDS[number % 3] for number in range(24)]
  texts = [f"the film is word{number % 3}" for number in range(24)]
  backbone = load("kerashub_bert")
  task = (tasks.IMBALANCED if "imbalance" in flags else tasks.SINGLE_LABEL).fit(labels)
  model = model_lib.build(backbone, task, flags["recipe"] in recipes.L2_NORMALIZED)
  paths = {stage: tuple(variable.path for variable in variables) for stage, variables in backbone.stages.items()}
  facts = Facts(len(labels), len(task.names), 1e-3, paths, task.metrics.primary_metric)
  config = Config(batch_size=12, epochs=20, learning_rate=1e-3, **flags)
  planned = next(each for each in recipes.plan(config, facts) if each.name == phase_name)
  contracts.check_objective(planned.replace(warmup_steps=0), model, _training_data(texts, labels, task))


def test_every_objective_and_every_task_has_a_contract_test():
  assert set(objectives.OBJECTIVES) == set(phase.OBJECTIVES)
  tested = {name.removeprefix("task_loss_of_").partition("_with")[0] for name in OBJECTIVES}
  assert {objective.name for objective in phase.OBJECTIVES} <= tested
  assert set(tasks.TASKS) <= {name.partition("_with")[0] for name in TASKS}
