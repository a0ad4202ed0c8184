"""Images that are nearly equal: by a perceptual hash and the correlation of their thumbnails."""

import concurrent.futures
import dataclasses
import functools
import io
import os
import typing
import warnings

import numpy as np
import PIL.Image
import scipy.fft

from tl_app.data.splitting import duplicates
from tl_app.preprocessing.image import one_at_a_time
from tl_app.terminal.progress import counted


def ignore_warnings() -> None:
  """Silences what Pillow tells without the name of a file, and what training does not read."""
  # Images of over 89 megapixels; what is read here is small, and twice as many are refused.
  warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)
  # Damaged EXIF data and transparent palettes.
  warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(TiffImagePlugin|Image)$")


ignore_warnings()

# Below this many pixels a side, or this spread of grey levels, a hash says nothing: only exact copies are found.
MIN_SIDE = 32
MIN_SPREAD = 2.0
# Two images are nearly equal when their hashes differ in at most this many of 63 bits and the correlation of their
# 16x16 thumbnails reaches MIN_CORRELATION. On 2,527 photographs of TrashNet these give the byte-identical pairs and 16
# shots of one scene, all of them right; at 0.975 two different cans come in. Of 300 photographs all were found again
# at half the size, at JPEG quality 50 and in grey, about half of those that were cropped by 2 % a side.
MAX_DISTANCE = 6
MIN_CORRELATION = 0.98
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_SIDE = 32
_THUMBNAIL = 16


class ImageFacts(typing.NamedTuple):
  """What is known of an image from its header and a thumbnail.

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
class ImageFingerprints:
  """The fingerprints of a column of images.

  Attributes:
    contents: int64 [n], the same for equal contents.
    facts: list [n] of `ImageFacts`, None where Pillow cannot read the image.
  """

  contents: np.ndarray
  facts: list

  @functools.cached_property
  def near(self) -> np.ndarray:
    """int64 [n], the same for images that are equal or nearly equal, directly or through others."""
    return duplicates.connected(self.contents, self._near_pairs())

  def _near_pairs(self):
    _, first = np.unique(self.contents, return_index=True)
    positions = np.array([i for i in first if self.facts[i] and self.facts[i].hash is not None], np.int64)
    if len(positions) < 2:
      return np.zeros((0, 2), np.int64)
    hashes = np.array([self.facts[i].hash for i in positions], np.uint64)
    pairs = duplicates.close_pairs(hashes, MAX_DISTANCE)
    thumbnails = np.stack([self.facts[i].thumbnail for i in positions])
    return positions[pairs[_correlations(thumbnails, pairs) >= MIN_CORRELATION]]


def fingerprint(images: np.ndarray, hashes: np.ndarray, encode: typing.Callable, index) -> ImageFingerprints:
  """Returns the `ImageFingerprints` of images. They are read once for each content that `index` lacks, in parallel.

  Args:
    images: object array [n], as a `Column` holds them.
    hashes: object array [n] of str, their content hashes.
    encode: function, image -> (encoded bytes, reason why it cannot be read).
    index: `DecodedImageIndex`, which remembers the facts.
  """
  contents = duplicates.numbered(hashes)
  _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
  distinct = hashes[first]
  known = {key: _from_json(value) for key, value in index.find(distinct).items()}
  new = first[[key not in known for key in distinct]]

  def read(image):
    encoded, reason = encode(image)
    return None if reason else image_facts(encoded)

  with concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
    facts = list(counted(pool.map(read, images[new]), len(new), "comparing images"))
  added = dict(zip(hashes[new], facts))
  index.add({key: _as_json(value) for key, value in added.items()})
  known |= added
  return ImageFingerprints(contents, [known[distinct[i]] for i in inverse])


def image_facts(encoded: bytes) -> ImageFacts | None:
  """Returns the `ImageFacts` of an encoded image, or None if Pillow cannot read it. A JPEG is decoded small."""
  try:
    # Other readers of Pillow run programs, as that of EPS.
    with PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
      mode, (width, height) = image.mode, image.size
      facts = {
        "format": image.format,
        "mode": mode,
        "alpha": mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info,
        "width": width,
        "height": height,
        "frames": getattr(image, "n_frames", 1),
        "orientation": _orientation(image),
      }
      with one_at_a_time(width * height):
        grey = _grey(image)
  except (OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError):
    return None
  spread = float(grey.std())
  telling = min(width, height) >= MIN_SIDE and spread >= MIN_SPREAD
  thumbnail = grey.reshape(_THUMBNAIL, _SIDE // _THUMBNAIL, _THUMBNAIL, _SIDE // _THUMBNAIL).mean(axis=(1, 3))
  return ImageFacts(
    **facts, spread=spread, hash=_perceptual_hash(grey) if telling else None, thumbnail=_bytes(thumbnail).ravel()
  )


def _orientation(image):
  """Returns the EXIF orientation; 1 where there is none, or where it is no number of its kind, 1 to 8."""
  found = image.getexif().get(0x0112)
  return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _as_json(found):
  return found and found._asdict() | {"thumbnail": found.thumbnail.tobytes().hex()}


def _from_json(value):
  return value and ImageFacts(**value | {"thumbnail": np.frombuffer(bytes.fromhex(value["thumbnail"]), np.uint8)})


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
