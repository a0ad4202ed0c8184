"""Writers of small data sets that can be learnt, or, with shuffled labels, cannot."""

import csv
import pathlib

import numpy as np
import tensorflow as tf

from tl_app.data.examples import Inputs
from tl_app.preprocessing.base import Preprocess

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def colours(directory, per_class=20, shuffled=False, size=16, seed=0):
  """Writes `directory`/CLASS/*.png, noisy squares named after their colour, and returns the directory as a string.

  With `shuffled` the colour of each file is drawn at random, so that the folder says nothing about it.
  """
  rng = np.random.default_rng(seed)
  names = sorted(COLOURS)
  for name in names:
    folder = pathlib.Path(directory) / name
    folder.mkdir(parents=True)
    for i in range(per_class):
      colour = COLOURS[names[rng.integers(3)] if shuffled else name]
      pixels = np.clip(rng.normal(colour, 30, [size, size, 3]), 0, 255).astype("uint8")
      (folder / f"{i:03}.png").write_bytes(tf.io.encode_png(pixels).numpy())
  return str(directory)


def reviews(path, n=80, shuffled=False, seed=0):
  """Writes a CSV of different texts with columns text and label, where one word decides, and returns its path."""
  rng = np.random.default_rng(seed)
  rows = {}
  while len(rows) < n:
    label = ("negative", "positive")[len(rows) % 2]
    word = {"negative": "bad", "positive": "good"}[label]
    fillers = rng.integers(20, size=3)
    text = " ".join([f"word{fillers[0]}", "the", "film", "is", word, word, *(f"word{i}" for i in fillers[1:])])
    rows.setdefault(text, label)
  labels = list(rows.values())
  if shuffled:
    rng.shuffle(labels)
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("text", "label"), *zip(rows, labels)])
  return str(path)


def tagged(directory, scheme="BIO", seed=0):
  """Writes train, dev and test.conll of 60, 20 and 30 sentences and returns the directory as a string.

  "word0" is a place, "word1 word2" a person.
  """
  rng = np.random.default_rng(seed)
  inside = "I" if scheme == "BIO" else "E"
  directory = pathlib.Path(directory)
  directory.mkdir()
  chunks = [
    [("word0", "B-place" if scheme == "BIO" else "S-place")],
    [("word1", "B-person"), ("word2", f"{inside}-person")],
    *([(word, "O")] for word in ("the", "is", "badly,", "good", "cafe", ".")),
  ]
  for split, n in (("train", 60), ("dev", 20), ("test", 30)):
    sentences = []
    for _ in range(n):
      chosen = [chunks[i] for i in rng.integers(len(chunks), size=rng.integers(3, 8))]
      parts = [pair for chunk in chosen for pair in [*chunk, ("film", "O")]]
      sentences.append("".join(f"{word}\t{tag}\n" for word, tag in parts))
    (directory / f"{split}.conll").write_text("\n".join(sentences))
  return str(directory)


class Lengths(Preprocess):
  """Stands for a text preprocessing: the length of each text, and the longest of the batch beside it."""

  def __call__(self, texts):
    lengths = tf.strings.length(texts)
    return tf.stack([lengths, tf.broadcast_to(tf.reduce_max(lengths), tf.shape(lengths))], axis=1)

  def count_tokens(self, texts):
    return tf.strings.length(texts)


TEXTS = Inputs.of("text", ["x" * n for n in np.random.default_rng(0).permutation(np.arange(1, 38))])
