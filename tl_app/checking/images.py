"""What is odd about images: from their headers and a thumbnail, no network."""

import collections
import pathlib

import numpy as np

from tl_app.checking.findings import find, named
from tl_app.data.readers.rows import IMAGE_SUFFIXES
from tl_app.data.splitting.image_fingerprints import MIN_SIDE, MIN_SPREAD

ASPECT = 3.0
# Format and size give a class away when they predict it this much better than chance (Cohen's kappa), each example
# judged by the others of its format and size.
SHORTCUT_KAPPA = 0.8
_FORMAT_OF = {suffix: "JPEG" for suffix in IMAGE_SUFFIXES} | {
  ".png": "PNG",
  ".bmp": "BMP",
  ".gif": "GIF",
  ".webp": "WEBP",
}


def findings(subject, preprocess=None):
  """Yields the findings about the images of a `Subject`; none of them needs `preprocess`."""
  examples, facts = subject.examples, subject.fingerprints.facts

  def those(test):
    return np.array([image is not None and bool(test(image)) for image in facts])

  yield from _wrong_suffix(examples, facts)
  yield from named("tiny_image", examples, those(lambda image: min(image.width, image.height) < MIN_SIDE))
  yield from named("extreme_aspect", examples, those(_is_extreme))
  yield from named("blank_image", examples, those(lambda image: image.spread < MIN_SPREAD))
  yield from named("rotated_image", examples, those(lambda image: image.orientation not in (0, 1)))
  for kind, test in (
    ("grey_images", lambda image: image.mode in ("1", "L", "LA") or image.mode.startswith("I")),
    ("cmyk_images", lambda image: image.mode == "CMYK"),
    ("deep_images", lambda image: image.mode.startswith("I")),
    ("alpha_images", lambda image: image.alpha),
    ("animated_images", lambda image: image.frames > 1),
  ):
    bad = those(test)
    if not bad.all():
      yield from named(kind, examples, bad)
  yield from _shortcut(examples, facts)


def _is_extreme(image):
  return max(image.width, image.height) > ASPECT * min(image.width, image.height)


def _wrong_suffix(examples, facts):
  bad, shown = 0, []
  for id, value, image in zip(examples.ids, examples.inputs.array(), facts):
    suffix = pathlib.PurePath(value).suffix.lower() if isinstance(value, str) else ""
    # A phone's MPO is a JPEG with a second picture behind it.
    format = "JPEG" if image and image.format == "MPO" else image and image.format
    if image and suffix in IMAGE_SUFFIXES and _FORMAT_OF[suffix] != format:
      bad += 1
      shown.append(f"{id} ({format})")
  yield from find("wrong_suffix", bad, len(examples), examples=shown)


def _shortcut(examples, facts):
  """Yields classes that (format, mode, width, height) predict, each image by the majority of the others like it."""
  labels = examples.classes
  keys = [image and (image.format, image.mode, image.width, image.height) for image in facts]
  table = collections.defaultdict(collections.Counter)
  for key, label in zip(keys, labels):
    table[key][label] += 1
  overall = collections.Counter(labels)
  # Images of one key and label are alike, and there may be a million of them.
  alike = [(counts, label) for counts in table.values() for label in counts]
  right = sum(counts[label] for counts, label in alike if _majority_of_others(counts, label) == label) / len(labels)
  chance = max(overall.values()) / len(labels)
  if len(overall) < 2 or chance == 1 or (right - chance) / (1 - chance) < SHORTCUT_KAPPA:
    return
  most_frequent = {label: max(table, key=lambda key: table[key][label]) for label in sorted(overall)}
  shown = [
    f"{', '.join(label)!r}: {key[0]} {key[1]} {key[2]} x {key[3]}" for label, key in most_frequent.items() if key
  ]
  detail = f"they alone tell {right:.1%} of the labels, always the majority class {chance:.1%}"
  yield from find("shortcut", len(overall), len(overall), detail, shown)


def _majority_of_others(counts, label):
  others = counts - collections.Counter([label])
  return max(sorted(others), key=others.get) if others else None
