"""Long texts: which tokens are read, and that a run with windows trains, exports and answers the same."""

import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny_modules

from tl_app import config as config_lib
from tl_app import files
from tl_app.backbones import long_text as backbone_long_text
from tl_app.backbones import native_stages, pooling, saved_model, text_pairs
from tl_app.backbones.spec import BackboneSpec
from tl_app.commands import evaluate, train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.preprocessing import long_text, text


def ragged(*lengths):
  return tf.ragged.constant([list(range(n)) for n in lengths], tf.int32, row_splits_dtype=tf.int64)


def test_head_and_tail_keep_both_ends_in_order():
  found = long_text.head_tail(ragged(0, 3, 8, 9, 20), 8).to_list()
  assert found == [[], [0, 1, 2], list(range(8)), [0, 1, *range(3, 9)], [0, 1, *range(14, 20)]]


def test_head_and_tail_of_512_are_those_of_the_paper():
  (found,) = long_text.head_tail(ragged(1000), 510).to_list()
  assert found == [*range(128), *range(1000 - 382, 1000)]


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_windows_reach_from_the_first_token_to_the_last(length):
  counts = [0, 1, length, length + 1, 3 * length, 17 * length + 1]
  found, number = long_text.cut(ragged(*counts), length, 40)
  rows = iter(found.to_list())
  for count, own in zip(counts, number.numpy()):
    members = [next(rows) for _ in range(own)]
    assert {token for window in members for token in window} == set(range(count))
    assert {len(window) for window in members} == {min(count, length)}
    if count > length > 2:
      least = long_text.OVERLAP * length - 1
      assert all(len({*a} & {*b}) >= least for a, b in zip(members, members[1:]))
  assert next(rows, None) is None


def test_the_windows_of_a_book_are_few_and_evenly_spaced():
  found, number = long_text.cut(ragged(100_000), 126, 8)
  assert number.numpy().tolist() == [8]
  starts = [window[0] for window in found.to_list()]
  assert starts[0] == 0 and starts[-1] == 100_000 - 126 and np.ptp(np.diff(starts)) <= 1


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
  path.write_text("\n".join(tiny_modules.VOCABULARY) + "\n")
  return path


def test_the_share_that_is_read_counts_what_the_windows_hold(vocab):
  preprocess = long_text.Windows(text.WordPiece(vocab, True, 24), max_windows=3)
  preprocess.max_length = 10
  counts = preprocess.count_tokens(tf.constant(["film", "film " * 20, "film " * 60])).numpy()
  assert long_text.tokens_read(preprocess, counts).tolist() == [3, 22, 26]
  assert long_text.tokens_read(text.WordPiece(vocab, True, 24), counts).tolist() == [3, 22, 24]


@pytest.mark.slow
def test_texts_of_different_length_share_one_trace(vocab):
  preprocess = long_text.Windows(text.WordPiece(vocab, True, 24), max_windows=3)
  preprocess.max_length = 10
  traced = tf.function(preprocess, input_signature=[tf.TensorSpec([None], tf.string)])
  shapes = [traced(tf.constant(texts))["input_word_ids"].shape for texts in (["film"], ["film " * 9, "", "film " * 99])]
  assert shapes == [(1, 1, 3), (3, 3, 10)]
  assert traced.experimental_get_tracing_count() == 1


# Backbones


SPEC = BackboneSpec("tiny", "saved_model", "tiny")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("world")
  return tiny_modules.texts(root) | {"data": documents(root / "documents.csv")}


def documents(path, n=120, seed=0):
  """Writes documents of 20 to 70 words, two in the middle or at the end telling; returns the data set's name."""
  rng = np.random.default_rng(seed)
  rows = []
  for i in range(n):
    words = [f"word{j}" for j in rng.integers(0, 20, rng.integers(20, 70))]
    place = rng.integers(len(words) // 3, len(words))
    words[place:place] = [("bad", "good")[i % 2]] * 6
    rows.append((" ".join(words), ("negative", "positive")[i % 2]))
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("text", "label"), *rows])
  return f"table:{path}"


@pytest.mark.slow
def test_the_features_are_the_mean_of_those_of_the_windows(world):
  backbone = saved_model.load(world["bert"], SPEC, pooling="mean")
  read = backbone_long_text.read_long(backbone, "windows", 4)
  read.preprocess.max_length = 10
  texts = ["film good", "word1 " * 30 + "bad", ""]
  found = read.network(read.preprocess(tf.constant(texts)))["features"].numpy()
  tokens = read.preprocess.tokenize(tf.constant(texts))
  cut, number = long_text.cut(tokens, 8, 4)
  alone = backbone.network(backbone.preprocess.pack(cut))["features"].numpy()
  assert number.numpy().tolist() == [1, 4, 1]
  np.testing.assert_allclose(found, [alone[0], alone[1:5].mean(axis=0), alone[5]], atol=1e-6)
  assert read.stages is backbone.stages and read.feature_size == backbone.feature_size


@pytest.mark.slow
def test_a_text_that_fits_gives_what_it_gave_before(world):
  backbone = saved_model.load(world["bert"], SPEC, pooling="mean")
  texts = tf.constant(["the film is good", "bad " * 20])
  before = backbone.network(backbone.preprocess(texts))["features"]
  for how in ("head_tail", "windows"):
    read = backbone_long_text.read_long(backbone, how, 4)
    np.testing.assert_allclose(read.network(read.preprocess(texts))["features"], before, atol=1e-6)


def test_a_preprocessing_model_that_packs_reads_windows_as_the_vocabulary_does(world):
  texts = tf.constant(["word1 " * 30 + "bad", "film"])
  own, hub = (
    backbone_long_text.read_long(
      saved_model.load(world["bert"], SPEC, preprocessor=preprocessor), "windows", 4
    ).preprocess
    for preprocessor in (None, world["hub_preprocess"])
  )
  own.max_length = hub.max_length = 10
  expected, found = own(texts), hub(texts)
  for name in text.INPUT_NAMES:
    np.testing.assert_array_equal(found[name], expected[name])


def test_what_gives_no_tokens_is_refused_in_one_line(world):
  with pytest.raises(UserError, match="--long_text=windows: tiny reads texts of any length: remove the flag"):
    backbone_long_text.read_long(saved_model.load(world["strings"], SPEC), "windows", 4)
  fixed = saved_model.load(world["bert"], SPEC, preprocessor=world["fixed preprocessing"])
  with pytest.raises(UserError, match="the preprocessing module of tiny makes whole sequences of 12 tokens"):
    backbone_long_text.read_long(fixed, "head_tail", 4)


def test_both_texts_of_a_bi_encoder_have_windows(world):
  backbone = saved_model.load(world["bert"], SPEC, pooling="mean")
  read = backbone_long_text.read_long(backbone, "windows", 4)
  both = text_pairs.read_pairs(read, "bi_encoder")
  both.preprocess.max_length = 10
  assert read.preprocess.max_length == 10 and both.preprocess.max_windows == 4
  texts = tf.constant([["word1 " * 30, "film"], ["bad", "word2 " * 20]])
  found = both.network(both.preprocess(texts))["features"].numpy()
  u, v = (read.network(read.preprocess(texts[:, i]))["features"].numpy() for i in (0, 1))
  np.testing.assert_allclose(found, tiny_modules.pair_features(u, v), atol=1e-6)


def test_a_native_network_with_windows_is_cut_below_a_stage():
  from tl_app.backbones import bert
  from tl_app.backbones.backbone import Backbone

  small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
  small |= {"vocab_size": 30, "max_position_embeddings": 16, "type_vocab_size": 2}
  network = bert.build(small)
  import keras

  network = keras.Model(
    network.input, {"features": pooling.pool(network.output["sequence"], network.input["input_mask"], "mean")}
  )
  spec = BackboneSpec("tiny", "bert_safetensors", "tiny", modality="text")
  preprocess = text.RawStrings()
  preprocess.limit, preprocess.can_pack = 16, True
  single = Backbone(spec, preprocess, network, native_stages.stage_weights(network, spec)[0], 8)
  read = backbone_long_text.read_long(single, "windows", 4)
  rng = np.random.default_rng(0)
  ids = rng.integers(1, 30, (3, 4, 6)).astype("int32")
  mask = np.ones((3, 4, 6), "int32")
  mask[0, 2:] = 0
  inputs = {"input_word_ids": ids * mask, "input_mask": mask, "input_type_ids": np.zeros_like(ids)}
  trunk, tail = read.split("layer_1")
  np.testing.assert_allclose(tail(trunk(inputs))["features"], read.network(inputs)["features"], atol=1e-6)


# Runs


def config(world, **flags):
  defaults = {"backbone": world["bert"], "dataset": world["data"], "max_length": 12, "long_text": "windows"}
  return Config(**defaults | {"feature_cache": "off", "offline": True, "pooling": "mean"} | flags)


@pytest.mark.slow
def test_a_run_with_windows_trains_exports_and_is_measured_again(world, tmp_path):
  flags = {"recipe": "lp_ft", "epochs": 1, "head_epochs": 4, "batch_size": 16, "max_windows": 10}
  metrics = train.train_and_evaluate(config(world, **flags), tmp_path / "run")
  assert metrics["parity"]["label_flips"] == 0 and metrics["candidates"].keys() >= {"probe", "fine_tuned"}
  preprocessing = metrics["preprocessing"]
  assert (preprocessing["long_text"], preprocessing["tokens_read"], preprocessing["texts_cut"]) == ("windows", 1.0, 0.0)
  assert files.read_json(tmp_path / "run/plan.json")["preprocessing"] == preprocessing
  assert "windows" in (tmp_path / "run/report.html").read_text()
  assert evaluate.evaluate(tmp_path / "run", {}, "")["test"]["accuracy"] == metrics["test"]["accuracy"]
  served = tf.saved_model.load(str(tmp_path / "run/export"))
  book = tf.constant(["word1 " * 20_000, "good"])
  assert np.isfinite(served.signatures["serving_default"](inputs=book)["score"]).all()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"long_text": "head", "max_windows": 3}, "--max_windows=3 does nothing without --long_text=windows"),
    ({"long_text": "head_tail", "max_windows": 3}, "--max_windows=3 does nothing without --long_text=windows"),
    (
      {"text_pair_column": "b", "pair_encoding": "cross_encoder"},
      "--pair_encoding=cross_encoder: use --pair_encoding=bi_encoder",
    ),
    ({"long_text": "middle"}, "--long_text=middle is not one of: head, head_tail, windows"),
    ({"max_windows": 1}, "--max_windows=1 is below 2"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
  good = Config(workdir="w", backbone="minilm_l6", dataset="table:d.csv", long_text="windows")
  config_lib.validate(good)
  with pytest.raises(UserError, match=message):
    config_lib.validate(dataclasses.replace(good, **flags))
