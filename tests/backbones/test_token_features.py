"""Words and their pieces: which piece stands for which word, and what a network gives for each."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_modules

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones import token_features
from tl_app.config import Config
from tl_app.data.examples import Inputs
from tl_app.errors import UserError
from tl_app.features import disk_cache
from tl_app.features.rows import FeatureRows
from tl_app.model import heads, inference
from tl_app.model import model as model_lib
from tl_app.preprocessing import text
from tl_app.preprocessing.word_pieces import STARTS, SplitWords
from tl_app.tasks import TOKEN_CLASSIFICATION

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "u", ".", "s", "caf", "##e", "new", "york", "東", "京", "##s", "*"]
TASK = TOKEN_CLASSIFICATION.with_codec(names=("O", "B-a", "I-a"), words_per_example=3.0)


@pytest.fixture(scope="module")
def preprocess(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
  path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
  return SplitWords(text.WordPiece(path, lower=True, limit=16))


def pieces_of(preprocess, sentence):
  """Returns [[pieces of a word] of each word that is read]."""
  inputs = {name: values.numpy()[0] for name, values in preprocess(tf.constant([sentence])).items()}
  found = []
  for id, start in zip(inputs["input_word_ids"], inputs[STARTS]):
    if start:
      found.append([])
    if found and VOCABULARY[id] not in ("[SEP]", "[PAD]"):
      found[-1].append(VOCABULARY[id])
  return found


@pytest.mark.parametrize(
  ("sentence", "expected"),
  [
    ("New York", [["new"], ["york"]]),
    ("U.S. cafés .", [["u", ".", "s", "."], ["caf", "##e", "##s"], ["."]]),
    ("東京 new", [["東", "京"], ["new"]]),
    ("new \u200b york", [["new"], ["*"], ["york"]]),
    ("😂 new", [["[UNK]"], ["new"]]),
    (f"{'s' * 101} new", [["[UNK]"], ["new"]]),
    ("New\u00a0York  \t s", [["new", "york"], ["s"]]),
    ("\u200b", [["*"]]),
  ],
)
def test_every_word_has_its_pieces(preprocess, sentence, expected):
  assert pieces_of(preprocess, sentence) == expected


def test_pieces_of_words_are_those_of_the_text(preprocess):
  texts = tf.constant(["U.S. cafés , 東京", "new york"])
  np.testing.assert_array_equal(
    preprocess.tokenize(texts).flat_values, preprocess._preprocess.tokenize(texts).flat_values
  )
  assert preprocess.count_tokens(texts).numpy().tolist() == [12, 4]


def test_words_beyond_the_length_are_not_read(preprocess):
  many = " ".join(["cafés"] * 5 + ["new"] * 9)
  counts = preprocess.count_words(tf.constant([many, "new york"])).numpy()
  # 16 positions without the first and the last: four words of three pieces, and the beginning of the fifth.
  np.testing.assert_array_equal(counts, [[14, 5], [2, 2]])
  assert len(pieces_of(preprocess, many)) == 5


def test_features_are_those_of_first_pieces_words_first():
  layer = token_features.FirstSubword(lambda: 6)
  sequence = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
  pooled, present = layer(sequence, np.array([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0]], "int32"))
  np.testing.assert_array_equal(present, [[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
  np.testing.assert_array_equal(pooled[0, :2], sequence[0, [1, 3]])
  np.testing.assert_array_equal(pooled[1, 0], sequence[1, 1])
  assert not np.any(pooled[:, 2:]) and not np.any(pooled[1, 1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  directory = tiny_modules.bert(tmp_path_factory.mktemp("bert") / "bert")
  config = Config(backbone=directory)
  made = model_lib.load(config, backbones.resolve(directory), Assets(offline=True), TASK, 12)
  rng = np.random.default_rng(0)
  heads.standardize(made.head, rng.normal(size=(50, 8)))
  made.head.get_layer("logits").set_weights([rng.normal(size=(8, 3)), np.ones(3)])
  return made


@pytest.mark.slow
def test_a_text_has_the_same_logits_whatever_stands_beside_it(model):
  texts = Inputs.of("text", ["the film", "word1 goodly word2 , word3 .", "bad " * 30, "café"])
  together = inference.predict(model.network, model.backbone, texts, 4)
  assert together.shape == (4, 12, 3)
  read = [2, 6, 10, 1]
  for i, (row, count) in enumerate(zip(together, read)):
    alone = inference.predict(model.network, model.backbone, texts[[i]], 1)[0]
    np.testing.assert_allclose(row, alone, atol=1e-5)
    assert np.all(np.abs(row[:count]).sum(axis=1) > 0) and not np.any(row[count:])


@pytest.mark.slow
def test_rows_of_words_give_the_logits_of_the_network(model):
  texts = Inputs.of("text", ["word1 goodly word2 , word3 .", "the film"])
  outputs = inference.predict(model.features, model.backbone, texts, 2)
  features = FeatureRows(
    np.concatenate([outputs[0, :6], outputs[1, :2]]), starts=np.array([0, 6]), counts=np.array([6, 2]), positions=12
  )
  order = np.array([1, 0])
  logits = features.by_example(keras.ops.convert_to_numpy(model.head(features[order])), order)
  expected = inference.predict(model.network, model.backbone, texts[order], 2)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  targets = np.array([[1, 2, 0, 0, 0, 1], [0, 1, -1, -1, -1, -1]])
  assert features.targets(targets, order).tolist() == [0, 1, 1, 2, 0, 0, 0, 1]
  assert features.rows_of(8, order) == 32


def test_several_rows_an_example_come_back_from_the_cache(tmp_path):
  rng = np.random.default_rng(0)
  rows = [rng.normal(size=(n, 4)).astype("float32") for n in (3, 1, 5, 2)]
  hashes = np.array(list("abcd"), object)
  cache = disk_cache.FeatureCache(tmp_path, 4)
  for store in (None, cache, cache):
    starts, found = disk_cache.ragged_features(store, hashes, lambda part: [rows[i] for i in part], chunk=2)
    for start, row in zip(starts, rows):
      np.testing.assert_array_equal(found[start : start + len(row)], row)


def test_the_pooler_of_a_module_does_not_train(model):
  trains = {v.path for v in model.backbone.stages["pooler"] if id(v) in model.can_train}
  assert not trains and any("pooler" in note for note in model.backbone.notes)


def test_a_module_without_a_sequence_is_refused(tmp_path):
  directory = tiny_modules.strings(tmp_path / "strings")
  with pytest.raises(UserError, match="needs an output for each token, but .* gives one for a whole text"):
    model_lib.load(Config(backbone=directory), backbones.resolve(directory), Assets(offline=True), TASK, 0)
