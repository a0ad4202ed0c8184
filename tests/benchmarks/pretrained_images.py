"""Pretraining of cnn_small.scratch on small images, and what its features are worth with ten labels per class.

python -m tests.benchmarks.pretrained_images --workdir=runs/pretrained_images

The images of the training split are read without labels; those of the test split are never read. Finished pretrainings
are not run again.
"""

import dataclasses
import pathlib
import random

import tensorflow as tf

from tests.benchmarks import few_labels
from tests.benchmarks.few_labels import Benchmark, Labelled
from tl_app.commands import pretrain
from tl_app.config import Config
from tl_app.data.readers import starters

# {data: flags of the network}.
NETWORKS = {
  "digits": {"image_size": 16, "network_width": 64},
  "trashnet": {"image_size": 32, "network_width": 64},
}
# Flags of every pretraining, of each data set, and of each objective.
COMMON = {"batch_size": 128, "learning_rate": 2e-3, "early_stopping_patience": 0}
VIEWS = {
  "digits": {"view_flip": False, "color_jitter": 0.0, "crop_scale": 0.5},
  "trashnet": {"crop_scale": 0.3},
}
OBJECTIVES = {
  "views": {"epochs": 20},
  "reconstruct": {"epochs": 20},
  "clusters": {"epochs": 20, "rounds": 5},
}
COUNTS = [10]


def load(name: str, shared: pathlib.Path) -> Labelled:
  """Returns a data set of `NETWORKS`, with images as encoded PNG; those of trashnet have 48 x 48 pixels."""
  if name == "digits":
    rows = [(image, label) for _, image, label in starters.digits()]
    random.Random(0).shuffle(rows)
    return Labelled(rows[len(rows) // 5 :], rows[: len(rows) // 5])
  parts = {}
  for part in ("train", "test"):
    files = sorted(path for path in (shared / name / part).rglob("*") if path.is_file())
    parts[part] = [(_small(path.read_bytes()), path.parent.name) for path in files]
  return Labelled(**parts)


def _small(data):
  pixels = tf.image.resize(tf.io.decode_image(data, 3, expand_animations=False), [48, 48], antialias=True)
  return tf.io.encode_png(tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)).numpy()


def network(name: str, backbone: str = "") -> Config:
  """Returns the `Config` of a network that was written, or with "" of that before pretraining."""
  return Config(backbone=backbone) if backbone else Config(backbone="cnn_small.scratch", **NETWORKS[name])


def pretrained(name: str, objective: str, data: Labelled, root: pathlib.Path) -> tuple[str, dict]:
  """Returns (the network after a pretraining on the images of the training split, the metrics)."""
  workdir, images = root / f"{name}-{objective}", root / f"{name}-images"
  if not (workdir / "metrics.json").exists():
    images.mkdir(parents=True, exist_ok=True)
    for number, (image, _) in enumerate(data.train):
      (images / f"{number:05}.png").write_bytes(image)
    flags = COMMON | {"objective": objective} | OBJECTIVES[objective]
    flags |= VIEWS[name] if objective != "reconstruct" else {}
    pretrain.pretrain(dataclasses.replace(network(name), dataset=f"images:{images}", **flags), workdir)
  return few_labels.finished(workdir)


BENCHMARK = Benchmark(tuple(NETWORKS), tuple(OBJECTIVES), "random weights", COUNTS, load, pretrained, network)

if __name__ == "__main__":
  BENCHMARK.main(__doc__)
