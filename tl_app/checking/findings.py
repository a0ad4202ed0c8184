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
# From this share of what was looked at, a `grows` kind is serious: the metrics of the run are not reliable.
SERIOUS_SHARE = 0.01
SHOWN = 5


class Kind(typing.NamedTuple):
  """`severity`; `meaning`: what it says of the examples counted; `advice`; `grows`: serious from SERIOUS_SHARE on."""

  severity: str
  meaning: str
  advice: str
  grows: bool = False


KINDS = {
  "unreadable": Kind(SERIOUS, "files or rows that cannot be read or decoded", "fix or remove them"),
  "empty_file": Kind(SERIOUS, "image files of 0 bytes", "fetch them again or remove them"),
  "empty_text": Kind(SERIOUS, "empty texts", "fill in or remove them"),
  "no_label": Kind(SERIOUS, "examples without a label", "label or remove them"),
  "empty_class": Kind(SERIOUS, f"class folders without images ({', '.join(IMAGE_SUFFIXES)})", "fill or remove them"),
  "one_class": Kind(SERIOUS, "classes in train, where two or more are needed", "add another class"),
  "unseen_labels": Kind(
    SERIOUS, "labels of validation or test that train does not have", "add examples of them to train, or remove them"
  ),
  "unsplittable": Kind(SERIOUS, "splits that cannot be sampled", "see the reason"),
  "leak": Kind(WARNING, "examples of a given split that another split has too", "remove them", True),
  "near_leak": Kind(WARNING, "examples that nearly equal an example of another given split", "remove them", True),
  "group_leak": Kind(WARNING, "examples whose group another given split has too", "split by group", True),
  "shared_texts": Kind(
    WARNING,
    "pairs of a split with a text that train has in another pair",
    "expect lower metrics on new texts, or keep pairs together by --group_column",
  ),
  "conflicting_labels": Kind(WARNING, "contents with several labels", "keep one label for each", True),
  "near_conflicting_labels": Kind(
    WARNING, "contents that nearly equal a content with another label", "check them and keep one label for each", True
  ),
  "label_noise": Kind(WARNING, "labels that are probably wrong", "check them, the most certain first"),
  "bracketed_labels": Kind(
    SERIOUS,
    "labels that begin or end with a bracket or a quote, as parts of a list do",
    "write lists as JSON, or the names alone",
  ),
  "similar_labels": Kind(
    WARNING,
    "labels that differ from another one only in case, in separators or in the spelling of a number, or by one typing "
    "error from a much larger class",
    "use one spelling",
  ),
  "placeholder_labels": Kind(
    WARNING, "labels that stand for a missing value in tables", "label these examples or remove them"
  ),
  "small_classes": Kind(WARNING, "classes with fewer than three different examples", "add examples or merge classes"),
  "class_imbalance": Kind(
    WARNING, "examples of the largest class for each example of the smallest", "judge by macro F1, not by accuracy"
  ),
  "split_imbalance": Kind(
    WARNING, "given splits whose class distribution differs from that of train", "expect other metrics in use"
  ),
  "blank_image": Kind(WARNING, "images of one colour", "remove them"),
  "tiny_image": Kind(WARNING, "images with a side below 32 pixels", "use larger images"),
  "extreme_aspect": Kind(
    WARNING, "images more than three times as long as wide, cropped to the central square", "crop them"
  ),
  "rotated_image": Kind(WARNING, "images with an EXIF rotation, which training ignores", "save them upright"),
  "shortcut": Kind(WARNING, "classes that file format and size reveal", "save all images in one format and size"),
  "replacement_characters": Kind(WARNING, "texts with U+FFFD in place of lost characters", "decode the source again"),
  "mojibake": Kind(WARNING, "texts decoded with the wrong encoding", "decode the source as UTF-8"),
  "control_characters": Kind(WARNING, "texts with control or invisible characters", "remove these characters"),
  "html": Kind(WARNING, "texts with HTML tags or entities", "extract the plain text"),
  "no_words": Kind(WARNING, "texts without a letter or digit", "remove them"),
  "label_in_text": Kind(
    INFO, "classes whose name is in nearly all of their texts", "make sure that texts in use have it too"
  ),
  "unknown_tokens": Kind(
    WARNING, "texts with tokens that are not in the vocabulary", "choose a backbone for their language"
  ),
  "long_texts": Kind(
    WARNING,
    "texts that are longer than the model reads",
    "raise --max_length, use --long_text=windows, or shorten them",
  ),
  "duplicates": Kind(
    INFO, "examples that repeat an earlier one", "nothing to do: a sampled split never separates them"
  ),
  "near_duplicates": Kind(
    INFO, "contents that nearly repeat an earlier one", "nothing to do: a sampled split never separates them"
  ),
  "same_but_numbers": Kind(
    INFO, "texts that differ from an earlier one only in numbers", "group templates by --group_column"
  ),
  "wrong_suffix": Kind(
    INFO, "image files whose format is not that of their suffix", "nothing to do: the content decides"
  ),
  "grey_images": Kind(INFO, "grey images among colour images", "nothing to do: they are converted to RGB"),
  "cmyk_images": Kind(INFO, "CMYK images among others", "make sure that the colours are right"),
  "deep_images": Kind(INFO, "images of 16 bits a channel among others", "nothing to do: they are read in 8 bits"),
  "alpha_images": Kind(INFO, "images with transparency among others", "add a background: transparency is dropped"),
  "animated_images": Kind(INFO, "animations among others", "nothing to do: the first frame is read"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One fault.

  Attributes:
    kind: key of `KINDS`.
    severity: "serious", "warning" or "info".
    count: how many `what` there are; what they are is in `KINDS`.
    total: among how many, or 0 where that says nothing.
    detail: the numbers in words, or "".
    examples: up to five, by id.
    advice: what to do in this case; "" for the advice of `KINDS`.
  """

  kind: str
  severity: str
  count: int
  total: int
  detail: str
  examples: list
  advice: str = ""

  def line(self):
    """Returns the finding as a line for a person."""
    kind = KINDS[self.kind]
    of = f" of {self.total:,}" if self.total else ""
    shown = f", e.g. {', '.join(self.examples)}" if self.examples else ""
    detail = f" ({self.detail})" if self.detail else ""
    advice = self.advice or kind.advice
    return f"{self.severity:8} {self.kind}: {kind.meaning}: {self.count:,}{of}{detail}{shown}; {advice}"

  def worse(self):
    """Returns the same finding as a serious one."""
    return dataclasses.replace(self, severity=SERIOUS)

  def as_json(self):
    """Returns a dict with the meaning and the advice as well."""
    kind = KINDS[self.kind]
    return dataclasses.asdict(self) | {"meaning": kind.meaning, "advice": self.advice or kind.advice}


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is looked at.

  Attributes:
    examples: the usable `Examples`.
    fingerprints: their `Fingerprints`.
    splits: {split: int indices}, given and sampled; train holds what could not be divided.
    task: the `Task` that gave their `classes`.
  """

  examples: Examples
  fingerprints: Fingerprints
  splits: dict
  task: Task

  def count(self, indices):
    """Returns {class: how many of the examples at `indices` have it}."""
    classes = self.examples.classes
    return collections.Counter(name for index in indices for name in classes[index])

  @property
  def given(self):
    """{split: indices} of the splits that the data give."""
    given = self.examples.splits
    return {split: np.flatnonzero(given == split) for split in SPLITS if np.any(given == split)}


def find(kind, count, total=0, detail="", examples=(), advice=""):
  """Yields one `Finding` if `count` is not 0.

  Args:
    kind: key of `KINDS`.
    count, total, detail, advice: see `Finding`.
    examples: any number of str, of which the first are shown.
  """
  if not count:
    return
  severity = KINDS[kind].severity
  if KINDS[kind].grows and total and count >= SERIOUS_SHARE * total:
    severity = SERIOUS
  shown = [str(example) for example in examples[:SHOWN]]
  yield Finding(kind, severity, int(count), int(total), detail, shown, advice)


def named(kind, examples, bad, detail=""):
  """Yields the finding of the examples for which `bad` (bool [n]) holds, with their ids."""
  yield from find(kind, int(np.sum(bad)), len(examples), detail, list(examples.ids[np.flatnonzero(bad)[:SHOWN]]))


def in_order(found):
  """Returns the findings, the serious first, then in the order of `KINDS`."""
  kinds = list(KINDS)
  return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), kinds.index(finding.kind)))
