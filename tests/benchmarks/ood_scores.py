"""Out-of-distribution scores on eight pairs of data: the table of docs/certainty.md.

python -m tests.benchmarks.ood_scores --data=../shared/data

Features are those of frozen backbones, logits those of logistic regression on them.
"""

import argparse
import tempfile

import numpy as np
import scipy.special
import sklearn.covariance
import sklearn.linear_model
import sklearn.metrics

from tests.benchmarks.certainty import SETS
from tl_app import backbones
from tl_app.commands import train, workers
from tl_app.compute import devices as devices_lib
from tl_app.config import Config
from tl_app.model import ood
from tl_app.recipes import recipes

# {data set: largest number of training examples}.
MOST = {"clinc150": 0, "banking77": 6000, "tf_flowers": 1500, "trashnet": 1200, "sms_spam": 3000}


def features_of(name, data):
  """Returns {split: (features, class names)} of a data set."""
  dataset, backbone, _ = SETS[name]
  with tempfile.TemporaryDirectory() as workdir:
    config = Config(workdir=workdir, dataset=dataset.format(data=data), backbone=backbone, recipe="probe")
    config = Config(**vars(config) | {"max_examples": MOST[name], "probe_solver": "logistic"})
    devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
    with devices.watched(), workers.resumable(workdir, config, devices) as record:
      features, _ = train.prepare(config, backbones.resolve(backbone), record, recipes.plan)
      rows, of_run = features.frozen(), features.data
      names = np.array(features.model.task.names)
      splits = {"train": of_run.train, "validation": of_run.validation, "test": of_run.test}
      return {split: (rows[part].copy(), names[of_run.targets[part]]) for split, part in splits.items()}


def of_classes(splits, kept):
  """Returns {split: (features, classes)} of the classes for which `kept` is True, and the features of the others."""
  inside, outside = {}, []
  for split, (rows, names) in splits.items():
    mask = np.array([kept(name) for name in names])
    inside[split] = rows[mask], names[mask]
    outside.append(rows[~mask])
  return inside, outside


def pairs(data):
  """Returns {name: (splits of the data that are known, features of other data)}; no test question of clinc150."""
  found = {name: features_of(name, data) for name in MOST}
  clinc, (of_train, of_validation, _) = of_classes(found["clinc150"], lambda name: name != "oos")
  rows, names = clinc["validation"]
  clinc = {"train": tuple(values[::3] for values in clinc["train"])} | {
    "validation": (rows[::2], names[::2]),
    "test": (rows[1::2], names[1::2]),
  }
  intents = sorted(set(found["banking77"]["train"][1]))
  banking, (*_, of_test) = of_classes(found["banking77"], lambda name: intents.index(name) % 2 == 0)
  flowers, other_flowers = of_classes(found["tf_flowers"], lambda name: name != "tulips")
  trash, (*_, other_trash) = of_classes(found["trashnet"], lambda name: name not in ("plastic", "trash"))
  photos = found["tf_flowers"], found["trashnet"]
  return {
    "clinc150, its `oos`": (clinc, np.concatenate([of_train, of_validation])),
    "clinc150, banking77": (clinc, found["banking77"]["test"][0]),
    "half of banking77, the other half": (banking, of_test),
    "tf_flowers, trashnet": (photos[0], photos[1]["test"][0]),
    "trashnet, tf_flowers": (photos[1], photos[0]["test"][0]),
    "four flowers, the fifth": (flowers, np.concatenate(other_flowers)),
    "four kinds of trash, two others": (trash, other_trash),
    "sms_spam, clinc150": (found["sms_spam"], found["clinc150"]["test"][0][:2000]),
  }


def scores(splits):
  """Returns {name of a score: function from features to scores, higher for data that are known}."""
  rows, names = splits["train"]
  classes, targets = np.unique(names, return_inverse=True)
  centre, scale = rows.mean(axis=0), rows.std()
  model = sklearn.linear_model.LogisticRegression(C=0.1, max_iter=200).fit((rows - centre) / scale, targets)

  def logits(part):
    found = model.decision_function((part - centre) / scale)
    return found if found.ndim == 2 else np.stack([-found, found], axis=1) / 2

  means = np.stack([rows[targets == number].mean(axis=0) for number in range(len(classes))])
  within, _ = sklearn.covariance.ledoit_wolf(rows - means[targets], assume_centered=True)
  between = (means[targets] - centre).T @ (means[targets] - centre) / len(rows)
  references = rows[ood.spread(np.fromiter(((name,) for name in names), object, len(names)))]
  references = references / np.linalg.norm(references, axis=1, keepdims=True)

  def distances(part, points, covariance):
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    part, points = part @ whitening, points @ whitening
    return np.square(part).sum(axis=1)[:, None] - 2 * part @ points.T + np.square(points).sum(axis=1)

  found = {
    "highest probability": lambda part: scipy.special.softmax(logits(part), axis=1).max(axis=1),
    "highest logit": lambda part: logits(part).max(axis=1),
    "Mahalanobis": lambda part: -distances(part, means, within).min(axis=1),
    "relative Mahalanobis": lambda part: (
      distances(part, centre[None], within + between)[:, 0] - distances(part, means, within).min(axis=1)
    ),
    "nearest neighbours": lambda part: ood.similarities(part, references),
  }
  for one in ("highest logit", "relative Mahalanobis"):
    found[f"nearest neighbours + {one}"] = _sum(found["nearest neighbours"], found[one], splits["validation"][0])
  return found


def _sum(first, second, validation):
  moments = [(values.mean(), values.std()) for values in (first(validation), second(validation))]
  return lambda part: sum((score(part) - m) / d for score, (m, d) in zip((first, second), moments))


def main():
  """Prints AUROC and the share of the other data that is found where 95 % of validation are accepted."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--data", required=True, help="Directory of the data sets.")
  columns = {}
  for pair, (splits, outside) in pairs(parser.parse_args().data).items():
    columns[pair] = {}
    for name, score in scores(splits).items():
      validation, test, other = (score(part) for part in (splits["validation"][0], splits["test"][0], outside))
      truth = np.repeat([1, 0], [len(test), len(other)])
      auroc = sklearn.metrics.roc_auc_score(truth, np.concatenate([test, other]))
      columns[pair][name] = auroc, np.mean(other < np.quantile(validation, 0.05))
  names = list(next(iter(columns.values())))
  columns["mean"] = {name: np.mean([column[name] for column in columns.values()], axis=0) for name in names}
  print("| known data, other data | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
  for pair, column in columns.items():
    print(f"| {pair} | " + " | ".join("{:.3f}, {:.2f}".format(*column[name]) for name in names) + " |")


if __name__ == "__main__":
  main()
