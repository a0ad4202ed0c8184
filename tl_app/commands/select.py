"""Ranks backbones on labelled data without fine-tuning: by a probe on their frozen features."""

import collections
import dataclasses
import gc
import logging
import pathlib
import statistics
import time
import typing

import numpy as np
import tensorflow as tf

from tl_app import backbones, files
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.backbones.backbone import parameters
from tl_app.backbones.spec import BackboneSpec
from tl_app.commands import default_backbone, feature_choices, loading
from tl_app.commands.cli import machine_error
from tl_app.commands.searching import probes, scores
from tl_app.compute import devices as devices_lib
from tl_app.compute import memory
from tl_app.config import Config
from tl_app.data import modalities
from tl_app.data.splitting import folds
from tl_app.data.splitting.splits import Splits
from tl_app.errors import RunFailed, UserError
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.report import formatting, selection_page
from tl_app.training import selection

log = logging.getLogger(__name__)

RESULT, REPORT = "selection.json", "selection.html"
# Largest number of examples, where --examples does not say how many.
EXAMPLES = 2000
# Single examples whose latency is measured, after some that warm up.
LATENCY_EXAMPLES, WARM_UP = 12, 3


def select(config: Config, names: str = "", examples: int = EXAMPLES) -> dict:
  """Ranks backbones by the cross-validated score of a probe on the training and validation examples.

  Args:
    config: the `Config`; its --backbone is replaced.
    names: backbones, separated by commas; "" for those of the modality of the data that are in the cache, and online
      for those that come through pip too.
    examples: largest number of examples; 0 for all. The test split is not read.

  Returns:
    The content of selection.json, which is written to --workdir if there is one, with a page.

  Raises:
    UserError: a name is unknown, there is no backbone for these data, or the data cannot be read.
    RunFailed: no backbone could be measured.
  """
  root = pathlib.Path(config.workdir)
  if config.workdir:
    workdir_lib.check_output(root)
    if workdir_lib.Workdir(root).config.exists():
      raise UserError(f"--workdir={root} holds a run: choose another directory")
  assets = Assets.of(config)
  specs = _specs(config, names, assets)
  result = ranked(config, specs, assets, examples, announced=True)
  if config.workdir:
    _write(root, result)
  return result


def ranked(
  config: Config, specs: list[BackboneSpec], assets: Assets, examples: int = EXAMPLES, announced: bool = False
) -> dict:
  """Returns the content of selection.json about some backbones.

  Args:
    config: as of `select`.
    specs: the records of the backbones.
    assets: the `Assets`.
    examples: as of `select`.
    announced: whether what the data are is printed.

  Raises:
    UserError: the data cannot be read.
    RunFailed: no backbone could be measured.
  """
  split, task, reason = loading.examples(config, assets)
  if announced:
    loading.announce(config, split, task, reason)
  split = _limited(split.without_test(), examples, config.seed)
  bench = _Bench(config, split, task, assets)
  log.info("comparing on %s: %s", number_of(len(bench.rows), "example"), ", ".join(spec.name for spec in specs))
  rows = [bench.measured(spec) for spec in specs]
  done = sorted((row for row in rows if not row.failure), key=lambda row: -row.score)
  failed = [row for row in rows if row.failure]
  if not done:
    raise RunFailed(f"no backbone could be measured; {failed[0].name}: {failed[0].failure}")
  return _result(config, task, bench, done, failed)


@dataclasses.dataclass
class Row:
  """What was measured of one backbone; a field is None where it does not apply."""

  name: str
  failure: str = ""
  score: float = 0.0
  deviation: float = 0.0
  neighbours: float | None = None
  logme: float | None = None
  h_score: float | None = None
  latency_ms: float | None = None
  memory_mb: float | None = None
  parameters: int = 0
  feature_size: int = 0
  licence: str = ""
  seconds: float = 0.0
  p_value: float | None = None
  outputs: typing.Any = dataclasses.field(default=None, repr=False)

  def to_json(self) -> dict:
    """Returns the values for JSON."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "outputs"}


class _Bench:
  """The data on which backbones are measured."""

  def __init__(self, config, split: Splits, task, assets):
    self._config, self._split, self._task, self._assets = config, split, task, assets
    self._devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
    self.rows = np.concatenate([split.train, split.validation])
    self._parts = folds.held_out(split, self.rows, config.seed)
    if len(self._parts) < 2:
      raise UserError(f"{split.examples.source}: {folds.TOO_FEW}; give more examples of a class")
    self.held_out = probes.positions(self._parts)
    self.labels = split.examples.labels[self.rows]

  def measured(self, spec: BackboneSpec) -> Row:
    """Returns the `Row` of a backbone, with the reason if it cannot be measured."""
    start = time.monotonic()
    try:
      row = self._measured(spec)
    except (UserError, RunFailed) as error:
      row = Row(spec.name, " ".join(str(error).split()))
    except Exception as error:
      row = Row(spec.name, machine_error(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    row.seconds = round(time.monotonic() - start, 1)
    if row.failure:
      log.warning("%s cannot be measured: %s", row.name, row.failure)
    else:
      title = self._task.metrics.primary_title
      log.info("%s: %s %.4f, %s", row.name, title, row.score, formatting.duration(row.seconds))
    gc.collect()
    return row

  def _measured(self, spec):
    config, before = dataclasses.replace(self._config, backbone=spec.name), memory.resident()
    features = self._features(config, spec)
    backbone = features.model.backbone
    measured = features.frozen()
    used = memory.resident() - before
    data = features.data
    rows = probes.Rows(
      features=lambda at: measured[self.rows[at]],
      targets=lambda at: measured.targets(data.targets, self.rows[at]),
      by_example=lambda outputs, at: measured.by_example(outputs, self.rows[at]),
      example_targets=data.targets[self.rows],
    )
    probe = probes.cross_validated(rows, self._task, self._parts)
    positions = np.arange(len(self.rows))
    x, targets = rows.features(positions), rows.targets(positions)
    shares = np.asarray(self._task.codec.as_probabilities(targets), np.float64)
    return Row(
      spec.name,
      score=probe.score,
      deviation=probe.deviation,
      neighbours=probes.neighbours(rows, self._task, self._parts).score,
      logme=scores.logme(x, shares),
      h_score=scores.h_score(x, targets) if self._task.single_label else None,
      latency_ms=self._latency(features),
      memory_mb=round(max(used, 0) / 2**20, 1),
      parameters=sum(parameters(stage) for stage in backbone.stages.values()),
      feature_size=backbone.feature_size,
      licence=spec.licence,
      outputs=probe.outputs,
    )

  def _features(self, config, spec) -> Features:
    spec = loading.with_vocabulary(config, spec, self._split)
    record = workdir_lib.Record(workdir_lib.Workdir(pathlib.Path(config.workdir or ".")))
    config = feature_choices.decided(config, spec, self._split, self._task, self._devices, record)
    return loading.without_run(config, spec, self._split, self._task, self._assets, self._devices)

  def _latency(self, features):
    """Returns the median time of one example in milliseconds, from its text or file to its features."""
    model, inputs, seconds = features.model, features.data.inputs, []
    modality = modalities.of(self._split.examples.modality)
    answer = tf.function(lambda raw: model.features(model.backbone.preprocess(raw), training=False))
    for index in range(WARM_UP + LATENCY_EXAMPLES):
      (row,) = inputs[self.rows[[index % len(self.rows)]]].rows()
      encoded = [modality.encode(value)[0] for value in row]
      raw = tf.constant(encoded if len(encoded) == 1 else [encoded])
      start = time.monotonic()
      answer(raw)
      seconds.append(time.monotonic() - start)
    return round(1000 * statistics.median(seconds[WARM_UP:]), 2)


def of_modality(modality: modalities.Modality) -> list[BackboneSpec]:
  """Returns the records of the pretrained backbones for a modality."""
  return [spec for spec in backbones.SPECS if spec.modality == modality.name and spec.pretrained]


def _specs(config, names, assets):
  """Returns the records of the backbones that are compared."""
  modality = default_backbone.modality_of(config)
  wanted = [name.strip() for name in names.split(",") if name.strip()]
  if wanted:
    return [backbones.resolve(name, "backbones") for name in dict.fromkeys(wanted)]
  known = of_modality(modality)
  cached = [spec for spec in known if backbones.is_cached(spec, assets)]
  found = cached if assets.offline else [spec for spec in known if spec.sha256 or spec in cached]
  if not found:
    raise UserError(
      f"--offline: no backbone for {modality.plural} is in the cache; run once without --offline, or name local ones "
      "by --backbones"
    )
  return found


def _limited(split, examples, seed):
  """Returns the split with at most `examples` of its examples, training and validation ones in proportion.

  Of each class equally many stay where there are classes.
  """
  total = len(split.train) + len(split.validation)
  if not 0 < examples < total:
    return split
  validation = max(1, round(examples * len(split.validation) / total))
  kept = {
    "train": _drawn(split, split.train, max(2, examples - validation), seed),
    "validation": _drawn(split, split.validation, validation, seed),
  }
  return dataclasses.replace(split, **kept)


def _drawn(split, rows, number, seed):
  """Returns `number` of the rows, sorted."""
  order = np.random.default_rng(seed).permutation(rows)
  counts: collections.Counter = collections.Counter()
  turn = []
  # The n-th example of each class comes before the (n + 1)-th of any: small classes stay whole.
  for row in order:
    turn.append(counts[split.examples.classes[row]])
    counts[split.examples.classes[row]] += 1
  return np.sort(order[np.argsort(turn, kind="stable")][:number])


def _result(config, task, bench, done, failed):
  """Returns the content of selection.json."""
  best = done[0]
  targets = task.codec.targets(bench.labels)[bench.held_out]
  for row in done:
    row.p_value = 1.0 if row is best else float(task.metrics.p_value(best.outputs, row.outputs, targets))
  equal = [row for row in done if row.p_value > selection.SIGNIFICANT]
  quick = min(equal, key=lambda row: row.latency_ms)
  given = formatting.given_flags(dataclasses.asdict(config), ("workdir", "backbone"))

  def command(row):
    return formatting.command("tl_app.train", [f"--backbone={row.name}", *given, "--workdir=runs/selected"])

  return {
    "format": workdir_lib.FORMAT,
    "dataset": config.dataset,
    "examples": len(bench.rows),
    "metric": task.metrics.primary_metric,
    "metric_title": task.metrics.primary_title,
    "best": best.name,
    "quick": quick.name,
    "commands": {row.name: command(row) for row in (best, quick)},
    "backbones": [row.to_json() for row in done],
    "failed": [{"name": row.name, "failure": row.failure} for row in failed],
  }


def _write(root, result):
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be made: {error.strerror}") from None
  files.write_json(root / RESULT, result)
  selection_page.write(root / REPORT, result)
