"""What the features of several backbones are worth with few labels: for the benchmarks of pretraining."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import sklearn.linear_model
import tensorflow as tf

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.model import heads

# Examples whose features are computed together, and resamples of an interval.
BATCH, RESAMPLES = 64, 1000
STRENGTHS = np.logspace(-1, 5, 13)
HEADER = (
  "| data | labels per class | features | test accuracy (interval) | difference (interval) |\n"
  "| --- | --- | --- | --- | --- |"
)


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Labelled data.

  Attributes:
    train: [(text or path or encoded image, label)], from which the few examples are drawn.
    test: the same, all of which are measured.
  """

  train: list[tuple]
  test: list[tuple]


def features(config: Config, raw: list) -> np.ndarray:
  """Returns the features of --backbone of some texts or encoded images, float32 [n, width].

  Args:
    config: --backbone and the flags that its network depends on; --max_length is that of texts.
    raw: str or bytes.
  """
  backbone = backbones.load_configured(backbones.resolve(config.backbone), Assets(config.cache_dir), config)
  if backbone.modality == "text":
    backbone.preprocess.max_length = config.max_length or 64
  infer = tf.function(lambda x: backbone.network(backbone.preprocess(x), training=False)["features"])
  # Texts of similar length together.
  order = sorted(range(len(raw)), key=lambda i: len(raw[i])) if backbone.modality == "text" else range(len(raw))
  found = {}
  for start in range(0, len(raw), BATCH):
    rows = list(order)[start : start + BATCH]
    values = infer(tf.constant([raw[i] for i in rows], tf.string)).numpy()
    found |= dict(zip(rows, values))
  return np.stack([found[i] for i in range(len(raw))]).astype(np.float32)


def draw(labels: list, count: int, seed: int) -> np.ndarray:
  """Returns the positions of `count` random examples of each class, all of a class with fewer."""
  names, rng = np.array(labels), np.random.default_rng(seed)
  return np.concatenate([rng.permutation(np.flatnonzero(names == name))[:count] for name in sorted(set(labels))])


def of_backbone(config: Config, data: Labelled, counts: list[int], draws: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features of both parts of a data set, float32 [n, width]; 0 for examples that no draw takes.

  Args:
    config: as of `features`.
    data: the `Labelled`.
    counts: labelled examples per class.
    draws: number of random choices of the labelled examples.
  """
  labels = [label for _, label in data.train]
  taken = np.unique(np.concatenate([draw(labels, count, seed) for count in counts for seed in range(draws)]))
  found = features(config, [data.train[i][0] for i in taken] + [x for x, _ in data.test])
  train = np.zeros((len(labels), found.shape[1]), np.float32)
  train[taken] = found[: len(taken)]
  return train, found[len(taken) :]


def correct(train: tuple[np.ndarray, list], test: tuple[np.ndarray, list]) -> np.ndarray:
  """Returns which test examples a ridge classifier gets right, bool [n]; its strength is that of leave-one-out.

  Args:
    train: (features, labels).
    test: the same.
  """
  mean, scale = train[0].mean(axis=0), heads.deviation(train[0])
  fitted = sklearn.linear_model.RidgeClassifierCV(STRENGTHS).fit((train[0] - mean) / scale, train[1])
  return fitted.predict((test[0] - mean) / scale) == np.array(test[1])


def interval(right: np.ndarray) -> tuple[float, float, float]:
  """Returns (mean, low, high) of values [draws, examples]; draws and examples are resampled (Owen 2007).

  Args:
    right: float [draws, examples].
  """
  rng, (draws, examples) = np.random.default_rng(0), right.shape
  means = []
  for _ in range(RESAMPLES):
    rows = rng.multinomial(draws, np.full(draws, 1 / draws)) / draws
    columns = rng.multinomial(examples, np.full(examples, 1 / examples)) / examples
    means.append(rows @ right @ columns)
  return float(right.mean()), *map(float, np.quantile(means, [0.025, 0.975]))


def lines(name: str, data: Labelled, found: dict[str, tuple], counts: list[int], draws: int) -> list[str]:
  """Returns the lines of the table of one data set: accuracy with few labels, and the difference to the first backbone.

  Args:
    name: of the data set.
    data: the `Labelled`.
    found: {title: (features of train, features of test)}.
    counts: labelled examples per class.
    draws: number of random choices of the labelled examples.
  """
  labels, truth = ([label for _, label in part] for part in (data.train, data.test))
  rows = []
  for count in counts:
    right = {}
    for title, (train, test) in found.items():
      chosen = [draw(labels, count, seed) for seed in range(draws)]
      right[title] = np.array(
        [correct((train[part], [labels[i] for i in part]), (test, truth)) for part in chosen], np.float64
      )
    start = next(iter(right.values()))
    for title, values in right.items():
      mean, low, high = interval(values)
      cells = [name, str(count), title, f"{mean:.3f} ({low:.3f} to {high:.3f})", ""]
      if values is not start:
        cells[-1] = "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(values - start))
      rows.append(f"| {' | '.join(cells)} |")
  return rows


def finished(workdir: pathlib.Path) -> tuple[str, dict]:
  """Returns (the backbone that a pretraining has written, its metrics)."""
  return str(workdir / "backbone"), json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """Pretrainings, and what their features are worth with few labels.

  Attributes:
    data: names of the data sets.
    objectives: names of the pretrainings.
    before: name of the network before a pretraining.
    counts: labelled examples per class.
    load: function (name of a data set, directory of the shared data) -> `Labelled`.
    pretrained: function (name, objective, `Labelled`, directory) -> what `finished` returns.
    network: function (name, backbone; "" before a pretraining) -> `Config` of the network.
  """

  data: Sequence[str]
  objectives: Sequence[str]
  before: str
  counts: list[int]
  load: Callable[[str, pathlib.Path], Labelled]
  pretrained: Callable[[str, str, Labelled, pathlib.Path], tuple[str, dict]]
  network: Callable[[str, str], Config]

  def main(self, doc: str | None) -> None:
    """Prints a line for each pretraining, then the table with few labels; `doc` describes the command."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--shared", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--data", default=",".join(self.data))
    parser.add_argument("--objectives", default=",".join(self.objectives))
    parser.add_argument("--draws", type=int, default=10, help="Random choices of the labelled examples.")
    flags = parser.parse_args()
    flags.workdir.mkdir(parents=True, exist_ok=True)
    table = [HEADER]
    for name in flags.data.split(","):
      data, found = self.load(name, flags.shared), {}
      for title in (self.before, *flags.objectives.split(",")):
        # Random weights are those with which every pretraining starts.
        keras.utils.set_random_seed(0)
        backbone = ""
        if title != self.before:
          backbone, metrics = self.pretrained(name, title, data, flags.workdir)
          print(name, title, json.dumps({key: metrics[key] for key in ("before", "after", "selected")}), flush=True)
        found[title] = of_backbone(self.network(name, backbone), data, self.counts, flags.draws)
      table += lines(name, data, found, self.counts, flags.draws)
      print("\n".join(table), flush=True)
