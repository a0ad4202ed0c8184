"""`Finding`: one fault of a data set; `KINDS`: every kind that is looked for, how bad it is and what to do."""

import collections
import dataclasses
import typing

import numpy as np

from tl_app.data.examples import SPLITS, Examples
from tl_app.data.readers.rows import IMAGE_SUFFIXES
from tl_app.data.splitting.fingerprints import Fingerprints
from tl_app.tasks.task import Task

SERIOUS, WARNING, INFO = "serious", "warning", "info"
SEVERITIES = (SERIOUS, WARNING, INFO)
# From this share of what was looked at, a `grows` kind is serious: the figures of the run are no longer to be believed.
SERIOUS_SHARE = 0.01
SHOWN = 5


class Kind(typing.NamedTuple):
  """`severity`; `meaning`: what it says of the examples counted; `advice`; `grows`: serious from SERIOUS_SHARE on."""

  severity: str
  meaning: str
  advice: str
  grows: bool = False


KINDS = {
  "unreadable": Kind(SERIOUS, "cannot be read or decoded", "mend or remove them"),
  "empty_file": Kind(SERIOUS, "image files of 0 bytes", "fetch them again or remove them"),
  "empty_text": Kind(SERIOUS, "texts without a character", "fill in or remove them"),
  "no_label": Kind(SERIOUS, "examples without a label", "label or remove them"),
  "empty_class": Kind(SERIOUS, f"class folders without images ({', '.join(IMAGE_SUFFIXES)})", "fill or remove them"),
  "one_class": Kind(SERIOUS, "classes in train, where two or more are needed", "add another class"),
  "unseen_labels": Kind(SERIOUS, "labels of validation or test that train lacks", "add some to train, or remove them"),
  "undrawable": Kind(SERIOUS, "the splits cannot be drawn", "see the reason"),
  "leak": Kind(WARNING, "examples of a given split that another one has as well", "remove them", True),
  "near_leak": Kind(WARNING, "examples that nearly equal one of another given split", "remove them", True),
  "group_leak": Kind(WARNING, "examples whose group another given split has as well", "divide by group", True),
  "conflicting_labels": Kind(WARNING, "contents with several labels", "keep one label of each", True),
  "near_conflicting_labels": Kind(
    WARNING, "contents that nearly equal one under another label", "look at them and keep one label of each", True
  ),
  "label_noise": Kind(WARNING, "labels that are probably wrong", "look at them, worst first"),
  "similar_labels": Kind(
    WARNING, "labels that differ only in case or separators, or in how a number is written", "give them one spelling"
  ),
  "placeholder_labels": Kind(
    WARNING, "labels that tables write for a missing value", "label these examples or remove them"
  ),
  "small_classes": Kind(WARNING, "classes with fewer than three different examples", "add examples or merge classes"),
  "class_imbalance": Kind(
    WARNING, "examples of the largest class for one of the smallest", "judge by macro F1, not by accuracy"
  ),
  "split_imbalance": Kind(
    WARNING, "given splits whose classes are distributed unlike those of train", "expect other figures in use"
  ),
  "blank_image": Kind(WARNING, "images of one colour", "remove them"),
  "tiny_image": Kind(WARNING, "images with a side below 32 pixels", "look for larger ones"),
  "extreme_aspect": Kind(WARNING, "images over three times as long as wide, cut to the central square", "crop them"),
  "rotated_image": Kind(WARNING, "images that EXIF turns, which training does not", "save them upright"),
  "shortcut": Kind(WARNING, "classes that file format and size give away", "save all images alike"),
  "replacement_characters": Kind(WARNING, "texts with U+FFFD in place of lost characters", "decode the source anew"),
  "mojibake": Kind(WARNING, "texts decoded with the wrong encoding", "decode the source as UTF-8"),
  "control_characters": Kind(WARNING, "texts with control or invisible characters", "remove these characters"),
  "html": Kind(WARNING, "texts with HTML tags or entities", "extract the plain text"),
  "no_words": Kind(WARNING, "texts without a letter or digit", "remove them"),
  "label_in_text": Kind(INFO, "classes whose name is in nearly every text of theirs", "make sure it is there in use"),
  "unknown_tokens": Kind(WARNING, "texts with tokens that the vocabulary lacks", "choose a backbone of their language"),
  "long_texts": Kind(
    WARNING, "texts longer than what is read of them", "take --long_text=windows, raise --max_windows, or shorten them"
  ),
  "duplicates": Kind(INFO, "examples that repeat an earlier one", "nothing: a drawn split never separates them"),
  "near_duplicates": Kind(
    INFO, "contents that nearly repeat an earlier one", "nothing: a drawn split never separates them"
  ),
  "same_but_numbers": Kind(
    INFO, "texts that equal an earlier one but for their numbers", "group templates by --group_column"
  ),
  "wrong_suffix": Kind(INFO, "image files of another format than their suffix says", "nothing: the content decides"),
  "grey_images": Kind(INFO, "grey images among colour ones", "nothing: they become grey RGB"),
  "cmyk_images": Kind(INFO, "CMYK images among others", "make sure that colours look right"),
  "deep_images": Kind(INFO, "images of 16 bits a channel among others", "nothing: they are read in 8 bits"),
  "alpha_images": Kind(INFO, "images with transparency among others", "lay them on a background: it is dropped"),
  "animated_images": Kind(INFO, "animations among others", "nothing: the first frame is read"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One fault.

  Attributes:
    kind: key of `KINDS`.
    severity: "serious", "warning" or "info".
    count: how many `what` there are; what they are is in `KINDS`.
    total: among how many, or 0 where that says nothing.
    detail: the figures in words, or "".
    examples: up to five, by id.
  """

  kind: str
  severity: str
  count: int
  total: int
  detail: str
  examples: list

  def line(self):
    """Returns the finding as a line for a person."""
    kind = KINDS[self.kind]
    of = f" of {self.total:,}" if self.total else ""
    shown = f", e.g. {', '.join(self.examples)}" if self.examples else ""
    detail = f" ({self.detail})" if self.detail else ""
    return f"{self.severity:8} {self.kind}: {self.count:,}{of} {kind.meaning}{detail}{shown}; {kind.advice}"

  def worse(self):
    """Returns the same finding as a serious one."""
    return dataclasses.replace(self, severity=SERIOUS)

  def as_json(self):
    """Returns a dict with the meaning and the advice as well."""
    kind = KINDS[self.kind]
    return dataclasses.asdict(self) | {"meaning": kind.meaning, "advice": kind.advice}


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is looked at.

  Attributes:
    examples: the usable `Examples`.
    fingerprints: their `Fingerprints`.
    parts: {split: int indices} of the splits, given and drawn; train holds what could not be divided.
    task: the `Task` that gave their `classes`.
  """

  examples: Examples
  fingerprints: Fingerprints
  parts: dict
  task: Task

  def count(self, indices):
    """Returns {class: how many of the examples at `indices` have it}."""
    classes = self.examples.classes
    return collections.Counter(name for index in indices for name in classes[index])

  @property
  def given(self):
    """{split: indices} of the splits that the data give."""
    splits = self.examples.splits
    return {split: np.flatnonzero(splits == split) for split in SPLITS if np.any(splits == split)}


def find(kind, count, total=0, detail="", examples=()):
  """Yields one `Finding` if `count` is not 0.

  Args:
    kind: key of `KINDS`.
    count, total, detail: see `Finding`.
    examples: any number of str, of which the first are shown.
  """
  if not count:
    return
  severity = KINDS[kind].severity
  if KINDS[kind].grows and total and count >= SERIOUS_SHARE * total:
    severity = SERIOUS
  yield Finding(kind, severity, int(count), int(total), detail, [str(example) for example in examples[:SHOWN]])


def named(kind, examples, bad, detail=""):
  """Yields the finding of the examples for which `bad` (bool [n]) holds, with their ids."""
  yield from find(kind, int(np.sum(bad)), len(examples), detail, list(examples.ids[np.flatnonzero(bad)[:SHOWN]]))


def in_order(found):
  """Returns the findings, the serious first, then in the order of `KINDS`."""
  kinds = list(KINDS)
  return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), kinds.index(finding.kind)))
