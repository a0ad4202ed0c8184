"""`make` divides examples into train, validation and test; a manifest keeps the division, `read` rebuilds it."""

import collections
import dataclasses
import hashlib
import math

import numpy as np

from tl_app import files
from tl_app.data.examples import SPLITS, Examples, strings
from tl_app.errors import UserError

_SETTINGS = ("split_seed", "validation_fraction", "test_fraction", "max_examples")


def make(examples, config):
  """Returns the `Splits` of `examples`: those that the data set gives, and the rest drawn by content hash.

  A split that is not given is drawn from the training examples, test before validation. Within a class the contents are
  ordered by sha256(split seed, content hash) and the first ones are taken, so that the order of the files does not
  matter and more examples move few of the old ones. Equal contents stay together, whatever their labels, and a content
  that a given split has as well is never drawn. A class with three distinct contents is in every split.

  Raises:
    UserError: fewer than two classes, an empty split, a class that only validation or test has, or --max_examples below
      the number of classes.
  """
  pool = np.flatnonzero((examples.splits == "") | (examples.splits == "train"))
  if not len(pool):
    raise UserError(
      f"{examples.source} has no training examples, only {' and '.join(sorted(set(examples.splits)))}: add a train part"
    )
  _need_two_classes(examples, pool)
  drawn = [split for split in ("test", "validation") if not np.any(examples.splits == split)]
  assigned = strings([split or "train" for split in examples.splits])
  notes = _draw(examples, pool, drawn, config, assigned) if drawn else []
  indices = {split: np.flatnonzero(assigned == split) for split in SPLITS}
  _need_examples(examples, indices, config)
  if config.max_examples:
    indices["train"] = _at_most(examples, indices["train"], config)
  return Splits(
    examples=examples,
    class_names=sorted(_classes(examples, indices["train"])),
    notes=[*examples.notes, *_skipped_note(examples), *notes, *_content_notes(examples, indices)],
    settings={name: getattr(config, name) for name in _SETTINGS} | {"drawn": sorted(drawn)},
    **indices,
  )


def read(path, examples):
  """Returns the `Splits` that the manifest at `path` (splits.json) holds, over `examples` in whatever order.

  Raises:
    UserError: the file cannot be read, or an example that it lists is gone, or has another content or label now.
  """
  try:
    manifest = files.read_json(path)
    listed = {split: manifest["splits"][split] for split in SPLITS}
    columns = {split: list(zip(*(listed[split][name] for name in ("ids", "hashes", "labels")))) for split in SPLITS}
    class_names, notes = list(manifest["class_names"]), list(manifest["notes"])
    settings = {name: manifest[name] for name in (*_SETTINGS, "drawn")}
    num_examples = manifest["num_examples"]
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  except (KeyError, TypeError, ValueError):
    raise UserError(f"{path} is not a manifest of splits: remove it, or name another workdir") from None
  place = {id: index for index, id in enumerate(examples.ids)}
  indices = {}
  for split, rows in columns.items():
    for id, digest, label in rows:
      index = place.get(id)
      if index is None or examples.hashes[index] != digest or examples.labels[index] != label:
        change = "is gone" if index is None else "has changed" if examples.hashes[index] != digest else "is relabelled"
        raise UserError(f"{path} no longer fits {examples.source}: {id} {change}; use a new --workdir")
    indices[split] = np.sort(np.array([place[id] for id, _, _ in rows], dtype=np.int64))
  if len(examples) > num_examples:
    notes.append(f"{len(examples) - num_examples:,} examples are newer than {path} and are left out")
  return Splits(examples=examples, class_names=class_names, notes=notes, settings=settings, **indices)


def hashes(path):
  """Returns the content hashes (frozenset of str) in the manifest at `path`; none where `read` would refuse it."""
  try:
    listed = files.read_json(path)["splits"]
    return frozenset(digest for split in SPLITS for digest in listed[split]["hashes"])
  except (OSError, KeyError, TypeError, ValueError):
    return frozenset()


def _need_two_classes(examples, pool):
  labels = sorted(_classes(examples, pool))
  if len(labels) < 2:
    raise UserError(f"{examples.source} has one class in train, {labels[0]!r}: two or more are needed")


def _need_examples(examples, indices, config):
  train = _classes(examples, indices["train"])
  for split in ("validation", "test"):
    if not len(indices[split]):
      raise UserError(
        f"{examples.source} leaves no examples for {split}: at least one class needs three different examples in "
        f"train, or give --{split}_dataset"
      )
    found = _classes(examples, indices[split])
    unseen = {label: count for label, count in found.items() if label not in train}
    if unseen:
      listed = ", ".join(f"{label!r} ({count:,})" for label, count in sorted(unseen.items())[:10])
      raise UserError(
        f"{examples.source}: labels of {split} that train has no example of: {listed}; a model cannot learn these: "
        "add them to train, or remove them"
      )
  if 0 < config.max_examples < len(train):
    raise UserError(f"--max_examples={config.max_examples} is below the number of classes, {len(train)}: raise it")


def _classes(examples, indices):
  """Returns {class: number of the examples at `indices` that have it}."""
  return collections.Counter(name for classes in examples.classes[indices] for name in classes)


def _order(seed, digest):
  """Returns the position of a content in the draw: as good as random, and the same wherever the content is."""
  return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _draw(examples, pool, drawn, config, assigned):
  """Writes the drawn splits of `pool` into `assigned`; returns notes."""
  strata, rare = _strata(examples, pool, config.split_seed)
  given = set(np.delete(examples.hashes, pool))
  fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
  for groups in strata.values():
    free = [group for group in groups if examples.hashes[group[0]] not in given]
    may_leave = min(len(free), len(groups) - 1)
    rest = sum(map(len, groups))
    for position, split in enumerate(drawn):
      later = len(drawn) - position - 1
      chosen = _first_fitting(free, fractions[split] * rest, min(may_leave, max(1, may_leave - later)))
      for group in chosen:
        assigned[group] = split
      gone = {group[0] for group in chosen}
      free = [group for group in free if group[0] not in gone]
      may_leave -= len(chosen)
      rest -= sum(map(len, chosen))
  _keep_every_class_in_train(examples, pool, strata, assigned)
  if not rare:
    return []
  listed = ", ".join(f"{label!r} ({count})" for label, count in sorted(rare.items())[:10])
  return [f"classes with fewer than three different examples, which are not in every split: {listed}"]


def _strata(examples, pool, seed):
  """Returns ({label: groups in drawing order}, {label: contents} of the labels with fewer than three contents).

  A group is the list of the examples of one content. With several labels it belongs to the rarest of them.
  """
  contents = collections.defaultdict(list)
  for index in pool:
    contents[examples.hashes[index]].append(index)
  labels = {digest: sorted(_classes(examples, group)) or [""] for digest, group in contents.items()}
  count = collections.Counter(label for names in labels.values() for label in names)
  strata = collections.defaultdict(list)
  for digest in sorted(contents, key=lambda digest: _order(seed, digest)):
    strata[min(labels[digest], key=lambda label: (count[label], label))].append(contents[digest])
  return strata, {label: number for label, number in count.items() if number < 3}


def _first_fitting(groups, share, at_most):
  """Returns the first groups that together have about `share` examples: one at least, if `at_most` lets."""
  wanted, size, chosen = math.floor(share + 0.5), 0, []
  for group in groups:
    if len(chosen) == at_most or size == wanted:
      break
    if size + len(group) <= wanted:
      chosen.append(group)
      size += len(group)
  if not chosen and at_most > 0:
    chosen = [min(groups, key=len)]
  return chosen


def _keep_every_class_in_train(examples, pool, strata, assigned):
  """Brings back a group of each label that has none in train: its contents were drawn under another label."""
  missing = set(_classes(examples, pool)) - set(_classes(examples, pool[assigned[pool] == "train"]))
  for label in sorted(missing):
    group = next(g for groups in strata.values() for g in groups if label in _classes(examples, g))
    assigned[group] = "train"


def _at_most(examples, train, config):
  """Returns --max_examples of the indices `train`: stratified, the first in drawing order, each class at least once."""
  limit = config.max_examples
  if len(train) <= limit:
    return train
  order = sorted(train, key=lambda i: (_order(config.split_seed, examples.hashes[i]), examples.ids[i]))
  count, classes = _classes(examples, train), collections.defaultdict(list)
  for index in order:
    classes[min(examples.classes[index], key=lambda name: (count[name], name), default="")].append(index)
  spare, others = limit - len(classes), len(train) - len(classes)
  exact = {label: spare * (len(members) - 1) / others for label, members in classes.items()}
  quota = {label: 1 + math.floor(share) for label, share in exact.items()}
  by_remainder = sorted(classes, key=lambda label: (math.floor(exact[label]) - exact[label], label))
  for label in by_remainder[: limit - sum(quota.values())]:
    quota[label] += 1
  return np.sort(np.array([index for label, members in classes.items() for index in members[: quota[label]]]))


def _skipped_note(examples):
  if not examples.skipped:
    return []
  first = examples.skipped[0]
  return [f"bad examples that are left out: {len(examples.skipped):,}, e.g. {first['id']}: {first['reason']}"]


def _content_notes(examples, indices):
  """Returns lines about contents that are in two splits (given ones), that repeat, or that have several labels."""
  noun = f"{examples.modality}s"
  hashes = {split: examples.hashes[indices[split]] for split in SPLITS}
  contents = {split: set(hashes[split]) for split in SPLITS}
  notes = []
  for split, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
    shared = sum(digest in contents[other] for digest in hashes[split])
    if shared:
      notes.append(f"{split} {noun} that are also in {other}: {shared:,}; given splits stay as they are")
  members = collections.defaultdict(list)
  for index in np.sort(np.concatenate([indices[split] for split in SPLITS])):
    members[examples.hashes[index]].append(index)
  repeats = sum(len(group) - 1 for group in members.values())
  if repeats:
    notes.append(f"{noun} that repeat an earlier one: {repeats:,}; a drawn split never separates them")
  torn = [group for group in members.values() if len(set(examples.labels[group])) > 1]
  if torn:
    first = torn[0][0]
    other = next(index for index in torn[0] if examples.labels[index] != examples.labels[first])
    names = " and ".join(f"{examples.ids[index]} ({examples.labels[index]})" for index in (first, other))
    notes.append(f"{noun} with more than one label: {len(torn):,}, e.g. {names}")
  return notes


@dataclasses.dataclass(frozen=True)
class Splits:
  """The division of `examples`.

  Attributes:
    examples: the `Examples` that the indices point into.
    train, validation, test: int arrays, ascending, disjoint; never empty.
    class_names: list of str, the labels of train in the order of the logits: plain sorted ("10" before "2").
    notes: lines worth telling the user.
    settings: split_seed, validation_fraction, test_fraction, max_examples, and the names of the drawn splits.
  """

  examples: Examples
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  class_names: list
  notes: list
  settings: dict

  def manifest(self):
    """Returns what splits.json holds: the settings, and id, content hash and label of every example of each split."""
    parts = {split: self.examples.take(getattr(self, split)) for split in SPLITS}
    return {
      "source": self.examples.source,
      **self.settings,
      "num_examples": len(self.examples),
      "class_names": self.class_names,
      "counts": {split: dict(sorted(_classes(p, slice(None)).items())) for split, p in parts.items()},
      "notes": self.notes,
      "skipped": self.examples.skipped,
      "splits": {
        split: {"ids": list(p.ids), "hashes": list(p.hashes), "labels": list(p.labels)} for split, p in parts.items()
      },
    }
