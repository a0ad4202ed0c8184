"""`of`: what tells nearly equal examples: the normalised text, or an image's perceptual hash and its look."""

import concurrent.futures
import dataclasses
import functools
import io
import os
import typing
import unicodedata
import warnings

import numpy as np
import PIL.Image
import scipy.fft

from tl_app.data import modalities
from tl_app.data.examples import texts_of
from tl_app.data.splitting import duplicates
from tl_app.progress import counted

# Pillow warns of images of over 89 megapixels; what is read here is small, and twice as many are refused.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)

# Below this many pixels a side, or this spread of grey levels, a hash says nothing: only exact copies are found.
MIN_SIDE = 32
MIN_SPREAD = 2.0
# Two images are nearly equal when their hashes differ in at most this many of 63 bits and the correlation of their
# 16x16 thumbnails reaches MIN_CORRELATION. On 2,527 photographs of TrashNet these give the byte-identical pairs and 16
# shots of one scene, all of them right; at 0.975 two different cans come in. Of 300 photographs all were found again
# at half the size, at JPEG quality 50 and in grey, about half of those that were cropped by 2 % a side.
MAX_DISTANCE = 6
MIN_CORRELATION = 0.98
_SIDE = 32
_THUMBNAIL = 16
# Between the texts of a pair: none has it once it is normalised.
_BETWEEN = " \n "
_APOSTROPHES = "'’‘`´"


class Look(typing.NamedTuple):
  """What an image is, from one quick look at it.

  Attributes:
    format: Pillow's name of the format, e.g. "JPEG".
    mode: Pillow's name of the pixels, e.g. "RGB", "L", "CMYK", "I;16", "RGBA".
    alpha: whether it has transparent pixels to drop.
    width, height: pixels.
    frames: 1, or more of an animation.
    orientation: EXIF orientation, 1 where there is none.
    spread: standard deviation of the grey levels, 0 to 127.5.
    hash: int of 63 bits, or None where the image is too small or too flat.
    thumbnail: uint8 [256], grey.
  """

  format: str
  mode: str
  alpha: bool
  width: int
  height: int
  frames: int
  orientation: int
  spread: float
  hash: int | None
  thumbnail: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fingerprints:
  """Attributes:
  contents: int64 [n], the same for examples of one content.
  texts: list [n] of normalised texts, of a pair both with a line break between them; or None for images.
  looks: list [n] of `Look`, None where Pillow cannot read the image; or None for texts.
  """

  contents: np.ndarray
  texts: list | None = None
  looks: list | None = None

  @functools.cached_property
  def near(self):
    """int64 [n], the same for examples that are equal or nearly equal, directly or through others."""
    if self.looks is None:
      return duplicates.numbered(self.texts)
    return duplicates.connected(self.contents, self._near_images())

  def _near_images(self):
    _, first = np.unique(self.contents, return_index=True)
    places = np.array([i for i in first if self.looks[i] and self.looks[i].hash is not None], np.int64)
    if len(places) < 2:
      return np.zeros((0, 2), np.int64)
    hashes = np.array([self.looks[i].hash for i in places], np.uint64)
    pairs = duplicates.close_pairs(hashes, MAX_DISTANCE)
    thumbnails = np.stack([self.looks[i].thumbnail for i in places])
    return places[pairs[_correlations(thumbnails, pairs) >= MIN_CORRELATION]]


def of(examples, seen):
  """Returns the `Fingerprints` of `Examples`; images are read once for each content that `seen` lacks, in parallel."""
  contents = duplicates.numbered(examples.hashes)
  if examples.modality == "text":
    return Fingerprints(contents, texts=[_BETWEEN.join(map(normalized, texts_of(value))) for value in examples.inputs])
  _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
  hashes = examples.hashes[first]
  known = {key: _from_json(value) for key, value in seen.find(hashes).items()}
  new = first[[key not in known for key in hashes]]
  with concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
    looks = list(counted(pool.map(_look_at, examples.inputs[new]), len(new), "looking at images"))
  found = dict(zip(examples.hashes[new], looks))
  seen.add({key: _as_json(value) for key, value in found.items()})
  known |= found
  return Fingerprints(contents, looks=[known[hashes[i]] for i in inverse])


def normalized(text):
  """Returns a text in NFKC without case, punctuation and runs of white space; the text where nothing is left.

  Letters with their marks, numbers and symbols (emoji) stay.
  """
  return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_KEPT).split()) or text


def look(encoded):
  """Returns the `Look` of an encoded image (bytes), or None where Pillow cannot read it. A JPEG is decoded small."""
  try:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
      mode, (width, height) = image.mode, image.size
      facts = {
        "format": image.format,
        "mode": mode,
        "alpha": mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info,
        "width": width,
        "height": height,
        "frames": getattr(image, "n_frames", 1),
        "orientation": image.getexif().get(0x0112, 1),
      }
      grey = _grey(image)
  except (OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError):
    return None
  spread = float(grey.std())
  telling = min(width, height) >= MIN_SIDE and spread >= MIN_SPREAD
  thumbnail = grey.reshape(_THUMBNAIL, _SIDE // _THUMBNAIL, _THUMBNAIL, _SIDE // _THUMBNAIL).mean(axis=(1, 3))
  return Look(
    **facts, spread=spread, hash=_perceptual_hash(grey) if telling else None, thumbnail=_bytes(thumbnail).ravel()
  )


def _as_json(found):
  return found and found._asdict() | {"thumbnail": found.thumbnail.tobytes().hex()}


def _from_json(value):
  return value and Look(**value | {"thumbnail": np.frombuffer(bytes.fromhex(value["thumbnail"]), np.uint8)})


def _look_at(value):
  encoded, reason = modalities.of("image").encode(value)
  return None if reason else look(encoded)


def _grey(image):
  """Returns float32 [32, 32], the grey levels of an image as a thumbnail, 0 to 255."""
  image.draft("L", (4 * _SIDE, 4 * _SIDE))
  if image.mode.startswith("I"):
    pixels = np.asarray(image, np.float32) / 257
    image = PIL.Image.fromarray(_bytes(pixels))
  return np.asarray(image.convert("L").resize((_SIDE, _SIDE), PIL.Image.Resampling.BOX), np.float32)


def _bytes(pixels):
  return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _perceptual_hash(grey):
  """Returns 63 bits: which of the lowest frequencies of the cosine transform are above their median."""
  lowest = scipy.fft.dctn(grey, norm="ortho")[:8, :8].ravel()[1:]
  return int("".join("1" if bit else "0" for bit in lowest > np.median(lowest)), 2)


def _correlations(thumbnails, pairs):
  """Returns float [m]: the correlation of the grey levels of each pair."""
  values = thumbnails.astype(np.float32)
  values -= values.mean(axis=1, keepdims=True)
  values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
  return np.einsum("ij,ij->i", values[pairs[:, 0]], values[pairs[:, 1]])


class _Kept(dict):
  """A table for `str.translate`: None of an apostrophe, a space for punctuation and controls, else the character."""

  def __missing__(self, code):
    character = chr(code)
    separates = unicodedata.category(character)[0] in "PZC"
    self[code] = None if character in _APOSTROPHES else " " if separates else character
    return self[code]


_KEPT = _Kept()
