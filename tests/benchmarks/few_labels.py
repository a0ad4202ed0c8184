"""What the features of several backbones are worth with few labels: for the benchmarks of pretraining."""

import dataclasses

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
