"""SavedModels of every form become backbones that train, freeze, save, distribute and export."""

import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules
import warm_process

from tl_app import backbones, files
from tl_app.assets import Assets
from tl_app.backbones import saved_model
from tl_app.backbones.spec import BackboneSpec
from tl_app.commands import inspect_backbone, train
from tl_app.config import Config
from tl_app.errors import UserError

IMAGES = np.random.default_rng(0).random((8, 16, 16, 3)).astype("float32")
LABELS = np.arange(8) % 3
TEXTS = ["the film is good", "bad film", "goodly , cafe !", ""] * 2


def load(directory, pooling="auto", image_size=0, preprocessor=None, **record):
  spec = BackboneSpec(name="module", kind="saved_model", handle="module", **record)
  return saved_model.load(directory, spec, pooling=pooling, image_size=image_size, preprocessor=preprocessor)


def classifier(backbone, optimizer="sgd"):
  head = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
  model = keras.Model(backbone.network.input, head(backbone.network.output["features"]))
  model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  return model


def layer_of(backbone):
  return next(layer for layer in backbone.network.layers if isinstance(layer, saved_model.SavedModelLayer))


def values(backbone):
  return {variable.path: variable.numpy() for variable in backbone.network.variables}


def test_an_image_module_gives_its_own_answer_and_total_stages(tmp_path):
  directory = tiny_modules.image(tmp_path / "module")
  backbone = load(directory, image_size=16)
  module = tf.saved_model.load(directory)
  np.testing.assert_array_equal(backbone.network(IMAGES)["features"], module(IMAGES, training=False))
  assert (backbone.modality, backbone.feature_size, backbone.preprocess.size) == ("image", 8, 16)
  assert list(backbone.stages) == ["stem", "block_0", "block_1", "top"]
  placed = [id(v) for members in backbone.stages.values() for v in members]
  assert sorted(placed) == sorted(id(v) for v in backbone.network.variables)
  assert [v.path for v in backbone.stages["stem"]][0] == "net/stem/conv/kernel"
  assert {v.path for v in backbone.network.non_trainable_variables} == {
    f"{name}/bn/{leaf}" for name in tiny_modules.LAYER_NAMES for leaf in ("moving_mean", "moving_variance")
  }


@pytest.mark.slow
def test_uint8_modules_get_bytes(tmp_path):
  bytes_in = load(tiny_modules.image(tmp_path / "uint8", dtype=tf.uint8), image_size=16)
  floats_in = load(tiny_modules.image(tmp_path / "float32"), image_size=16)
  pixels = np.round(IMAGES * 255) / 255
  np.testing.assert_allclose(bytes_in.network(pixels)["features"], floats_in.network(pixels)["features"], atol=1e-5)


def test_names_that_say_nothing_are_staged_by_graph_order(tmp_path):
  backbone = load(tiny_modules.image(tmp_path / "module", names=tiny_modules.NAMELESS))
  assert [len(members) for members in backbone.stages.values()] == [5, 5, 5, 5]
  first = next(iter(backbone.stages.values()))
  assert tuple(first[0].shape) == (3, 3, 3, 8)
  assert sum(v.trainable for v in first) == 3
  assert any("in the order of use" in note for note in backbone.notes)


@pytest.mark.slow
def test_only_chosen_stages_change_and_batch_norm_keeps_its_statistics(tmp_path):
  backbone = load(tiny_modules.image(tmp_path / "module"), image_size=16)
  for stage, members in backbone.stages.items():
    for variable in members:
      variable.trainable = variable.trainable and stage == "top"
  before = values(backbone)
  classifier(backbone).fit(IMAGES, LABELS, batch_size=4, epochs=1, verbose=0)
  changed = {name for name, value in values(backbone).items() if not np.array_equal(value, before[name])}
  assert changed == {"net/head/conv/kernel", "net/head/bn/gamma", "net/head/bn/beta"}


def test_moving_statistics_that_a_module_calls_trainable_are_not(tmp_path):
  backbone = load(tiny_modules.image(tmp_path / "module", moving_trainable=True), image_size=16)
  assert len(backbone.network.trainable_variables) == 12
  assert not any("moving" in variable.path for variable in backbone.network.trainable_variables)
  assert len(layer_of(backbone).statistics) == 8 and not layer_of(backbone).disconnected


def test_training_mode_runs_the_training_graph(tmp_path):
  backbone = load(tiny_modules.image(tmp_path / "module"), image_size=16)
  layer = layer_of(backbone)
  assert not layer.training_mode
  layer.training_mode = True
  before = values(backbone)
  backbone.network(IMAGES, training=True)
  changed = {name for name, value in values(backbone).items() if not np.array_equal(value, before[name])}
  assert len(changed) == 8 and all("moving" in name for name in changed)
  for variable in backbone.network.trainable_variables:
    variable.trainable = False
  before = values(backbone)
  backbone.network(IMAGES, training=True)
  assert all(np.array_equal(value, before[name]) for name, value in values(backbone).items())


def test_regularization_losses_count_for_what_trains(tmp_path):
  backbone = load(tiny_modules.image(tmp_path / "module"), image_size=16)
  kernels = {v.path: 0.01 * np.sum(v.numpy() ** 2) for v in backbone.network.variables if "kernel" in v.path}
  backbone.network(IMAGES, training=True)
  assert float(sum(backbone.network.losses)) == pytest.approx(sum(kernels.values()), rel=1e-5)
  for stage in ("stem", "block_0", "block_1"):
    for variable in backbone.stages[stage]:
      variable.trainable = False
  backbone.network(IMAGES, training=True)
  assert float(sum(backbone.network.losses)) == pytest.approx(kernels["net/head/conv/kernel"], rel=1e-5)
  backbone.network(IMAGES, training=False)
  assert not backbone.network.losses


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_bert_modules_old_and_new(tmp_path, old):
  directory = tiny_modules.bert(tmp_path / "bert", old=old)
  backbone = load(directory)
  inputs = backbone.preprocess(tf.constant(TEXTS))
  module = tf.saved_model.load(directory)
  wanted = module([inputs[n] for n in tiny_modules.INPUTS])[0] if old else module(inputs)["pooled_output"]
  np.testing.assert_allclose(backbone.network(inputs)["features"], wanted, atol=1e-6)
  assert list(backbone.stages) == ["embeddings", "layer_0", "layer_1", "pooler"]
  assert backbone.preprocess.limit == 24 and backbone.modality == "text"
  dropped = backbone.network(inputs, training=True)["sequence"].numpy()
  assert np.mean(dropped == 0) > 0.2
  assert tuple(backbone.network.output["sequence"].shape) == (None, None, 8)


@pytest.mark.parametrize(
  "names", [("input_ids", "attention_mask", "token_type_ids"), ("ids", "mask", "segments"), ("words", "attention_mask")]
)
def test_arguments_of_a_signature_are_known_by_name(tmp_path, names):
  directory = tiny_modules.bert_signature(tmp_path / "bert", names)
  backbone = load(directory, pooling="mean")
  inputs = backbone.preprocess(tf.constant(["the film is good", "bad"]))
  given = dict(zip(names, (inputs[name] for name in tiny_modules.INPUTS)))
  wanted = tf.saved_model.load(directory).signatures["serving_default"](**given)["last_hidden_state"]
  found = backbone.network(inputs)
  np.testing.assert_allclose(found["sequence"], wanted, atol=1e-6)
  np.testing.assert_allclose(found["features"][1], wanted[1, :3].numpy().mean(axis=0), atol=1e-6)
  # Scores of attention are no feature map.
  assert "map" not in found and not backbone.pools_map


def test_an_argument_of_a_signature_that_nobody_can_give_is_refused(tmp_path):
  names = ("input_ids", "attention_mask", "position_ids")
  with pytest.raises(UserError, match="is no backbone for images or texts"):
    load(tiny_modules.bert_signature(tmp_path / "bert", names))


def test_pooling_is_over_real_tokens_and_refused_where_it_cannot_be(tmp_path):
  directory = tiny_modules.bert(tmp_path / "bert")
  mean, cls = load(directory, "mean"), load(directory, "cls")
  inputs = mean.preprocess(tf.constant(["the film", "good"]))
  sequence = mean.network(inputs)["sequence"].numpy()
  np.testing.assert_allclose(mean.network(inputs)["features"][1], sequence[1, :3].mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(cls.network(inputs)["features"], sequence[:, 0], atol=1e-6)
  assert not mean.stages["pooler"][0].trainable
  assert any("do not reach the features" in note for note in mean.notes)
  with pytest.raises(UserError, match="--pooling=cls: module does not have it; possible: mean"):
    load(tiny_modules.image_map(tmp_path / "map"), "cls")


@pytest.mark.parametrize("layers", [2, 5])
def test_the_mean_of_the_last_layers(tmp_path, layers):
  directory = tiny_modules.bert(tmp_path / "bert", layers=layers)
  backbone = load(directory, "last4")
  inputs = backbone.preprocess(tf.constant(["the film", "good"]))
  outputs = tf.saved_model.load(directory)(inputs)["encoder_outputs"]
  positions = np.mean(outputs[-4:], axis=0)
  np.testing.assert_allclose(backbone.network(inputs)["features"][1], positions[1, :3].mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(backbone.network(inputs)["sequence"], outputs[-1], atol=1e-6)
  assert backbone.identity != load(directory, "mean").identity


def test_modules_without_the_outputs_of_layers_have_no_mean_of_them(tmp_path):
  with pytest.raises(UserError, match="--pooling=last4: module does not have it; possible: pooler, mean, cls"):
    load(tiny_modules.bert(tmp_path / "bert", old=True), "last4")


def test_fixed_length_modules_are_padded(tmp_path):
  fixed = load(tiny_modules.bert(tmp_path / "fixed", length=20), "mean")
  free = load(tiny_modules.bert(tmp_path / "free"), "mean")
  assert fixed.preprocess.limit == 20
  inputs = fixed.preprocess(tf.constant(TEXTS))
  got, wanted = fixed.network(inputs), free.network(inputs)
  np.testing.assert_allclose(got["features"], wanted["features"], atol=1e-6)
  assert got["sequence"].shape == wanted["sequence"].shape


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dropout_free_fit_moves_every_reached_variable(tmp_path, optimizer):
  backbone = load(tiny_modules.bert(tmp_path / "bert"), "mean")
  layer_of(backbone).training_mode = False
  before = values(backbone)
  dataset = tf.data.Dataset.from_tensor_slices((backbone.preprocess(tf.constant(TEXTS)), LABELS)).batch(4)
  history = classifier(backbone, optimizer).fit(dataset, epochs=2, verbose=0).history["loss"]
  assert np.isfinite(history).all() and history[1] < history[0]
  same = {name for name, value in values(backbone).items() if np.array_equal(value, before[name])}
  assert same == {"pooler_transform/kernel", "do_lower_case"}


def test_maps_signatures_and_strings(tmp_path):
  mapped = load(tiny_modules.image_map(tmp_path / "map"), image_size=16)
  outputs = mapped.network(IMAGES)
  np.testing.assert_allclose(outputs["features"], tf.reduce_mean(outputs["map"], [1, 2]), atol=1e-6)
  signed = load(tiny_modules.image_signature(tmp_path / "signature"))
  np.testing.assert_allclose(signed.network(IMAGES)["features"], outputs["features"], atol=1e-6)
  assert any("only the signature default" in note for note in signed.notes)
  before = values(signed)
  classifier(signed).fit(IMAGES, LABELS, verbose=0)
  assert not np.array_equal(values(signed)["stem/kernel"], before["stem/kernel"])
  strings = load(tiny_modules.strings(tmp_path / "strings"))
  assert strings.network(strings.preprocess(tf.constant(TEXTS)))["features"].shape == (8, 8)
  assert strings.modality == "text" and strings.preprocess.limit == 0


@pytest.mark.slow
def test_a_head_is_trained_on_a_module_without_variables(tmp_path):
  flags = {"backbone": tiny_modules.image_constant(tmp_path / "module"), "cache_dir": str(tmp_path), "head_epochs": 3}
  dataset = "images:" + tiny_data.colours(tmp_path / "colours", per_class=10)
  assert "0 stages" in inspect_backbone.describe(Config(backbone=flags["backbone"]))
  metrics = train.train_and_evaluate(Config(dataset=dataset, **flags), tmp_path / "run")
  assert metrics["selected"] == "probe" and metrics["parity"]["label_flips"] == 0
  plan = files.read_json(tmp_path / "run" / "plan.json")
  assert [row["name"] for row in plan["stages"]] == ["head"] and len(plan["phases"]) == 1
  assert "the module has no variables, so it has no stages: only a head can be trained on it" in str(plan["backbone"])


def test_keras_3_exports(tmp_path):
  layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D()]
  model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
  model.export(tmp_path / "export", verbose=False)
  backbone = load(tmp_path / "export")
  np.testing.assert_allclose(backbone.network(IMAGES)["features"], model(IMAGES), atol=1e-6)
  assert len(backbone.network.trainable_variables) == 4 and len(backbone.network.variables) == 6


def test_a_note_tells_probabilities_from_features(tmp_path):
  layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4), keras.layers.Softmax()]
  for count, told in ((2, False), (3, True)):
    keras.Sequential([keras.Input((16, 16, 3)), *layers[:count]]).export(tmp_path / str(count), verbose=False)
    assert any("they are probabilities of a classifier" in note for note in load(tmp_path / str(count)).notes) == told
  # A record says what its network gives.
  assert not any("probabilities" in note for note in load(tmp_path / "3", modality="image").notes)


@pytest.mark.slow
def test_what_cannot_be_a_backbone_is_refused_in_one_line(tmp_path):
  with pytest.raises(UserError, match="holds no readable SavedModel"):
    load(tmp_path)
  with pytest.raises(UserError, match="--image_size=64, but module takes only 32"):
    load(tiny_modules.image(tmp_path / "fixed", size=32), image_size=64)
  with pytest.raises(UserError, match=r"batches of a fixed size: it takes float32\[4, \?, \?, 3\]"):
    load(tiny_modules.image(tmp_path / "batch", batch=4))
  with pytest.raises(UserError, match="--backbone gives no vector per text: it takes string"):
    load(tiny_modules.bert_preprocess(tmp_path / "hub_preprocess"))
  with pytest.raises(UserError, match="no backbone for text"):
    load(tmp_path / "fixed", modality="text")
  bare = tf.train.Checkpoint(variable=tf.Variable(1.0))
  tf.saved_model.save(bare, str(tmp_path / "bare"))
  with pytest.raises(UserError, match="it has: none"):
    load(tmp_path / "bare")


PIXELS = tf.TensorSpec([None, 16, 16, 3], tf.float32, name="images")
STRINGS = tf.TensorSpec([None], tf.string, name="texts")


def _mean(module, images):
  return tf.reduce_mean(images, [1, 2]) @ tf.cast(module.stem, tf.float32)


def _words(module, texts):
  words = tf.strings.split(texts)
  return words.with_flat_values(tf.gather(module.stem, tf.strings.to_hash_bucket_fast(words.flat_values, 3)))


@pytest.mark.slow
def test_ragged_and_missing_outputs_stand_aside(tmp_path):
  def forward(module, texts):
    words = _words(module, texts)
    return {"a": None, "b_words": words, "pooled": tf.reduce_mean(words, axis=1) @ module.top, "z": tf.shape(texts)}

  backbone = load(tiny_modules.custom(tmp_path / "module", forward, STRINGS))
  assert not any("never train" in note for note in backbone.notes)
  before = values(backbone)
  features = backbone.network(backbone.preprocess(tf.constant(TEXTS)))["features"]
  assert features.shape == (8, 8)
  model = classifier(backbone)
  model.fit(tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(8), verbose=0)
  assert all(not np.array_equal(value, before[name]) for name, value in values(backbone).items())
  for name, outputs in (("words", lambda m, x: _words(m, x)), ("padded", lambda m, x: _words(m, x).to_tensor())):
    with pytest.raises(UserError, match="--backbone gives no vector per text"):
      load(tiny_modules.custom(tmp_path / name, outputs, STRINGS))


def test_a_name_decides_which_output_is_used_and_a_guess_is_noted(tmp_path):
  def wide(module, images, name="embedding"):
    return {name: _mean(module, images), "wide": tf.tile(_mean(module, images) @ module.top, [1, 9])}

  named = load(tiny_modules.custom(tmp_path / "named", wide, PIXELS))
  assert named.feature_size == 8 and not any("widest" in note for note in named.notes)
  guessed = load(tiny_modules.custom(tmp_path / "guessed", lambda m, x: wide(m, x, "other"), PIXELS))
  assert (
    guessed.feature_size == 72 and "the features are its output 'wide', the widest; others: 'other'" in guessed.notes
  )


def test_logits_are_not_taken_for_features(tmp_path):
  def answers(module, images):
    return {"other": _mean(module, images), "logits": tf.tile(_mean(module, images) @ module.top, [1, 9])}

  assert load(tiny_modules.custom(tmp_path / "module", answers, PIXELS)).feature_size == 8


@pytest.mark.parametrize("pixels", ["unit", "byte", "signed"])
def test_pixels_go_in_as_the_user_says(tmp_path, pixels):
  path = tiny_modules.custom(tmp_path / "module", _mean, PIXELS)
  low, high = {"unit": (0, 1), "byte": (0, 255), "signed": (-1, 1)}[pixels]
  backbone = backbones.load(backbones.resolve(path), Assets(), pixels=pixels)
  kernel = values(backbone)["stem/kernel"]
  expected = (IMAGES.mean(axis=(1, 2)) * (high - low) + low) @ kernel
  np.testing.assert_allclose(backbone.network(IMAGES)["features"], expected, rtol=1e-4, atol=1e-4)
  assert f"pixels are scaled to {low} to {high}; --pixels sets another range" in backbone.notes
  # Features of other pixels are other features.
  assert (backbone.identity == load(path).identity) == (pixels == "unit")


def test_pixels_that_cannot_be_chosen_are_refused(tmp_path):
  with pytest.raises(UserError, match="takes pixels as integers from 0 to 255: remove --pixels"):
    path = tiny_modules.image(tmp_path / "bytes", dtype=tf.uint8)
    backbones.load(backbones.resolve(path), Assets(), pixels="signed")
  with pytest.raises(UserError, match="--pixels=byte is for SavedModels and Keras files; efficientnet_lite0"):
    backbones.load(backbones.resolve("efficientnet_lite0"), Assets(), pixels="byte")


def test_what_nobody_can_give_is_not_called(tmp_path):
  rate = tf.TensorSpec([], tf.float32, name="rate")
  with pytest.raises(UserError, match="is no backbone for images or texts: it takes float32"):
    load(tiny_modules.custom(tmp_path / "rate", lambda m, x, rate: _mean(m, x) * rate, PIXELS, rate))
  labels = tf.TensorSpec([None], tf.int32, name="labels")
  two = tiny_modules.custom(tmp_path / "two", lambda m, x, y: _mean(m, x), PIXELS, labels, signature=_mean)
  assert any("only the signature serving_default" in note for note in load(two).notes)


def test_variables_that_a_loop_hands_on_reach_what_comes_out(tmp_path):
  def turned(module, images):
    start = _mean(module, images)
    # The kernel is in `b` after one turn and in `a` after two.
    return tf.while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, tf.tanh(b), a @ module.top), (0, start, start))[
      1
    ]

  backbone = load(tiny_modules.custom(tmp_path / "loop", turned, PIXELS))
  assert not any("never train" in note for note in backbone.notes) and len(backbone.network.trainable_variables) == 2


def test_half_precision_never_trains(tmp_path):
  module = tiny_modules.custom(tmp_path / "half", lambda m, x: _mean(m, x) @ m.top, PIXELS, dtype=tf.float16)
  backbone = load(module)
  assert [v.path for v in backbone.network.trainable_variables] == ["top/kernel"]
  assert "variables of 16 bits, which never train: 1 (stem/kernel)" in backbone.notes


def test_reference_variables_are_refused(tmp_path):
  for resource in (True, False):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      images = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3])
      with tf.compat.v1.variable_scope("stem", use_resource=resource):
        kernel = tf.compat.v1.get_variable("kernel", [3, 8])
      features = tf.reduce_mean(images, [1, 2]) @ kernel
      session.run(tf.compat.v1.global_variables_initializer())
      tf.compat.v1.saved_model.simple_save(session, str(tmp_path / str(resource)), {"x": images}, {"y": features})
  assert load(tmp_path / "True").feature_size == 8
  with pytest.raises(UserError, match="reference variables of TensorFlow 1"):
    load(tmp_path / "False")


@pytest.mark.slow
def test_weights_survive_a_round_trip_into_a_fresh_module(tmp_path):
  directory = tiny_modules.image(tmp_path / "module", names=tiny_modules.NAMELESS)
  trained, fresh = load(directory, image_size=16), load(directory, image_size=16)
  layer_of(trained).training_mode = True
  classifier(trained).fit(IMAGES, LABELS, epochs=2, verbose=0)
  assert np.abs(trained.network(IMAGES)["features"] - fresh.network(IMAGES)["features"]).max() > 1e-3
  trained.network.save_weights(tmp_path / "w.weights.h5")
  fresh.network.load_weights(tmp_path / "w.weights.h5")
  np.testing.assert_array_equal(trained.network(IMAGES)["features"], fresh.network(IMAGES)["features"])
  other = load(tiny_modules.image(tmp_path / "other"), image_size=16)
  with pytest.raises(ValueError, match="belongs to another module"):
    other.network.load_weights(tmp_path / "w.weights.h5")


@pytest.mark.slow
def test_export_answers_in_a_process_with_tensorflow_alone(tmp_path):
  backbone = load(tiny_modules.bert(tmp_path / "bert"))
  holder = tf.Module()
  holder.network, holder.preprocess = backbone.network, backbone.preprocess

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def pooled(texts):
    return holder.network(holder.preprocess(texts), training=False)["features"]

  holder.pooled = pooled
  tf.saved_model.save(holder, str(tmp_path / "export"))
  (tmp_path / "bert").rename(tmp_path / "moved")
  (tmp_path / "bert_vocab.txt").unlink()
  code = f"""
      import numpy, tensorflow, tensorflow_text
      module = tensorflow.saved_model.load({str(tmp_path / "export")!r})
      texts = tensorflow.constant({TEXTS!r})
      numpy.save({str(tmp_path / "answer.npy")!r}, module.pooled(texts).numpy())
  """
  warm_process.run("-c", textwrap.dedent(code)).check_returncode()
  np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), pooled(tf.constant(TEXTS)), atol=1e-6)


# Its own process: collectives of strategies that other tests made would share its keys.
MIRRORED = """
    import sys
    import keras, numpy as np, tensorflow as tf
    sys.path[:0] = [{tests!r}, {tests!r} + "/backbones", {root!r}]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import test_saved_model as t

    def fit(kind, optimizer, strategy):
      with strategy.scope():
        backbone = t.load(kind, "auto" if "image" in kind else "mean", image_size=0 if "bert" in kind else 16)
        model = t.classifier(backbone, getattr(keras.optimizers, optimizer)(0.01))
      t.layer_of(backbone).training_mode = False
      inputs = backbone.preprocess(tf.constant(t.TEXTS)) if "bert" in kind else t.IMAGES
      dataset = tf.data.Dataset.from_tensor_slices((inputs, t.LABELS)).batch(8)
      losses = model.fit(dataset, epochs=2, verbose=0).history["loss"]
      return np.concatenate([losses, *(v.numpy().ravel() for v in model.variables)])

    image, bert = t.tiny_modules.image({tmp!r} + "/image"), t.tiny_modules.bert({tmp!r} + "/bert")
    one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for kind, optimizer in ((image, "SGD"), (bert, "SGD"), (bert, "AdamW"), (image, "AdamW")):
      print("difference", np.abs(fit(kind, optimizer, one) - fit(kind, optimizer, two)).max())
"""


@pytest.mark.slow
def test_two_devices_train_as_one(tmp_path, request):
  root = request.config.rootpath
  code = textwrap.dedent(MIRRORED).format(tests=str(root / "tests"), root=str(root), tmp=str(tmp_path))
  run = warm_process.run("-c", code)
  differences = [float(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("difference")]
  assert len(differences) == 4 and max(differences) < 1e-5


@pytest.mark.slow
def test_the_shared_efficientnet_lite0(shared):
  backbone = load(shared("hub/efficientnet_lite0"))
  assert list(backbone.stages) == ["stem", *(f"block_{i}" for i in range(16)), "top"]
  assert len(backbone.network.variables) == 245 and len(backbone.network.trainable_variables) == 147
  assert (backbone.feature_size, backbone.preprocess.size) == (1280, 224)
  module = tf.saved_model.load(str(shared("hub/efficientnet_lite0")))
  images = np.random.default_rng(1).random((1, 224, 224, 3)).astype("float32")
  np.testing.assert_array_equal(backbone.network(images)["features"], module(images, training=False))


@pytest.mark.slow
def test_the_shared_bert_tiny(shared):
  directory = shared("hub/bert_tiny")
  own, hub = load(directory, "mean"), load(directory, "mean", preprocessor=shared("hub/bert_tiny_preprocess"))
  assert list(own.stages) == ["embeddings", "layer_0", "layer_1", "layer_2", "pooler"]
  texts = tf.constant(["Hello world, the GOOD film!", "", "a " * 100])
  assert own.preprocess.limit == hub.preprocess.limit == 64
  np.testing.assert_array_equal(
    own.network(own.preprocess(texts))["features"], hub.network(hub.preprocess(texts))["features"]
  )


def test_what_only_a_comparison_reads_never_trains(tmp_path):
  def gated(module, images):
    gate = tf.cast(_mean(module, images) > 0.0, tf.float32)
    return tf.where(gate > 0.5, gate, 0.1) @ module.top

  backbone = load(tiny_modules.custom(tmp_path / "gated", gated, PIXELS))
  assert [v.path for v in backbone.network.trainable_variables] == ["top/kernel"]
  assert "variables that do not reach the features and never train: 1 (stem/kernel)" in backbone.notes
