"""Adaptation of a head to another domain, of which there are examples without labels.

The backbone is frozen. `coral` gives the features of the source the mean and the covariance of the target's (Sun et al.
2016). `pseudo_labels` trains on the most confident answers about the target too, the same share of each class (Zou et
al. 2018). `dann` trains hidden layers of the head from which the domain cannot be told (Ganin et al. 2016).
"""

import dataclasses
import logging

import keras
import numpy as np
import sklearn.covariance
import sklearn.linear_model
import sklearn.model_selection
import tensorflow as tf

from tl_app.backbones.weights import values
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.features.rows import FeatureRows
from tl_app.model import heads, stages
from tl_app.recipes.phase import Phase
from tl_app.training import unlabelled
from tl_app.training.fit import fit_head
from tl_app.training.selection import ADAPTED, Candidate
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Largest and smallest number of examples of the target.
MOST, LEAST = 20000, 10
# Shares of the target's examples that are labelled in each round of pseudo_labels.
SHARES = (0.25, 0.5)
# Examples of each domain from which its distance is measured.
COMPARED = 2000


@dataclasses.dataclass(frozen=True)
class Adapted:
  """The result of an adaptation.

  Attributes:
    candidate: the `Candidate` with the adapted head.
    source_logits: logits of the head before it, float32 [test, outputs].
    facts: {"method", "target_examples", "distance", "distance_after"}, see `a_distance`.
  """

  candidate: Candidate
  source_logits: np.ndarray
  facts: dict


def target_features(config, features: Features, record: Record) -> np.ndarray:
  """Returns the features of --unlabelled_dataset, float32 [at most MOST, width].

  Raises:
    UserError: it cannot be read, holds another modality than the data, or has fewer than `LEAST` examples.
  """
  found = unlabelled.features_of(config, "unlabelled_dataset", features.model, record.paths.corpus, MOST)
  if len(found) < LEAST:
    raise UserError(
      f"--unlabelled_dataset={config.unlabelled_dataset} has {number_of(len(found), 'different example')}, too few to "
      f"adapt to: name at least {LEAST}, better hundreds"
    )
  return found


def adapt(config, phase: Phase, features: Features, target: np.ndarray, record: Record) -> Adapted:
  """Adapts the head that a probe has trained, and gives the model its values back.

  Args:
    config: the `Config`.
    phase: the `Phase` of the probe.
    features: the `Features` of the run.
    target: float32 [n, width], features of examples of the target.
    record: the `Record` of the run.
  """
  model, data, source = features.model, features.data, features.frozen()
  changing = stages.changing(model, [phase])
  before = values(changing)
  source_logits = features.head_logits(data.test)
  distance = a_distance(source[data.train], target, config.seed)
  phase = phase.replace(name=ADAPTED, reset_head=True)
  mapped, rows = METHODS[config.adapt](config, phase, features, target, record)
  logits = features.head_logits(data.validation, mapped)
  after = a_distance(*rows, config.seed)
  candidate = Candidate(ADAPTED, logits, values(changing), ADAPTED)
  for variable, value in zip(changing, before):
    variable.assign(value)
  log.info(
    "--adapt=%s: %s examples of the target; distance of the domains %.2f of 2, after the adaptation %.2f",
    *(config.adapt, f"{len(target):,}", distance, after),
  )
  facts = {"method": config.adapt, "target_examples": len(target), "distance": distance, "distance_after": after}
  return Adapted(candidate, source_logits, facts)


def a_distance(source: np.ndarray, target: np.ndarray, seed: int) -> float:
  """Returns the proxy A-distance (Ben-David et al. 2007): 2 (1 - 2 e) with the error e of a linear domain classifier.

  0: it cannot tell the domains apart; 2: it always can.

  Args:
    source: float32 [n, width].
    target: float32 [m, width].
    seed: of the examples that are compared.
  """
  rng = np.random.default_rng(seed)
  count = min(COMPARED, len(source), len(target))
  parts = [rows[rng.permutation(len(rows))[:count]] for rows in (source, target)]
  x, y = np.concatenate(parts), np.repeat([0, 1], count)
  x = (x - x.mean(axis=0)) / heads.deviation(x)
  classifier = sklearn.linear_model.LogisticRegression(C=0.1, max_iter=300)
  folds = sklearn.model_selection.StratifiedKFold(min(5, count), shuffle=True, random_state=seed)
  error = 1 - sklearn.model_selection.cross_val_score(classifier, x, y, cv=folds).mean()
  return float(np.clip(2 * (1 - 2 * error), 0, 2))


def align(source: np.ndarray, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Returns `rows` of the source's features with the mean and the covariance of the target's, float32 [n, width].

  The covariances are shrunk (Ledoit & Wolf 2004), since there may be fewer examples than features.
  """
  mean_of, root_of = {}, {}
  for name, found, power in (("source", source, -0.5), ("target", target, 0.5)):
    estimate = sklearn.covariance.LedoitWolf().fit(found.astype(np.float64))
    vals, vectors = np.linalg.eigh(estimate.covariance_)
    mean_of[name], root_of[name] = estimate.location_, (vectors * np.maximum(vals, 1e-12) ** power) @ vectors.T
  moved = (rows - mean_of["source"]) @ root_of["source"] @ root_of["target"] + mean_of["target"]
  return moved.astype(np.float32)


def _coral(config, phase, features, target, record):
  data, source = features.data, features.frozen()
  moved = FeatureRows(align(source[data.train], target, source.rows))
  fit_head(phase, features, moved, config, record)
  return moved, (moved[data.train], target)


def _pseudo_labels(config, phase, features, target, record):
  data, source, model = features.data, features.frozen(), features.model
  rows = FeatureRows(np.concatenate([source.rows, target]))
  for share in SHARES:
    chosen, labels = confident(heads.logits(model.head, target), share)
    targets = np.concatenate([data.targets, np.zeros(len(target), data.targets.dtype)])
    targets[len(data.targets) + chosen] = labels
    train = np.concatenate([data.train, len(data.targets) + chosen])
    more = dataclasses.replace(data, targets=targets, split=dataclasses.replace(data.split, train=train))
    extended = Features(model, more, features.devices, features.store, features.batch_size, features.clock)
    fit_head(phase, extended, rows, config, record)
    log.info("pseudo-labels: %s of the target", number_of(len(chosen), "example"))
  return source, (source[data.train], target)


def confident(logits: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns (positions, classes) of the `share` of the examples of each predicted class with the highest probability.

  Args:
    logits: float32 [n, classes].
    share: above 0, at most 1.
  """
  probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
  probabilities /= probabilities.sum(axis=1, keepdims=True)
  classes, found = probabilities.argmax(axis=1), []
  for number in range(logits.shape[1]):
    of_class = np.flatnonzero(classes == number)
    order = np.argsort(-probabilities[of_class, number], kind="stable")
    found.append(of_class[order[: round(share * len(of_class))]])
  positions = np.sort(np.concatenate(found))
  return positions, classes[positions]


def _dann(config, phase, features, target, record):
  data, source, model = features.data, features.frozen(), features.model
  heads.standardize(model.head, np.concatenate([source[data.train], target]))
  heads.reset(model.head, model.task.loss.initial_bias(data.train_targets))
  stages.set_trainable(model, phase)
  hidden = keras.Model(model.head.input, model.head.get_layer(heads.LOGITS).input)
  domain = keras.Sequential(
    [keras.Input(hidden.output.shape[1:]), keras.layers.Dense(64, "relu"), keras.layers.Dense(1)]
  )
  steps = _Adversarial(model, hidden, domain, phase, data.train_targets)
  rng = np.random.default_rng(config.seed)
  rows, labels = source[data.train], data.train_targets
  size = phase.inputs.batch_size
  for _ in range(phase.schedule.steps):
    mine, other = rng.integers(len(rows), size=size), rng.integers(len(target), size=size)
    steps.step(tf.constant(rows[mine]), tf.constant(labels[mine]), tf.constant(target[other]))
  inside = [keras.ops.convert_to_numpy(hidden(found, training=False)) for found in (rows, target)]
  return source, tuple(inside)


class _Adversarial:
  """Steps in which the hidden layers learn the task, and not to tell the domains apart."""

  def __init__(self, model, hidden, domain, phase, targets):
    self._model, self._hidden, self._domain = model, hidden, domain
    self._loss = model.task.loss.loss(0.0)
    self._total = tf.constant(float(phase.schedule.steps))
    rate = next(iter(phase.optimizer.learning_rates.values()))
    self._optimizer = keras.optimizers.AdamW(rate, weight_decay=phase.optimizer.weight_decay)
    self._variables = [*model.head.trainable_variables, *domain.trainable_variables]
    self._optimizer.build(self._variables)

  @tf.function(reduce_retracing=True)
  def step(self, source, labels, target):
    """Makes one step."""
    progress = tf.cast(self._optimizer.iterations, tf.float32) / self._total
    # The schedule of Ganin et al. 2016.
    strength = 2.0 / (1.0 + tf.exp(-10.0 * progress)) - 1.0
    truth = tf.concat([tf.zeros([len(source), 1]), tf.ones([len(target), 1])], axis=0)
    with tf.GradientTape() as tape:
      loss = self._loss(labels, self._model.head(source, training=True))
      inside = self._hidden(tf.concat([source, target], axis=0), training=True)
      guesses = self._domain(_reversed(inside, strength))
      confusion = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth, guesses))
      total = loss + confusion
    self._optimizer.apply(tape.gradient(total, self._variables), self._variables)


@tf.custom_gradient
def _reversed(x, strength):
  return tf.identity(x), lambda gradient: (-strength * gradient, tf.zeros_like(strength))


METHODS = {"coral": _coral, "dann": _dann, "pseudo_labels": _pseudo_labels}
