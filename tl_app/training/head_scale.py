"""Scales the weights of a head that was fitted without dropout, where they are far too large with it."""

import itertools
import logging
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tl_app.backbones.weights import values
from tl_app.features.frozen import Features
from tl_app.model import heads
from tl_app.recipes.phase import HEAD
from tl_app.training import objectives, precision

log = logging.getLogger(__name__)

# Factors that are tried, the largest first; 0 is a head that knows nothing.
FACTORS = (1.0, *(0.5**k for k in range(1, 13)), 0.0)
# Batches on which they are compared.
BATCHES = 2


def apply(prepared, features: Features, decided: Mapping | None = None) -> float:
  """Scales the head of the model for the start of a phase, and returns the factor of its weights; 1 changes nothing.

  A probe separates examples by small differences of their features if these are certain. Dropout may change the
  features far more than examples differ: 180 times as much in a BERT with random weights, whose loss began at 15 to 32
  with the weights of the probe. So where the loss of the first batches with dropout is above that of a head that knows
  nothing, the factor with the lowest loss is taken.

  Args:
    prepared: what `fit` has prepared: "phase", "feed" and "steps"; None for a phase that is not run.
    features: the `Features` of the run.
    decided: what an interrupted run has decided about the phase, or None.
  """
  if prepared is None:
    return 1.0
  model = features.model
  bias = model.task.loss.initial_bias(features.data.train_targets)
  if decided:
    factor = decided.get("head_factor", 1.0)
  else:
    # A worker that computes alone would wait for the others.
    factor = _choose(prepared, bias) if features.devices.workers == 1 else 1.0
  if factor != 1.0:
    layer = model.head.get_layer(heads.LOGITS)
    layer.kernel.assign(factor * layer.kernel)
    layer.bias.assign(factor * layer.bias + (1 - factor) * bias)
  return factor


def _training_logits(network, inputs):
  """Returns the logits of a batch as training computes them, with dropout."""
  strategy = network.distribute_strategy
  if strategy.num_replicas_in_sync == 1:
    return network(inputs, training=True)

  # The functions of a SavedModel run on several devices only as a replica runs them.
  @tf.function
  def run(batch):
    return strategy.run(lambda x: network(x, training=True), args=(batch,))

  return strategy.experimental_local_results(run(inputs))[0]


def _choose(prepared, bias):
  phase, network, loss = prepared.phase, prepared.steps.network, prepared.steps.loss()
  trains_head = HEAD in phase.trains.train_stages and objectives.of(phase).fits_head
  if not (phase.trains_backbone and trains_head) or phase.trains.reset_head:
    return 1.0
  before = values(network.variables)
  batches = [precision.per_device_share(network, batch) for batch in itertools.islice(prepared.feed.dataset(), BATCHES)]
  outputs = [(targets, _training_logits(network, inputs)) for inputs, targets, *_ in batches]
  # The state of dropout moves.
  for variable, value in zip(network.variables, before):
    variable.assign(value)
  losses = [
    float(np.mean([np.mean(loss(targets, factor * logits + (1 - factor) * bias)) for targets, logits in outputs]))
    for factor in FACTORS
  ]
  if not np.isfinite(losses[0]) or losses[0] <= losses[-1]:
    return 1.0
  factor = FACTORS[int(np.argmin(losses))]
  log.info(
    "phase %s: with dropout the loss of the probe is %.3g, that of a head with constant outputs %.3g: its weights are "
    "multiplied by %.2g",
    *(phase.name, losses[0], losses[-1], factor),
  )
  return factor
