"""Explanations: they find evidence that decides by construction, and agree with an independent implementation."""

import keras
import numpy as np
import pytest
import saliency.core as saliency
import scipy.stats
import tensorflow as tf
from tiny_explained import image_model, picture, text_model

from tl_app import tasks
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.errors import UserError
from tl_app.model.explaining import integration, methods, regions, similar, words
from tl_app.model.explaining.explainer import Explainer

TEXT = "the film is word3 and word7 , good"
PLANTED = "word7"
IMAGE_METHODS = (methods.GRAD_CAM, methods.INTEGRATED_GRADIENTS, methods.OCCLUSION)
TEXT_METHODS = (methods.INTEGRATED_GRADIENTS, methods.OCCLUSION)


def score_of(model):
  return lambda logits: model.task.answers.score(logits, (1,))


def explain(model, *texts, method="auto", names=()):
  return Explainer(model, names, method).explain([text.encode() for text in texts])["explanations"]


def strongest(found):
  return max(found["words"], key=lambda word: word["score"])


def agreement(first, second):
  """Returns the rank correlation."""
  return scipy.stats.spearmanr(np.ravel(first), np.ravel(second)).statistic


# The same methods of PAIR's `saliency`.


def differentiated(function, value):
  """Returns (values, gradients) of an in-graph function [batch, ..] -> [batch]."""
  value = tf.constant(value, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(value)
    scores = function(value)
  return scores.numpy(), tape.gradient(scores, value).numpy()


def call_model(function):
  """Returns the `call_model_function` of `saliency`."""

  def call(batch, call_model_args=None, expected_keys=None):
    scores, gradients = differentiated(function, batch)
    return {saliency.OUTPUT_LAYER_VALUES: scores, saliency.INPUT_OUTPUT_GRADIENTS: gradients}

  return call


@pytest.fixture(scope="module")
def pixels():
  return image_model().backbone.preprocess(tf.constant([picture()]))


def test_integrated_gradients_of_pixels_are_those_of_saliency(pixels):
  model = image_model()
  heat, found = regions.integrated_gradients(model, pixels, score_of(model))
  call = call_model(lambda batch: score_of(model)(model.network(batch, training=False)))
  image = pixels[0].numpy()
  mask = saliency.IntegratedGradients().GetMask(
    image, call, x_baseline=np.full_like(image, regions.GREY), x_steps=400, batch_size=50
  )
  assert agreement(found.attributions[0], mask) > 0.99
  assert heat.shape == (28, 28) and agreement(heat, mask.sum(axis=-1)) > 0.99
  assert found.completeness_error < integration.TOLERANCE


def test_grad_cam_is_that_of_saliency(pixels):
  model = image_model()
  heat = regions.GradCam(model).heat(pixels, score_of(model))
  feature_map = model.backbone.network.output["map"]
  values = keras.Model(model.backbone.network.input, feature_map)(pixels).numpy()
  rest = keras.Model(feature_map, model.network.output)

  def call(batch, call_model_args=None, expected_keys=None):
    _, gradients = differentiated(lambda values: score_of(model)(rest(values)), values)
    return {saliency.CONVOLUTION_LAYER_VALUES: values, saliency.CONVOLUTION_OUTPUT_GRADIENTS: gradients}

  mask = saliency.GradCam().GetMask(pixels[0].numpy(), call, should_resize=False, three_dims=False)
  assert heat.shape == (7, 7) and heat.min() >= 0 and heat.max() > 0
  np.testing.assert_allclose(heat, mask, rtol=1e-4, atol=1e-7)
  # Evidence at two positions is between them, whichever is the larger; the border and its corner stay in reach.
  single = regions.located(np.eye(7)[2] * np.eye(7)[4][:, None] + 0.99 * np.eye(7)[3] * np.eye(7)[4][:, None])
  assert single.shape == (28, 28) and abs(np.array(np.unravel_index(single.argmax(), (28, 28))) - [17.5, 12]).max() <= 2
  assert np.argmax(regions.located(np.eye(7)[:1] * np.eye(7)[0][:, None])) <= 2


def test_occlusion_of_regions_is_that_of_saliency():
  # At this size a hidden square moves by one pixel, as that of `saliency` does.
  model = image_model(size=16)
  pixels = model.backbone.preprocess(tf.constant([picture(size=16)]))
  call = call_model(lambda batch: score_of(model)(model.network(batch, training=False)))
  mask = saliency.Occlusion().GetMask(pixels[0].numpy(), call, size=2, value=regions.GREY)
  heat = regions.occlusion(model, pixels, score_of(model))
  # They differ at the border, where fewer squares hide a pixel: one adds, the other takes the mean.
  np.testing.assert_allclose(4 * heat[1:-1, 1:-1], mask[1:-1, 1:-1, 0], rtol=1e-3, atol=1e-5)


def test_integrated_gradients_of_words_are_those_of_saliency():
  model = text_model()
  found = words.integrated_gradients(model, [TEXT], score_of(model))
  inputs = model.backbone.preprocess(tf.constant([TEXT]))
  ids, layer = inputs["input_word_ids"].numpy(), model.backbone.token_embedding
  blank = ids.copy()
  blank[:, 1:-1] = model.backbone.preprocess.blank_token
  dense = model.backbone.network.get_layer("dense")

  def forward(embeddings):
    features = tf.reduce_mean(dense(embeddings), axis=1)
    return score_of(model)(model.head(features))

  value, baseline = (layer(tokens)[0].numpy() for tokens in (ids, blank))
  mask = saliency.IntegratedGradients().GetMask(
    value, call_model(forward), x_baseline=baseline, x_steps=400, batch_size=50
  )
  assert [TEXT[span.start : span.end] for span in found.spans] == TEXT.split()
  assert agreement(found.scores, mask.sum(axis=-1)[1:-1]) > 0.99
  np.testing.assert_allclose(found.scores, mask.sum(axis=-1)[1:-1], atol=0.02 * np.abs(found.scores).max())
  assert found.integrated.completeness_error < integration.TOLERANCE


# Evidence that decides by construction.


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_a_planted_patch_is_found(method):
  explainer = Explainer(image_model(red=5.0), ("b",), method)
  for seed, patch in enumerate([(0, 0), (8, 16), (20, 4), (21, 21)]):
    (found,) = explainer.explain([picture(patch, seed)])["explanations"]
    heat = np.array(found["heat"])
    row, column = (np.array(np.unravel_index(heat.argmax(), heat.shape)) + 0.5) * 28 / len(heat)
    assert patch[0] - 2 <= row <= patch[0] + 9 and patch[1] - 2 <= column <= patch[1] + 9


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_a_planted_word_is_found(method):
  (found,) = explain(text_model(word=PLANTED), TEXT, method=method)
  assert found["name"] == "b" and found["method"] == method
  assert strongest(found)["text"] == PLANTED and strongest(found)["score"] > 0
  # Against the other class it speaks against.
  (other,) = explain(text_model(word=PLANTED), TEXT, method=method, names=("a",))
  assert other["name"] == "a" and min(other["words"], key=lambda word: word["score"])["text"] == PLANTED
  assert other["value"] == pytest.approx(1 - found["value"], abs=1e-5)


def test_other_weights_give_other_explanations(pixels):
  def grad_cam(model, *args):
    return regions.GradCam(model).heat(*args)

  for method in (grad_cam, lambda *args: regions.integrated_gradients(*args)[0], regions.occlusion):
    heats = [method(model, pixels, score_of(model)) for model in map(image_model, (0, 0, 1))]
    np.testing.assert_array_equal(heats[0], heats[1])
    assert abs(agreement(heats[0], heats[2])) < 0.9
  for method in (words.integrated_gradients, words.occlusion):
    scores = [method(model, [TEXT], score_of(model)).scores for model in map(text_model_of_seed, (0, 0, 1))]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert abs(agreement(scores[0], scores[2])) < 0.9


def text_model_of_seed(seed):
  return text_model(seed=seed)


@pytest.mark.parametrize("encoding", ["cross_encoder", "bi_encoder"])
@pytest.mark.parametrize("method", TEXT_METHODS)
def test_pairs(encoding, method):
  # Of a bi-encoder the outputs of the texts are multiplied: only the first half of its head reads single texts.
  model = text_model(pairs=encoding, seed=3)
  (found,) = explain(model, "the film is good", "word1 cafe", method=method)
  shown = [(word["column"], word["text"]) for word in found["words"]]
  assert shown == [(0, "the"), (0, "film"), (0, "is"), (0, "good"), (1, "word1"), (1, "cafe")]
  assert all(np.isfinite(word["score"]) for word in found["words"])
  (turned,) = explain(model, "word1 cafe", "the film is good", method=method, names=(found["name"],))
  # A word has another score in the other text.
  assert shown[-1][1] == turned["words"][1]["text"] != turned["words"][0]["text"]
  if method == methods.INTEGRATED_GRADIENTS:
    total = sum(word["score"] for word in found["words"])
    assert total == pytest.approx(found["score"] - found["baseline_score"], rel=0.05)


def test_the_same_text_twice_has_one_score_for_each_word_of_both():
  (found,) = explain(text_model(pairs="bi_encoder"), "good cafe", "good cafe")
  assert [word["score"] is not None for word in found["words"]] == [True] * 4


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_several_labels_each_have_an_explanation(method):
  task = tasks.MULTI_LABEL.with_codec(names=("a", "b", "c"), thresholds=(0.5, 0.4, 0.5))
  model = text_model(task, outputs=3, word=PLANTED)
  found = explain(model, PLANTED, method=method)
  assert [each["name"] for each in found] == ["b", "c"]
  assert strongest(found[1])["text"] == PLANTED
  (likely,) = explain(text_model(task.with_codec(thresholds=(1.0, 1.0, 1.0)), outputs=3, word=PLANTED), PLANTED)
  assert likely["name"] == "c"


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_numbers_are_explained_in_their_own_unit(method):
  task = tasks.REGRESSION.with_codec(names=("price",), mean=(100.0,), deviation=(20.0,))
  (found,) = explain(text_model(task, outputs=1, word=PLANTED), TEXT, method=method)
  assert found["name"] == "price" and found["score"] == pytest.approx(found["value"], rel=1e-4)
  # The weight is -1: the word lowers the number.
  assert min(found["words"], key=lambda word: word["score"])["text"] == PLANTED
  model = text_model(task.with_codec(deviation=(40.0,)), outputs=1, word=PLANTED)
  (wider,) = explain(model, TEXT, method=method)
  for word, twice in zip(found["words"], wider["words"]):
    assert twice["score"] == pytest.approx(2 * word["score"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_the_tags_of_an_entity_are_explained_by_its_words(method):
  task = tasks.TOKEN_CLASSIFICATION.with_codec(names=("O", "B-person", "I-person"))
  model = text_model(task, outputs=3, word=PLANTED, words=True)
  head = next(v for v in model.head.trainable_variables if len(v.shape) == 2)
  # The planted word is a person, others are not.
  head.assign(np.array([[-1.0, 1.0, -1.0]]) * np.ones((head.shape[0], 1)))
  next(v for v in model.head.trainable_variables if len(v.shape) == 1).assign([4.0, 0.0, 0.0])
  (found,) = explain(model, TEXT, method=method)
  assert (found["name"], found["entity"]) == ("person", PLANTED)
  assert strongest(found)["text"] == PLANTED
  assert [word["text"] for word in found["words"] if abs(word["score"]) > 1e-4] == [PLANTED]
  (asked,) = explain(model, "the film", method=method, names=("person",))
  assert asked["value"] < 0.5 and asked["name"] == "person"


# Words.


def test_subwords_are_added_and_words_that_are_not_read_have_no_score():
  model = text_model()
  model.backbone.preprocess.max_length = 6
  text = "badly, the cafe is good"
  (found,) = explain(model, text)
  assert [word["text"] for word in found["words"]] == ["badly", ",", "the", "cafe", "is", "good"]
  # [CLS] bad ##ly , the [SEP]
  assert [word["score"] is None for word in found["words"]] == [False, False, False, True, True, True]
  total = sum(word["score"] for word in found["words"][:3])
  assert total == pytest.approx(found["score"] - found["baseline_score"], rel=0.02)


def test_words_of_any_script_are_found():
  spans = words.split(["Don't, l’été 2.5 中文 e\u0301a"])
  assert [(start, end) for _, start, end in spans][:4] == [(0, 5), (5, 6), (7, 12), (13, 14)]
  assert ["Don't, l’été 2.5 中文 e\u0301a"[start:end] for _, start, end in spans][4:8] == [".", "5", "中", "文"]
  assert [span.end for span in words.split([" a,  b\u00a0c "], at_space=True)] == [3, 8]


def test_tokens_that_do_not_follow_the_words_are_explained_by_occlusion(monkeypatch):
  model = text_model()
  preprocess = model.backbone.preprocess
  tokenize = preprocess.tokenize
  # As a vocabulary does whose tokens reach over several words.
  monkeypatch.setattr(preprocess, "tokenize", lambda texts: tokenize(texts)[:, 1:])
  (found,) = explain(model, TEXT)
  assert found["method"] == methods.OCCLUSION
  with pytest.raises(methods.NotPossible, match="do not follow its words: use --method=occlusion"):
    explain(model, TEXT, method=methods.INTEGRATED_GRADIENTS)


def test_long_texts_are_hidden_by_runs(monkeypatch):
  monkeypatch.setattr(words, "MOST_HIDDEN", 4)
  (found,) = explain(text_model(), TEXT, method=methods.OCCLUSION)
  assert [word["text"] for word in found["words"]] == ["the film", "is word3", "and word7", ", good"]


def test_an_empty_text_has_no_words():
  assert explain(text_model(), "")[0]["words"] == []


# What cannot be explained, and similar examples.


def test_a_method_or_a_name_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match="--method=grad_cam: tiny has no feature map .* use integrated_gradients or occl"):
    Explainer(text_model(), method=methods.GRAD_CAM)
  with pytest.raises(UserError, match="--class=c is unknown; the model knows: a, b"):
    Explainer(text_model(), ("c",))


def test_similar_training_examples_are_the_nearest_in_the_features():
  model = text_model()
  texts = strings(["good film", "bad cafe", "the word3", "good film good film"])
  features = model.features(model.backbone.preprocess(tf.constant(texts, tf.string))).numpy()
  examples = Examples(strings("0123"), Inputs.of("text", texts), strings("abcd"), texts, texts, skipped=[], source="x")
  found = similar.Similar(model, examples, similar.unit(features)).nearest([b"film good"], 2)
  cosines = [f @ features[0] / np.linalg.norm(f) / np.linalg.norm(features[0]) for f in features]
  assert found[0] == {"id": "0", "label": "a", "similarity": 1.0, "text": "good film"}
  assert found[1]["similarity"] == pytest.approx(sorted(cosines)[-2], abs=1e-3) and found[1]["id"] == "3"
