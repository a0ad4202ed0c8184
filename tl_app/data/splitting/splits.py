"""`make` divides examples into train, validation and test; a manifest keeps the division, `read` rebuilds it."""

import collections
import dataclasses
import hashlib
import json
import math
import pathlib
import typing

import numpy as np

from tl_app import files
from tl_app.assets import cache_root
from tl_app.config.groups import SplitConfig
from tl_app.data import modalities
from tl_app.data.examples import SPLITS, Examples, brief, strings
from tl_app.data.splitting import duplicates, sampling, shared_texts
from tl_app.data.splitting.fingerprints import Fingerprints, fingerprint
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.errors import UserError
from tl_app.files import checksums

_SETTINGS = (
  "split_seed",
  "validation_fraction",
  "test_fraction",
  "max_examples",
  "max_examples_per_class",
  "group_column",
  "time_column",
)
_SHOWN = 5


def make(
  examples: Examples, config: SplitConfig, fingerprints: Fingerprints | None = None, named: bool = True
) -> "Splits":
  """Returns the `Splits` of `examples`: those that the data set gives, and the rest sampled by content hash.

  A split that is not given is sampled from the training examples, test before validation. Within a class the contents
  are ordered by sha256(split seed, content hash) and the first ones are sampled. So the order of the files does not
  matter, and additional examples move few others. Equal and nearly equal contents stay together, whatever their
  labels, and so do the groups of --group_column. Without groups and times, pairs with a text in common stay together
  where that can be, see `shared_texts`. A content that a given split has too is never sampled. A class with
  three distinct contents is in every split, if the groups allow it. With --time_column the latest examples are sampled.

  Args:
    examples: `Examples`.
    config: how to split.
    fingerprints: the `Fingerprints` of `examples`. Default: computed, with the index in the default cache.
    named: whether the classes are names, of which train must have each; those of amounts are ranges.

  Raises:
    UserError: fewer than two classes, an empty split, a named class that only validation or test has, --max_examples
      below the number of classes, groups or times that do not allow sampling, or a leak under --on_leak=fail.
  """
  pool = np.flatnonzero((examples.splits == "") | (examples.splits == "train"))
  if not len(pool):
    raise UserError(
      f"{examples.source} has no training examples, only {' and '.join(sorted(set(examples.splits)))}: add a train part"
    )
  _need_two_classes(examples, pool, named)
  missing = [split for split in ("test", "validation") if not np.any(examples.splits == split)]
  assigned = strings([split or "train" for split in examples.splits])
  fingerprints = fingerprints or fingerprint(examples, DecodedImageIndex(cache_root()))
  sampled, notes = _sample(examples, pool, fingerprints, missing, config) if missing else ({}, [])
  for split, positions in sampled.items():
    assigned[positions] = split
  indices = {split: np.flatnonzero(assigned == split) for split in SPLITS}
  _need_examples(examples, indices)
  _need_classes(examples, indices, config, named)
  leaks = _leak_notes(examples, indices, fingerprints)
  if leaks and config.on_leak == "fail":
    raise UserError(f"--on_leak=fail: {leaks[0]}: remove them, or pass --on_leak=report")
  if config.max_examples or config.max_examples_per_class:
    indices["train"] = _at_most(examples, indices["train"], config)
  findings = [*leaks, *_content_notes(examples, indices, fingerprints)]
  return Splits(
    examples=examples,
    notes=[*examples.notes, *_skipped_note(examples), *notes, *findings],
    findings=findings,
    settings={name: getattr(config, name) for name in _SETTINGS} | {"sampled": sorted(missing)},
    fingerprints=fingerprints,
    **indices,
  )


def read(path: pathlib.Path, examples: Examples) -> "Splits":
  """Returns the `Splits` that the manifest at `path` (splits.json) holds, over `examples` in whatever order.

  Raises:
    UserError: the file cannot be read, --corrections has changed, or an example that it lists is gone, or has another
      content or label now.
  """
  try:
    manifest = files.read_json(checksums.verified(path))
    listed = {split: manifest["splits"][split] for split in SPLITS}
    columns = {split: list(zip(*(listed[split][name] for name in ("ids", "hashes", "labels")))) for split in SPLITS}
    notes = list(manifest["notes"])
    settings = {name: manifest[name] for name in (*_SETTINGS, "sampled") if name in manifest}
    num_examples, corrected = manifest["num_examples"], manifest.get("corrections") or {}
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  except (KeyError, TypeError, ValueError):
    raise UserError(f"{path} is not a manifest of splits: remove it, or name another workdir") from None
  if corrected.get("sha256") != (examples.corrections or {}).get("sha256"):
    file = (examples.corrections or corrected)["file"]
    raise UserError(f"{path} no longer fits --corrections={file}, which has changed since the run: use a new --workdir")
  indices = _positions(columns, examples, path)
  if len(examples) > num_examples:
    notes.append(f"examples that are newer than {path} are ignored: {len(examples) - num_examples:,}")
  train, validation, test = (indices[split] for split in SPLITS)
  return Splits(examples, train, validation, test, notes, settings)


def _positions(columns, examples, path) -> dict[str, typing.Any]:
  """Returns {split: sorted int positions} of the listed examples: by id, or else all by content and label.

  Content and label tell them where rows have moved: an id has the line in it.

  Raises:
    UserError: an example is gone, or has another content or label.
  """
  place = {id: index for index, id in enumerate(examples.ids)}
  by_content = collections.defaultdict(list)
  for index in reversed(range(len(examples))):
    by_content[examples.hashes[index], examples.labels[index]].append(index)
  fault, by_id, moved = "", collections.defaultdict(list), collections.defaultdict(list)
  for split, rows in columns.items():
    for id, digest, label in rows:
      index = place.get(id)
      if index is None or examples.hashes[index] != digest or examples.labels[index] != label:
        change = "is gone" if index is None else "has changed" if examples.hashes[index] != digest else "is relabelled"
        fault = fault or f"{id} {change}"
      by_id[split].append(index)
      same = by_content[digest, label]
      moved[split].append(same.pop() if same else None)
  if fault and any(None in indices for indices in moved.values()):
    raise UserError(f"{path} no longer fits {examples.source}: {fault}; use a new --workdir")
  found = moved if fault else by_id
  return {split: np.sort(np.array(found[split], dtype=np.int64)) for split in columns}


def hashes(path: pathlib.Path, names: tuple[str, ...] = SPLITS) -> frozenset[str]:
  """Returns the content hashes of the splits `names` in the manifest at `path`; none where `read` would refuse it."""
  try:
    listed = files.read_json(checksums.verified(path))["splits"]
    return frozenset(digest for split in names for digest in listed[split]["hashes"])
  except (OSError, KeyError, TypeError, ValueError):
    return frozenset()


def training_labels(path: pathlib.Path) -> np.ndarray:
  """Returns the label cells (str [n]) of the training examples in the manifest at `path`.

  Raises:
    UserError: the file is no manifest.
  """
  try:
    return strings(files.read_json(checksums.verified(path))["splits"]["train"]["labels"])
  except (OSError, KeyError, TypeError, ValueError):
    raise UserError(f"{path} is damaged: train again") from None


def _need_two_classes(examples, pool, named):
  labels = sorted(_classes(examples, pool))
  if len(labels) < 2 and not named:
    raise UserError(f"{examples.source}: all labels of train are {examples.labels[pool[0]]}: there is nothing to learn")
  if len(labels) < 2:
    found = f"one class in train, {labels[0]!r}" if labels else "no class in train"
    raise UserError(f"{examples.source} has {found}: two or more are needed")


def _need_examples(examples, indices):
  for split in ("validation", "test"):
    if not len(indices[split]):
      raise UserError(
        f"{examples.source} leaves no examples for {split}: at least one class needs three different examples in "
        f"train, or give --{split}_dataset"
      )


def _need_classes(examples, indices, config, named):
  train = _classes(examples, indices["train"])
  for split in ("validation", "test") if named else ():
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


def units(examples: Examples, fingerprints: Fingerprints) -> np.ndarray:
  """Returns int [n]: what stays together: equal and nearly equal contents, and the groups of --group_column."""
  if examples.groups is None:
    return fingerprints.near
  return duplicates.joined(fingerprints.near, duplicates.numbered(examples.groups))


def _units_to_sample(examples, fingerprints, pool, config):
  """Returns `units`; raises `UserError` if so many examples belong together that none can be sampled."""
  found = units(examples, fingerprints)
  if examples.groups is not None and (largest := np.unique(found[pool], return_counts=True)[1].max()) > len(pool) / 2:
    raise UserError(
      f"--group_column={config.group_column}: one group, with those that share equal or nearly equal contents with it, "
      f"holds {largest:,} of {len(pool):,} training examples: remove the repeats (python -m tl_app.check lists them), "
      "or give --validation_dataset and --test_dataset"
    )
  return found


def _sample(examples, pool, fingerprints, missing, config):
  """Returns ({split: its positions}, notes) of the `missing` splits, sampled from the examples at `pool`.

  Raises:
    UserError: groups or times that do not allow it.
  """
  together = _units_to_sample(examples, fingerprints, pool, config)
  fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
  given = frozenset(np.delete(together, pool))
  fractions = {split: fractions[split] for split in missing}
  all_of = sampling.Pool(pool, together, examples.hashes, examples.classes, given, fractions, config.split_seed)
  if examples.times is not None:
    flag = f"--time_column={config.time_column}"
    times = sampling.instants(examples.times, examples.ids, flag)
    return sampling.by_time(all_of, times, examples.times, flag)
  if examples.groups is not None:
    return sampling.by_group(all_of, f"--group_column={config.group_column}")
  several = any(len(names) != 1 for names in examples.classes)
  sampled, notes = sampling.by_group(all_of) if several else sampling.by_class(all_of)
  apart = shared_texts.sample(all_of, fingerprints, sampled)
  return (apart[0], notes + apart[1]) if apart else (sampled, notes)


def _at_most(examples, train, config):
  """Returns --max_examples of the indices `train`, and --max_examples_per_class: the first in sampling order.

  --max_examples alone is stratified, each class at least once. An example of several classes counts for its rarest.
  """
  order = sorted(train, key=lambda i: (sampling.order(config.split_seed, examples.hashes[i]), examples.ids[i]))
  count, classes = _classes(examples, train), collections.defaultdict(list)
  for index in order:
    classes[min(examples.classes[index], key=lambda name: (count[name], name), default="")].append(index)
  if config.max_examples_per_class:
    classes = {label: members[: config.max_examples_per_class] for label, members in classes.items()}
  quota = _quotas({label: len(members) for label, members in classes.items()}, config.max_examples)
  chosen = np.sort(np.array([index for label, members in classes.items() for index in members[: quota[label]]]))
  lost = sorted(set(count) - set(_classes(examples, chosen)))
  if lost:
    flag = "max_examples_per_class" if config.max_examples_per_class else "max_examples"
    raise UserError(
      f"--{flag}={getattr(config, flag)} leaves train no example of {lost[0]!r}: those it has count for the rarer "
      "classes that they have too; raise it"
    )
  return chosen


def _quotas(counts, limit):
  """Returns {class: share of `limit`} in proportion to {class: count}, at least 1 each; all of them if 0 or enough."""
  total = sum(counts.values())
  if not limit or total <= limit:
    return counts
  exact = {label: (limit - len(counts)) * (count - 1) / (total - len(counts)) for label, count in counts.items()}
  quota = {label: 1 + math.floor(share) for label, share in exact.items()}
  by_remainder = sorted(counts, key=lambda label: (math.floor(exact[label]) - exact[label], label))
  for label in by_remainder[: limit - sum(quota.values())]:
    quota[label] += 1
  return quota


def _skipped_note(examples):
  if not examples.skipped:
    return []
  first = examples.skipped[0]
  return [f"bad examples that were removed: {len(examples.skipped):,}, e.g. {first['id']}: {first['reason']}"]


def leaks(examples, indices, fingerprints):
  """Yields (split, other split, kind, [(index, index of what it equals in the other split)]) of what two splits share.

  Kinds: "exact", "near" (nearly equal only), and "group".
  """
  for split, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
    exact = duplicates.shared(fingerprints.contents, indices[split], indices[other])
    equal = {index for index, _ in exact}
    near = duplicates.shared(fingerprints.near, indices[split], indices[other])
    found = {"exact": exact, "near": [pair for pair in near if pair[0] not in equal]}
    if examples.groups is not None:
      found["group"] = duplicates.shared(examples.groups, indices[split], indices[other])
    yield from ((split, other, kind, pairs) for kind, pairs in found.items() if pairs)


def _leak_notes(examples, indices, fingerprints):
  noun = modalities.of(examples.modality).plural
  words = {
    "exact": f"{noun} that are also in",
    "near": f"{noun} that nearly equal one of",
    "group": "examples whose group is also in",
  }
  notes = []
  for split, other, kind, pairs in leaks(examples, indices, fingerprints):
    shown = ", ".join(f"{examples.ids[i]} = {examples.ids[j]}" for i, j in pairs[:_SHOWN])
    notes.append(f"{split} {words[kind]} {other}: {len(pairs):,}, e.g. {shown}; given splits stay as they are")
  return notes


def _content_notes(examples, indices, fingerprints):
  """Returns lines about contents that repeat, nearly repeat, or have several labels."""
  noun = modalities.of(examples.modality).plural
  used = np.sort(np.concatenate([indices[split] for split in SPLITS]))
  members = collections.defaultdict(list)
  for index in used:
    members[fingerprints.contents[index]].append(index)
  notes = []
  repeats = len(used) - len(members)
  if repeats:
    notes.append(f"{noun} that repeat an earlier one: {repeats:,}; a sampled split never separates them")
  nearly = len(members) - len(np.unique(fingerprints.near[used]))
  if nearly:
    notes.append(f"{noun} that nearly repeat an earlier one: {nearly:,}; a sampled split never separates them")
  conflicting = [group for group in members.values() if len(set(examples.classes[group])) > 1]
  if conflicting:
    first = conflicting[0][0]
    other = next(index for index in conflicting[0] if examples.classes[index] != examples.classes[first])
    names = " and ".join(f"{examples.ids[index]} ({brief(examples.labels[index])})" for index in (first, other))
    notes.append(f"{noun} with more than one label: {len(conflicting):,}, e.g. {names}")
  return notes


@dataclasses.dataclass(frozen=True)
class Splits:
  """The division of `examples`.

  Attributes:
    examples: the `Examples` that the indices point into.
    train, validation, test: int arrays, ascending, disjoint; never empty, but test after `without_test`.
    notes: lines worth telling the user.
    settings: the flags that decide sampling, and the names of the sampled splits.
    fingerprints: the `Fingerprints` of `examples`, or None where the manifest was read.
    findings: those of the notes that `checking` finds too.
  """

  examples: Examples
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  notes: list
  settings: dict
  fingerprints: Fingerprints | None = None
  findings: list = dataclasses.field(default_factory=list)

  def without_test(self) -> "Splits":
    """Returns the division of the training and validation examples alone: the others are no longer there."""
    kept = np.sort(np.concatenate([self.train, self.validation]))
    return dataclasses.replace(
      self,
      examples=self.examples.take(kept),
      train=np.searchsorted(kept, self.train),
      validation=np.searchsorted(kept, self.validation),
      test=np.empty(0, np.int64),
      fingerprints=self.fingerprints and self.fingerprints.take(kept),
    )

  def digests(self) -> dict[str, str]:
    """Returns {split: sha256 hex of the ids, contents and labels of its examples, in order}."""
    found = {}
    for split in SPLITS:
      part = self.examples.take(getattr(self, split))
      rows = [list(map(str, values)) for values in (part.ids, part.hashes, part.labels)]
      found[split] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return found

  def manifest(self):
    """Returns what splits.json holds: the settings, and id, content hash and label of every example of each split."""
    examples = {split: self.examples.take(getattr(self, split)) for split in SPLITS}
    return {
      "source": self.examples.source,
      **self.settings,
      "num_examples": len(self.examples),
      "counts": {split: dict(sorted(_classes(part, slice(None)).items())) for split, part in examples.items()},
      "notes": self.notes,
      **({"corrections": self.examples.corrections} if self.examples.corrections else {}),
      "skipped": self.examples.skipped,
      "splits": {
        split: {"ids": list(part.ids), "hashes": list(part.hashes), "labels": list(part.labels)}
        for split, part in examples.items()
      },
    }
