"""`cheap`: every finding that needs no network; and the result as text and as JSON."""

import collections
import dataclasses

import numpy as np

from tl_app.checking import contents, images, labels, texts
from tl_app.checking.findings import INFO, SERIOUS, SEVERITIES, Subject, in_order
from tl_app.data import modalities
from tl_app.data.examples import SPLITS

# By the name of the modality.
CHECKS = {"text": texts, "image": images}
# What a note of the splits says already, at the start of a run.
_NOTED = {"small_classes"}
# Harmless, but they say how many different examples there are.
_TOLD_INFO = {"duplicates", "near_duplicates"}
# Number of examples that a line at the start of a run shows.
_FEW = 3


def subject(examples, split, task):
  """Returns the `Subject` of `Examples`, their `Splits` and the `Task` that gave their classes."""
  return Subject(examples, split.fingerprints, {name: getattr(split, name) for name in SPLITS}, task)


def cheap(subject, preprocess=None):
  """Returns the findings of a `Subject` that need no network, the serious first.

  Args:
    subject: `Subject`.
    preprocess: `Backbone.preprocess`, for what its tokens lose of texts; None leaves that out.
  """
  found = [*contents.findings(subject), *labels.findings(subject)]
  return in_order([*found, *CHECKS[subject.examples.modality].findings(subject, preprocess)])


def start_lines(found):
  """Yields the lines about the data at the start of a run, the worst first."""
  for finding in found:
    if (finding.severity != INFO or finding.kind in _TOLD_INFO) and finding.kind not in _NOTED:
      yield dataclasses.replace(finding, examples=finding.examples[:_FEW]).line()


def as_json(subject, found, seconds, not_checked):
  """Returns what --output and findings.json hold."""
  examples = subject.examples
  counts = collections.Counter(finding.severity for finding in found)
  return {
    "dataset": examples.source,
    "modality": examples.modality,
    "num_examples": len(examples),
    "num_skipped": len(examples.skipped),
    "task": subject.task.name,
    "num_classes": len(subject.count(range(len(examples)))) if subject.task.has_class_names else None,
    "splits": {split: len(indices) for split, indices in subject.splits.items()},
    "seconds": {name: round(value, 2) for name, value in seconds.items()},
    **{severity: counts[severity] for severity in SEVERITIES},
    "notes": list(examples.notes),
    "findings": [finding.as_json() for finding in found],
    "not_checked": not_checked,
  }


def lines(result, found):
  """Yields the lines of the report for a person, from `as_json`'s result and the findings."""
  splits = ", ".join(f"{split} {number:,}" for split, number in result["splits"].items() if number)
  number = result["num_classes"]
  named = "" if number is None else f", {number} class{'' if number == 1 else 'es'}"
  plural = modalities.of(result["modality"]).plural
  yield (
    f"{result['dataset']}: {result['num_examples']:,} {plural}, {result['task']}{named}; "
    f"{splits}; {result['num_skipped']:,} skipped as bad"
  )
  yield from (finding.line() for finding in found)
  for note in result["notes"]:
    yield f"note     {note}"
  for what, why in result["not_checked"].items():
    yield f"not checked: {what}: {why}"
  counts = ", ".join(f"{severity}: {result[severity]}" for severity in SEVERITIES)
  seconds = result["seconds"]
  parts = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if value >= 1)
  yield f"{counts}; {sum(seconds.values()):.1f} s" + (f" ({parts})" if parts else "")


def is_serious(found):
  """Returns whether a finding is serious."""
  return any(finding.severity == SERIOUS for finding in found)


def undivided(examples, fingerprints, task):
  """Returns the `Subject` of examples that could not be divided: what no given split holds counts as train."""
  given = examples.splits
  splits = {split: np.flatnonzero(given == split) for split in ("validation", "test")}
  return Subject(examples, fingerprints, {"train": np.flatnonzero((given == "") | (given == "train")), **splits}, task)
