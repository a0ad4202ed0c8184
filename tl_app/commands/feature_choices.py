"""What --pooling=auto and --pair_encoding=auto choose: by probes on frozen features, before anything is trained."""

import dataclasses
import logging

import keras
import numpy as np

from tl_app.assets import Assets
from tl_app.backbones.spec import L2, BackboneSpec
from tl_app.commands import loading
from tl_app.commands.searching import probes
from tl_app.compute.devices import Devices
from tl_app.config import AUTO, Config
from tl_app.data.splitting import folds
from tl_app.data.splitting.splits import Splits
from tl_app.errors import UserError
from tl_app.features.frozen import Features
from tl_app.training.selection import SIGNIFICANT
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Name of what was chosen among the decisions of a run and in plan.json.
NAME = "feature_choices"
# Largest number of training examples whose features are compared.
EXAMPLES = 1000
ENCODINGS = ("bi_encoder", "cross_encoder")


def decided(config: Config, spec: BackboneSpec, split: Splits, task, devices: Devices, record: Record) -> Config:
  """Returns the config with the --pooling and the --pair_encoding that "auto" stands for.

  The pooling is compared for a text network that no record describes. The default of its kind stays unless another
  one is significantly better. What was compared is written to plan.json.

  Args:
    config: the `Config`.
    spec: the record of --backbone, with its learnt vocabulary.
    split: the `Splits`; only training examples are read.
    task: the fitted `Task`.
    devices: the `Devices`.
    record: the `Record` of the run.
  """
  compares_pairs = config.pair_encoding == AUTO and bool(config.text_pair_column)
  unknown = not spec.modality and not spec.tuned and spec.origin is None
  is_plain = config.long_text == "head" and not config.text_pair_column and not task.per_token
  compares_pooling = config.pooling == AUTO and unknown and is_plain and split.examples.modality == "text"
  if not (compares_pairs or compares_pooling):
    return config
  bench = _Bench(config, spec, split, task, devices)

  def measure():
    # All workers: the variables of a network are created by all of them together.
    found = bench.pair_encoding() if compares_pairs else bench.pooling()
    return devices.decided(lambda: found)

  chosen = record.state.decide(NAME, measure)
  record.note(NAME, chosen)
  return dataclasses.replace(config, **chosen["flags"])


def recorded(config: Config, plan: dict) -> Config:
  """Returns the config of a finished run with what was chosen in it.

  Args:
    config: the `Config` of the run.
    plan: the content of its plan.json.
  """
  return dataclasses.replace(config, **plan.get(NAME, {}).get("flags", {}))


class _Bench:
  """Compares features of some training examples. The attributes are the arguments of `decided`."""

  def __init__(self, config, spec, split, task, devices):
    self._config, self._spec, self._task, self._devices = config, spec, task, devices
    train = np.random.default_rng(config.seed).permutation(split.train)[:EXAMPLES]
    self._split = dataclasses.replace(split.without_test(), train=np.sort(np.searchsorted(_kept(split), train)))

  def pooling(self) -> dict:
    """Returns {"flags": {"pooling"}, "scores", "reason"}; no flags where the network has one pooling only."""
    features = self._features(self._config)
    backbone = features.model.backbone
    tensors = backbone.poolings()
    default = backbone.spec.pooling + (L2 if backbone.spec.l2_normalized else "")
    if len(tensors) < 2:
      return {"flags": {}, "scores": {}, "reason": f"{backbone.spec.name} has no other pooling than {default}"}
    names = list(tensors)
    with self._devices.scope():
      network = keras.Model(backbone.network.input, keras.ops.concatenate([tensors[name] for name in names], axis=-1))
    blocks = np.split(features.predict(network, self._split.train), len(names), axis=1)
    candidates = dict(zip(names, blocks))
    candidates |= {name + L2: _unit(block) for name, block in zip(names, blocks)}
    return self._compared("pooling", candidates, default, features)

  def pair_encoding(self) -> dict:
    """Returns {"flags": {"pair_encoding"}, "scores", "reason"}."""
    candidates, features = {}, None
    for encoding in ENCODINGS:
      try:
        features = self._features(dataclasses.replace(self._config, pair_encoding=encoding))
      except UserError as error:
        log.info("--pair_encoding=auto: %s", error)
        continue
      candidates[encoding] = features.predict(features.model.features, self._split.train)
    return self._compared("pair_encoding", candidates, ENCODINGS[0], features)

  def _compared(self, flag, candidates, default, features) -> dict:
    """Returns the best of some features, and why; the default one unless it is significantly worse."""
    targets = features.data.targets[self._split.train]
    parts = folds.held_out(self._split, self._split.train, self._config.seed)
    if len(parts) < 2:
      return {"flags": {flag: default}, "scores": {}, "reason": folds.TOO_FEW}
    held_out = targets[probes.positions(parts)]
    found = {
      name: probes.cross_validated(probes.Rows.of(x, targets), self._task, parts) for name, x in candidates.items()
    }
    best = max(found, key=lambda name: found[name].score)
    metrics = self._task.metrics
    p = 1.0 if best == default else float(metrics.p_value(found[default].outputs, found[best].outputs, held_out))
    chosen = best if p <= SIGNIFICANT else default
    listed = ", ".join(f"{name} {estimate.score:.3f}" for name, estimate in found.items())
    doubt = "" if chosen == best else f"; {best} is not significantly better (p = {p:.2g})"
    reason = (
      f"{metrics.primary_title} of a cross-validated probe on the frozen features of {len(held_out):,} training "
      f"examples: {listed}{doubt}"
    )
    log.info("--%s=auto takes %s: %s", flag, chosen, reason)
    scores = {name: estimate.score for name, estimate in found.items()}
    return {"flags": {flag: chosen}, "scores": scores, "reason": reason}

  def _features(self, config) -> Features:
    config = dataclasses.replace(config, augment="none", augment_copies=0)
    return loading.without_run(config, self._spec, self._split, self._task, Assets.of(config), self._devices)


def _kept(split):
  """Returns the positions that `Splits.without_test` keeps."""
  return np.sort(np.concatenate([split.train, split.validation]))


def _unit(x):
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
