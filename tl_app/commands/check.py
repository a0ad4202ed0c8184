"""Checks a data set for every kind of fault."""

import collections
import dataclasses
import pathlib
import tempfile

import numpy as np

from tl_app import backbones, data, files, tasks
from tl_app import config as config_lib
from tl_app.assets import Assets
from tl_app.checking import noise, review, summary, texts
from tl_app.checking.findings import SERIOUS, SEVERITIES, Finding, find, in_order
from tl_app.commands import loading
from tl_app.compute import devices as devices_lib
from tl_app.config import Config, rules
from tl_app.data import corrections, modalities, training_data
from tl_app.data.corpus import corpus as corpora
from tl_app.data.examples import strings
from tl_app.data.readers import forms
from tl_app.data.splitting import splits
from tl_app.data.splitting.fingerprints import fingerprint
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.errors import RunFailed, UserError
from tl_app.features import frozen
from tl_app.training import planning
from tl_app.workdir import Clock


def check(config: Config, fix: str = "") -> tuple[dict, list[Finding]]:
  """Looks for every kind of fault in a data set.

  Bad examples are reported whatever --on_bad_example says. With --backbone, the tokens of the texts are checked too,
  and the labels are compared with predictions from frozen features.

  Args:
    config: the `Config`.
    fix: CSV file for proposed changes of labels, which a person decides, see `corrections.write`; "" for none.

  Returns:
    (the result, ready for JSON; the list of `Finding`).

  Raises:
    UserError: a flag cannot work, or no example is usable.
  """
  config_lib.validate(config, needed=("dataset",))
  rules.refuse_unused(config, "check")
  if forms.parse(config.dataset, "dataset")[0] == "texts":
    rules.require(f"--fix={fix}: --dataset={config.dataset} has no labels: remove the flag" if fix else "")
    return _check_texts(config)
  spec = backbones.resolve(config.backbone) if config.backbone else None
  config = dataclasses.replace(config, on_bad_example="skip", on_leak="report")
  assets, clock = Assets.of(config), Clock()
  with clock("decode"):
    examples = data.load(config, assets)
  task, _ = tasks.choose(config, examples)
  examples = dataclasses.replace(examples, classes=strings(task.codec.classes(examples.labels)))
  with clock("compare"):
    fingerprints = fingerprint(examples, DecodedImageIndex(assets.root))
    split, reason = _divide(examples, config, fingerprints, task)
    subject = summary.subject(examples, split, task) if split else summary.undivided(examples, fingerprints, task)
  features, preprocess, not_checked, proposals = None, None, {}, []
  if spec:
    with clock("backbone"):
      features = _features(config, spec, assets, subject, Clock())
      preprocess = features.model.backbone.preprocess
  else:
    kinds = [*modalities.of(examples.modality).token_checks, *(["label_noise"] if task.single_label else [])]
    not_checked |= {_listed(kinds): "pass --backbone"} if kinds else {}
  with clock("look"):
    findings = summary.cheap(subject, preprocess)
    if reason and not any(finding.kind in ("one_class", "unseen_labels") for finding in findings):
      findings += find("unsplittable", 1, detail=reason)
  if not task.single_label:
    not_checked["label_noise"] = f"--task={task.name} has no check of it"
  elif features and noise.missing_package():
    not_checked["label_noise"] = noise.missing_package()
  elif features:
    with clock("label_noise"):
      units, splits_of = splits.units(examples, subject.fingerprints), review.split_names(subject)
      proposals, used, accuracy = noise.review(examples.labels, features.frozen().rows, units, splits_of)
      findings += noise.findings(proposals, examples, used, accuracy)
  findings = in_order(findings)
  result = summary.as_json(subject, findings, clock.seconds, not_checked)
  if fix:
    proposed = review.merged(review.conflicts(subject), proposals)
    corrections.write(fix, subject.examples, proposed)
    result["proposed_changes"] = len(proposed)
  return result, findings


def finish(config: Config, result: dict, output: str) -> None:
  """Writes the result to `output`, a JSON file, "" for none.

  Raises:
    RunFailed: the data have serious faults.
  """
  if output:
    files.write_json(output, result)
  if result[SERIOUS]:
    raise RunFailed(f"--dataset={config.dataset} is faulty; serious findings: {result[SERIOUS]}")


def _check_texts(config):
  """Returns what `check` does for texts without labels, which are read twice as a stream."""
  clock, config = Clock(), dataclasses.replace(config, on_bad_example="skip")
  with tempfile.TemporaryDirectory() as directory, clock("decode"):
    corpus = corpora.load(config, Assets.of(config), pathlib.Path(directory))
  with clock("look"):
    findings = texts.unlabelled(corpora.texts_of(config, "dataset", []))
  findings = in_order([*findings, *find("duplicates", corpus.facts["duplicates"], corpus.facts["examples"])])
  counts = collections.Counter(finding.severity for finding in findings)
  result = {
    "dataset": config.dataset,
    "modality": corpus.modality,
    "num_examples": corpus.facts["examples"],
    "num_skipped": corpus.facts["bad_examples"],
    "task": "without labels",
    "num_classes": None,
    "splits": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
    "seconds": {name: round(value, 2) for name, value in clock.seconds.items()},
    **{severity: counts[severity] for severity in SEVERITIES},
    "notes": corpus.notes,
    "findings": [finding.as_json() for finding in findings],
    "not_checked": {"labels": "there are none"},
  }
  return result, findings


def _listed(words):
  """Returns words as an enumeration: "a", "a and b", "a, b and c"."""
  return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _divide(examples, config, fingerprints, task):
  """Returns (`Splits`, ""), or (None, reason) if the examples cannot be split."""
  try:
    return splits.make(examples, config.splits, fingerprints, task.has_class_names), ""
  except UserError as error:
    return None, str(error)


def _features(config, spec, assets, subject, clock):
  """Returns the `Features` of all examples; the frozen features are those of a training run with these flags."""
  examples, names = subject.examples, sorted(subject.count(range(len(subject.examples))))
  devices = devices_lib.make(config.strategy, config.num_devices)
  task = subject.task.with_codec(names=tuple(names))
  split = dict(subject.splits)
  # The examples that --max_examples removes from the training split are checked too.
  others = np.setdiff1d(np.arange(len(examples)), np.concatenate([*split.values()]))
  test = np.union1d(split["test"], others)
  whole = splits.Splits(examples, split["train"], split["validation"], test, [], {})
  spec = loading.with_vocabulary(config, spec, whole)
  model = loading.model(config, spec, assets, devices, task, examples.modality)
  # Nothing is trained, so the targets are not used.
  data = training_data.make(examples, whole, np.zeros(len(examples), np.int32))
  data = frozen.with_lengths(data, model.backbone)
  planning.set_preprocessing(config.inputs, data, model)
  return loading.features(config, model, data, devices, clock)
