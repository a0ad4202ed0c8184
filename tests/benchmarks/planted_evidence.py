"""How often explanations find evidence that decides by construction, how they agree with `saliency`, and their time.

python -m tests.benchmarks.planted_evidence --photos=../shared/data/tf_flowers/all --workdir=runs/planted

A probe learns two labels that are drawn at random and have nothing to do with the photograph or the film review: a
checkered square at a random place, or one of two words at a random place, decides. Then 100 test examples are
explained. Prints how often the strongest region or word is the planted one, by method, with Wilson's interval.
"""

import argparse
import csv
import pathlib
import time

import keras
import numpy as np
import saliency.core as saliency
import scipy.stats
import tensorflow as tf

from tl_app.assets import Assets
from tl_app.commands import finished_run, train
from tl_app.config import Config
from tl_app.data.readers import starters
from tl_app.model.explaining import integration, methods, regions, words
from tl_app.model.explaining.explainer import Explainer
from tl_app.tasks import statistics

SIZE, PATCH = 224, 48
WORDS = ("violin", "harbour")
TRAINING, TEST = 400, 100
# Inputs that are compared with `saliency`.
COMPARED = 5


def planted_photos(photos, directory, rng):
  """Writes photographs with and without a checkered square, for training, and returns [(file, corner)] for the test."""
  paths = sorted(photos.rglob("*.jpg"))
  paths = [paths[i] for i in rng.permutation(len(paths))[: TRAINING + TEST]]
  square = np.indices((PATCH, PATCH)).sum(axis=0) // 8 % 2
  square = np.where(square[..., None], (255, 0, 255), (0, 255, 0)).astype(np.uint8)
  tests = []
  for number, path in enumerate(paths):
    pixels = tf.image.resize(tf.io.decode_jpeg(path.read_bytes(), channels=3), (SIZE, SIZE)).numpy().astype(np.uint8)
    is_test = number >= TRAINING
    corner = rng.integers(0, SIZE - PATCH, 2)
    planted = is_test or number % 2 == 0
    if planted:
      pixels[corner[0] : corner[0] + PATCH, corner[1] : corner[1] + PATCH] = square
    folder = directory / ("test" if is_test else "train/with" if planted else "train/without")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{number:04}.png"
    file.write_bytes(tf.io.encode_png(pixels).numpy())
    if is_test:
      tests.append((file, corner))
  return tests


def planted_reviews(path, rng):
  """Writes reviews with one of two words at a random place, for training, and returns [(text, word)] for the test."""
  rows = [text for _, text, _ in starters.movie_reviews(Assets())]
  rows = [rows[i] for i in rng.permutation(len(rows))[: TRAINING + TEST]]
  found = []
  for number, row in enumerate(rows):
    parts, word = row.split(), WORDS[number % 2]
    parts.insert(rng.integers(0, len(parts) + 1), word)
    found.append((" ".join(parts), word))
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("text", "label"), *found[:TRAINING]])
  return found[TRAINING:]


def trained(backbone, dataset, workdir):
  """Returns the `Model` of a probe."""
  config = Config(backbone=backbone, dataset=dataset, recipe="probe", export=False)
  metrics = train.train_and_evaluate(config, workdir)
  print(f"{backbone}: test accuracy {metrics['test']['accuracy']:.3f}")
  return finished_run.restore(*finished_run.opened(workdir))


def rate(name, hits, seconds, errors):
  low, high = statistics.accuracy_interval(sum(hits), len(hits), 0)
  completeness = f", completeness error at most {100 * max(errors):.2g} %" if errors else ""
  print(
    f"{name}: found in {sum(hits)} of {len(hits)} (95 % interval {low:.3f} to {high:.3f}), {np.median(seconds):.2f} s "
    f"each (median){completeness}",
    flush=True,
  )


def explained(name, model, method, rows, names, is_hit):
  """Explains rows, [(bytes, what was planted)], and prints how often it is found."""
  explainers = {}
  hits, seconds, errors = [], [], []
  for value, planted in rows:
    start = time.monotonic()
    explainer = explainers.setdefault(names(planted), Explainer(model, names(planted), method))
    (found,) = explainer.explain([value])["explanations"]
    seconds.append(time.monotonic() - start)
    hits.append(bool(is_hit(found, planted)))
    errors += [found["completeness_error"]] if "completeness_error" in found else []
  rate(name, hits, seconds, errors)


def in_square(found, corner):
  heat = np.array(found["heat"])
  cell = SIZE / len(heat)
  place = (np.array(np.unravel_index(heat.argmax(), heat.shape)) + 0.5) * cell
  # The centre of the strongest cell may lie half a cell outside.
  return np.all(place >= corner - cell / 2) and np.all(place <= corner + PATCH + cell / 2)


def is_word(found, word):
  return max(found["words"], key=lambda part: part["score"] or 0)["text"] == word


def agreement(pairs):
  found = [scipy.stats.spearmanr(np.ravel(first), np.ravel(second)).statistic for first, second in pairs]
  return f"rank correlation with saliency at least {min(found):.4f}, mean {np.mean(found):.4f}, of {len(found)} inputs"


def compare_images(model, values, points):
  def score(logits):
    return model.task.answers.score(logits, (0,))

  def call(batch, call_model_args=None, expected_keys=None):
    pixels = tf.constant(batch, tf.float32)
    with tf.GradientTape() as tape:
      tape.watch(pixels)
      scores = score(model.network(pixels, training=False))
    return {saliency.INPUT_OUTPUT_GRADIENTS: tape.gradient(scores, pixels).numpy()}

  def call_map(batch, call_model_args=None, expected_keys=None):
    both = keras.Model(model.network.input, [model.backbone.network.output["map"], model.network.output])
    with tf.GradientTape() as tape:
      pixels = tf.constant(batch, tf.float32)
      tape.watch(pixels)
      values, logits = both(pixels, training=False)
      scores = score(logits)
    gradients = tape.gradient(scores, values)
    return {saliency.CONVOLUTION_LAYER_VALUES: values.numpy(), saliency.CONVOLUTION_OUTPUT_GRADIENTS: gradients.numpy()}

  integration.POINTS = (points,)
  grad_cam, maps, integrated = regions.GradCam(model), [], []
  for value in values:
    pixels = model.backbone.preprocess(tf.constant([value]))
    image = pixels[0].numpy()
    mask = saliency.GradCam().GetMask(image, call_map, should_resize=False, three_dims=False)
    maps.append((grad_cam.heat(pixels, score), mask))
    baseline = np.full_like(image, regions.GREY)
    mask = saliency.IntegratedGradients().GetMask(image, call, x_baseline=baseline, x_steps=points, batch_size=8)
    cells = mask.sum(axis=-1).reshape(regions.CELLS, SIZE // regions.CELLS, regions.CELLS, -1).sum(axis=(1, 3))
    integrated.append((regions.integrated_gradients(model, pixels, score)[0], cells))
  print(f"Grad-CAM: {agreement(maps)}\nintegrated gradients of regions: {agreement(integrated)}", flush=True)


def compare_texts(model, texts, points):
  def score(logits):
    return model.task.answers.score(logits, (0,))

  layer, preprocess = model.backbone.token_embedding, model.backbone.preprocess
  # The network above the embeddings, which does not go through the code under test.
  above = keras.Model([layer.output, *model.network.input.values()], model.network.output)
  integration.POINTS, pairs = (points,), []
  for text in texts:
    inputs = preprocess(tf.constant([text]))
    ids = inputs["input_word_ids"].numpy()
    blank = ids.copy()
    blank[:, 1:-1] = preprocess.blank_token

    def call(batch, call_model_args=None, expected_keys=None, inputs=inputs):
      points = tf.constant(batch, tf.float32)
      rest = [tf.repeat(inputs[name], len(batch), axis=0) for name in model.network.input]
      with tf.GradientTape() as tape:
        tape.watch(points)
        scores = score(above([points, *rest], training=False))
      return {saliency.INPUT_OUTPUT_GRADIENTS: tape.gradient(scores, points).numpy()}

    value, baseline = (layer(tokens)[0].numpy() for tokens in (ids, blank))
    mask = saliency.IntegratedGradients().GetMask(value, call, x_baseline=baseline, x_steps=points, batch_size=25)
    found = words.integrated_gradients(model, [text], score)
    # By the tokens of each word.
    counts = preprocess.tokenize(tf.constant([text[span.start : span.end] for span in found.spans])).row_lengths()
    ends = np.cumsum(counts.numpy())
    sums = [mask.sum(axis=-1)[1:-1][end - count : end].sum() for end, count in zip(ends, counts.numpy())]
    pairs.append((found.scores, sums))
  print(f"integrated gradients of words: {agreement(pairs)}", flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--photos", type=pathlib.Path, required=True, help="Directory of JPEG files.")
  parser.add_argument("--workdir", type=pathlib.Path, required=True, help="Directory for data and runs.")
  parser.add_argument("--only", choices=("texts", "images"), help="Default: both.")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--tests", type=int, default=TEST, help="Number of examples of each kind to explain.")
  parser.add_argument("--points", type=int, default=400, help="Points of both integrals in the comparison.")
  given = parser.parse_args()
  given.workdir.mkdir(parents=True, exist_ok=True)
  for kind, measure in (("texts", measure_texts), ("images", measure_images)):
    if given.only in (None, kind):
      measure(given, np.random.default_rng(given.seed), given.workdir)


def measure_texts(given, rng, root):
  reviews = [(text.encode(), word) for text, word in planted_reviews(root / "reviews.csv", rng)][: given.tests]
  model = trained("minilm_l6.pypi", f"table:{root}/reviews.csv", root / "texts")
  for method in (methods.INTEGRATED_GRADIENTS, methods.OCCLUSION):
    explained(f"words, {method}", model, method, reviews, lambda word: (word,), is_word)
  compare_texts(model, [text.decode() for text, _ in reviews[:COMPARED]], given.points)


def measure_images(given, rng, root):
  photos = [(file.read_bytes(), corner) for file, corner in planted_photos(given.photos, root / "photos", rng)]
  photos = photos[: given.tests]
  model = trained("efficientnet_lite0.pypi", f"images:{root}/photos/train", root / "images")
  for method in (methods.GRAD_CAM, methods.INTEGRATED_GRADIENTS, methods.OCCLUSION):
    rows = photos if method == methods.GRAD_CAM else photos[: given.tests // 5]
    explained(f"regions, {method}", model, method, rows, lambda _: ("with",), in_square)
  compare_images(model, [value for value, _ in photos[:COMPARED]], given.points)


if __name__ == "__main__":
  main()
