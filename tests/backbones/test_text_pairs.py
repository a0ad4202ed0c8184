"""Pairs of texts: read, in one sequence or two, trained, exported and answered."""

import csv
import json

import numpy as np
import pytest
import rest_server
import tensorflow as tf
import tiny_modules

from tl_app import files, workdir
from tl_app.backbones import kerashub_tokens, native_stages, pooling, saved_model, text_pairs
from tl_app.backbones.spec import BackboneSpec
from tl_app.commands import evaluate, predict, train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.preprocessing import text

WORDS = [f"word{i}" for i in range(20)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("world")
  return tiny_modules.texts(root) | {"data": table(root / "pairs.csv")}


def table(path, n=160, seed=0):
  """Writes pairs of texts that are of the same word, or not, and returns the data set's name."""
  rng = np.random.default_rng(seed)
  rows = {}
  while len(rows) < n:
    same = len(rows) % 2 == 0
    first, second = rng.choice(WORDS, 2, replace=False)
    second = first if same else second
    fillers = rng.integers(0, 99, 2)
    rows.setdefault(
      (f"{first} " * 5 + f"x{fillers[0]}", f"{second} " * 5 + f"y{fillers[1]}"), "same" if same else "other"
    )
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("one", "two", "label"), *((*pair, label) for pair, label in rows.items())])
  return f"table:{path}"


def config(world, backbone="strings", **flags):
  defaults = {"recipe": "probe", "head_epochs": 80, "head_learning_rate": 3e-2, "feature_cache": "off", "offline": True}
  columns = {"text_column": "one", "text_pair_column": "two"}
  return Config(backbone=world[backbone], dataset=world["data"], **defaults | columns | flags)


@pytest.fixture(scope="module")
def bi_encoder(world, tmp_path_factory):
  root = tmp_path_factory.mktemp("bi_encoder")
  return train.train_and_evaluate(config(world), root / "run"), root / "run"


@pytest.mark.slow
def test_a_head_compares_the_texts_of_a_bi_encoder(bi_encoder):
  metrics, workdir = bi_encoder
  assert metrics["test"]["accuracy"] > 0.85 > metrics["majority_accuracy"] + 0.2
  assert metrics["parity"]["label_flips"] == 0
  assert " / " in (workdir / "report.html").read_text()
  again = evaluate.evaluate(workdir, {}, "")
  assert again["test"]["accuracy"] == metrics["test"]["accuracy"]


@pytest.mark.slow
def test_the_export_takes_both_texts_and_predict_reads_both_columns(bi_encoder, tmp_path):
  _, workdir = bi_encoder
  served = tf.saved_model.load(str(workdir / "export")).signatures["serving_default"]
  assert served.structured_input_signature[1]["inputs"].shape.as_list() == [None, 2]
  asked, answered = tmp_path / "asked.csv", tmp_path / "answered.jsonl"
  asked.write_text("one,two\n" + "word3 word3 word3,word3 word3 word3\nword3 word3 word3,word9 word9 word9\n")
  predict.predict(str(workdir / "export"), str(asked), str(answered), text_column="one", text_pair_column="two")
  assert rest_server.check_example(workdir / "export")["label"] in ("other", "same")
  answers = [json.loads(line)["probabilities"]["same"] for line in answered.read_text().splitlines()]
  assert answers[0] > answers[1]
  # The run remembers its columns.
  predict.predict(workdir, str(asked), str(tmp_path / "again.csv"))
  header, first, _ = (tmp_path / "again.csv").read_text().splitlines()
  assert header == "id,text,text_pair,label,score,next_label,next_score,prediction_set,error"
  assert first.startswith("asked.csv:2,word3 word3 word3,word3 word3 word3,same,")
  with pytest.raises(UserError, match="no column 'three' .--text_pair_column"):
    predict.predict(str(workdir / "export"), str(asked), text_column="one", text_pair_column="three")
  with pytest.raises(UserError, match="holds no pairs of texts: give a table"):
    predict.predict(str(workdir / "export"), "-", text_column="one", text_pair_column="two")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["bi_encoder", "cross_encoder"])
def test_both_encodings_of_bert_train_and_are_exported(world, tmp_path, encoding):
  flags = {"recipe": "lp_ft", "epochs": 1, "head_epochs": 3, "pair_encoding": encoding, "max_examples": 40}
  metrics = train.train_and_evaluate(config(world, "bert", **flags), tmp_path / "run")
  assert metrics["parity"]["label_flips"] == 0 and metrics["candidates"].keys() >= {"probe", "fine_tuned"}
  plan = files.read_json(tmp_path / "run/plan.json")
  assert plan["backbone"]["feature_size"] == tiny_modules.WIDTH * (4 if encoding == "bi_encoder" else 1)
  assert files.read_json(tmp_path / "run/export" / workdir.EXPORT_FACTS)["pairs"] is True


def test_joined_texts_carry_segments_and_the_longer_is_cut():
  first, second = tf.ragged.constant([[5, 6, 7, 8, 9], [5]]), tf.ragged.constant([[10, 11], [12, 13]])
  inputs = text.pack(first, 8, special=(2, 3, 0), second=second)
  assert inputs["input_word_ids"].numpy().tolist() == [[2, 5, 6, 7, 3, 10, 11, 3], [2, 5, 3, 12, 13, 3, 0, 0]]
  assert inputs["input_type_ids"].numpy().tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0]]
  assert inputs["input_mask"].numpy().sum(axis=1).tolist() == [8, 6]
  twice = text.pack(first[1:], 8, special=(2, 3, 0), second=second[1:], separators_between=2)
  assert twice["input_word_ids"].numpy()[0, :7].tolist() == [2, 5, 3, 3, 12, 13, 3]


@pytest.mark.slow
def test_roberta_puts_two_separators_between_texts_and_counts_them():
  import keras_hub

  words = ["<s>", "<pad>", "</s>", "<mask>", *"abcdefg", "fg"]
  tokenizer = keras_hub.models.RobertaTokenizer({word: i for i, word in enumerate(words)}, ["f g"])
  joined = text_pairs.CrossEncoder(kerashub_tokens.KerasHubTokens(tokenizer, 32))
  texts = tf.constant([["abc", "de"], ["a", "bcdea"]])
  inputs = joined(texts)
  assert inputs["input_word_ids"].numpy()[0, :9].tolist() == [0, 4, 5, 6, 2, 2, 7, 8, 2]
  assert joined.count_tokens(texts).numpy().tolist() == inputs["input_mask"].numpy().sum(axis=1).tolist() == [9, 10]


@pytest.mark.slow
def test_the_preprocessing_model_joins_as_the_vocabulary_does(shared):
  module, preprocess_module = shared("hub/bert_tiny"), shared("hub/bert_tiny_preprocess")
  spec = BackboneSpec("tiny", "saved_model", str(module))
  texts = tf.constant([["The film is good.", "Bad film!"], ["one " * 20, "A much shorter text"], ["a", "two " * 20]])
  own, hub = (
    text_pairs.read_pairs(saved_model.load(str(module), spec, preprocessor=preprocessor), "cross_encoder").preprocess
    for preprocessor in (None, str(preprocess_module))
  )
  own.max_length = hub.max_length = 16
  expected, found = own(texts), hub(texts)
  assert expected["input_type_ids"].numpy().max() == 1 and expected["input_mask"].numpy().sum(axis=1).tolist()[1] == 16
  for name in text.INPUT_NAMES:
    np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.slow
def test_a_preprocessing_model_that_packs_one_text_cannot_join_two(world):
  spec = BackboneSpec("tiny", "saved_model", world["bert"])
  for hub in ("hub_preprocess", "fixed preprocessing"):
    backbone = saved_model.load(world["bert"], spec, preprocessor=world[hub])
    with pytest.raises(
      UserError, match="--pair_encoding=cross_encoder: tiny cannot join two texts; use --pair_encoding=bi_encoder"
    ):
      text_pairs.read_pairs(backbone, "cross_encoder")


def test_features_of_a_bi_encoder_are_made_of_both(world):
  backbone = saved_model.load(world["strings"], BackboneSpec("tiny", "saved_model", world["strings"]))
  both = text_pairs.read_pairs(backbone, "bi_encoder")
  texts = tf.constant([["word1 word2", "word3"], ["word3", "word3"]])
  found = both.network(both.preprocess(texts))["features"].numpy()
  u, v = (backbone.network(backbone.preprocess(texts[:, i]))["features"].numpy() for i in (0, 1))
  np.testing.assert_allclose(found, tiny_modules.pair_features(u, v), atol=1e-6)
  assert both.stages is backbone.stages and both.width == 8 and both.feature_size == 32


def test_a_native_network_is_cut_below_a_stage_for_both_texts(world, tmp_path):
  from tl_app.backbones import bert
  from tl_app.backbones.backbone import Backbone

  small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
  small |= {"vocab_size": 30, "max_position_embeddings": 16, "type_vocab_size": 2}
  network = bert.build(small)
  pooled = pooling.pool(network.output["sequence"], network.input["input_mask"], "mean")
  import keras

  network = keras.Model(network.input, {"features": pooled})
  spec = BackboneSpec("tiny", "bert_safetensors", "tiny", modality="text")
  single = Backbone(spec, text.RawStrings(), network, native_stages.stage_weights(network, spec)[0], 8)
  both = text_pairs.read_pairs(single, "bi_encoder")
  rng = np.random.default_rng(0)
  ids = {name: rng.integers(1, 30, (3, 6)).astype("int32") for name in both.network.input if name.endswith("ids")}
  ids = {name: value if "word" in name else np.zeros_like(value) for name, value in ids.items()}
  ids |= {f"{side}_input_mask": np.ones((3, 6), "int32") for side in text_pairs.SIDES}
  trunk, tail = both.split("layer_1")
  np.testing.assert_allclose(tail(trunk(ids))["features"], both.network(ids)["features"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"text_pair_column": "three"}, "no column 'three' .--text_pair_column.; its first line names the columns"),
    ({"dataset": "movie_reviews"}, "--text_pair_column=two needs --dataset=table:PATH, not movie_reviews"),
    ({"text_pair_column": "", "pair_encoding": "cross_encoder"}, "does nothing without --text_pair_column"),
    ({"pair_encoding": "cross_encoder"}, "cannot join two texts; use --pair_encoding=bi_encoder"),
  ],
)
def test_what_does_not_fit_pairs_ends_in_one_line(world, tmp_path, flags, message):
  with pytest.raises(UserError, match=message):
    train.train_and_evaluate(Config(**vars(config(world)) | flags), tmp_path / "run")


@pytest.mark.slow
def test_an_empty_half_is_a_bad_example(world, tmp_path):
  (tmp_path / "a.csv").write_text("one,two,label\na,b,x\nc,,y\n")
  with pytest.raises(UserError, match="a.csv:3: --text_pair_column: the text is empty"):
    train.train_and_evaluate(Config(**vars(config(world)) | {"dataset": f"table:{tmp_path / 'a.csv'}"}), tmp_path / "r")
