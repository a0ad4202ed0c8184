"""Encoded images to pixels: decoding and resizing for training, evaluation and export."""

import contextlib
import struct
import threading

import tensorflow as tf

from tl_app.preprocessing.base import Preprocess

# Above this size Pillow calls an image a decompression bomb; at 3 bytes a pixel it takes half a gigabyte.
MAX_PIXELS = 178_956_970
# A progressive JPEG may have as many scans as it likes, each as long to decode as the image is large: more than these
# are refused if they go over more pixels than these in all. Programs that write JPEG make ten scans.
_SCANS, _SCANNED_PIXELS = 12, 1_000_000_000
# Images above this size are decoded one at a time, in pixels: threads together would take several gigabytes.
_LARGE, _lock = 16_000_000, threading.Lock()
FORMATS = "JPEG, PNG, GIF, BMP or WebP"


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """Returns uint8 [height, width, 3] for an encoded image (string scalar).

  The content decides the format, not a file name: JPEG (grey and CMYK too), PNG (grey, palette, 16 bits; alpha is
  dropped), BMP, WebP, GIF (first frame). The EXIF orientation is not applied, neither in training nor in serving.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are not an image, or are empty or truncated.
  """
  image = tf.io.decode_image(encoded, channels=3, dtype=tf.uint8, expand_animations=False)
  return tf.ensure_shape(image, [None, None, 3])


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
  """Returns the central square of an image, resized bilinearly with antialiasing, float32 [size, size, 3] in [0, 1].

  Compared with squeezing the whole image, a logistic regression on EfficientNet-Lite0's features gained two points on
  750 flower photographs, and nothing on 900 of TrashNet.

  Args:
    image: uint8 [height, width, 3].
    size: height and width of the result.
  """
  shape = tf.shape(image)
  side = tf.minimum(shape[0], shape[1])
  top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
  square = image[top : top + side, left : left + side]
  # Columns are resized as rows of the transposed image: the kernel then adds whole rows, which is twice as fast. The
  # pixels equal those of tf.image.resize to the bit.
  resized = _transpose(_resize_rows(_transpose(_resize_rows(square, size)), size))
  return tf.clip_by_value(tf.ensure_shape(resized, [size, size, 3]) * (1.0 / 255.0), 0.0, 1.0)


def _resize_rows(image, height):
  """Returns float32 [height, width, 3] of an image [rows, width, 3]."""
  shape = tf.shape(image)
  lines = tf.raw_ops.ScaleAndTranslate(
    images=tf.reshape(image, [1, shape[0], 1, shape[1] * 3]),
    size=[height, 1],
    scale=tf.stack([height / tf.cast(shape[0], tf.float32), 1.0]),
    translation=[0.0, 0.0],
    kernel_type="triangle",
    antialias=True,
  )
  return tf.reshape(lines, [height, shape[1], 3])


def _transpose(image):
  return tf.transpose(image, [1, 0, 2])


def verify(encoded: bytes) -> str | None:
  """Returns why `decode` cannot read an image, or None if it can.

  Args:
    encoded: bytes of the whole file.

  Returns:
    None, or a few words for the user. The pixels are decoded once, unless the image is above `MAX_PIXELS`.
  """
  if not encoded:
    return "it is empty"
  height, width = _header_size(encoded)
  frames = _gif_pixels(encoded) if encoded.startswith(b"GIF8") else 0
  if height * width > MAX_PIXELS:
    return f"it has {width} x {height} pixels, more than {MAX_PIXELS} in all"
  if frames > MAX_PIXELS:
    return f"its frames have {frames} pixels together, more than {MAX_PIXELS}"
  reason = _unread(encoded, height * width)
  if reason:
    return reason
  try:
    with one_at_a_time(height * width + frames), tf.device("CPU"):
      shape = decode(encoded).shape
  except tf.errors.OpError as error:
    if "Unknown image file format" in error.message:
      return f"it is not {FORMATS}"
    return "it is truncated or damaged"
  return None if shape[0] and shape[1] else "it has no pixels"


def one_at_a_time(pixels: int) -> contextlib.AbstractContextManager:
  """Returns a context in which a large image is decoded while no other large one is.

  Args:
    pixels: of the image, or an estimate.
  """
  return _lock if pixels > _LARGE else contextlib.nullcontext()


def _unread(encoded, pixels):
  """Returns why TensorFlow would misread an image, or take too long, or None."""
  scans = encoded.count(b"\xff\xda") if encoded.startswith(b"\xff\xd8") else 0
  if scans > _SCANS and scans * pixels > _SCANNED_PIXELS:
    return f"it is a JPEG of {scans} scans: save it again"
  if encoded.startswith(b"RIFF") and encoded[12:16] == b"VP8X" and encoded[20] & 0x02:
    return "it is an animated WebP: save one of its frames"
  if encoded.startswith(b"BM") and len(encoded) > 50:
    bits, header, colours = encoded[28], *struct.unpack("<I28xI", encoded[14:50])
    palette = encoded[14 + header :][: 4 * (colours or 256)]
    grey = all(palette[i] == palette[i + 1] == palette[i + 2] == i // 4 for i in range(0, len(palette) - 3, 4))
    # The decoder would read the indices of the palette as grey levels.
    if bits < 8 or (bits == 8 and not grey):
      return "it is a BMP with a palette: save it as PNG"
  return None


def _header_size(encoded):
  """Returns (height, width) by the header; (0, 0) if it is not understood, which `decode` then reports."""
  try:
    if encoded.startswith(b"\x89PNG"):
      return struct.unpack(">II", encoded[16:24])[::-1]
    if encoded.startswith(b"GIF8"):
      return struct.unpack("<HH", encoded[6:10])[::-1]
    if encoded.startswith(b"BM"):
      width, height = struct.unpack("<ii", encoded[18:26])
      return abs(height), abs(width)
    if encoded.startswith(b"RIFF"):
      return _webp_size(encoded)
    if encoded.startswith(b"\xff\xd8"):
      return _jpeg_size(encoded)
  except (struct.error, IndexError):
    pass
  return 0, 0


def _gif_pixels(encoded):
  """Returns the pixels of all frames of a GIF, up to the first block that is damaged: the decoder holds every frame."""
  total, position = 0, 13 + _palette_bytes(encoded[10:11])
  while position + 10 <= len(encoded) and encoded[position] in (0x2C, 0x21):
    if encoded[position] == 0x2C:
      width, height = struct.unpack("<HH", encoded[position + 5 : position + 9])
      total += width * height
      position += 11 + _palette_bytes(encoded[position + 9 : position + 10])
    else:
      position += 2
    while position < len(encoded) and encoded[position]:
      position += 1 + encoded[position]
    position += 1
  return total


def _palette_bytes(flags):
  return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _webp_size(encoded):
  """Returns (height, width) of a lossy, lossless or extended WebP (RFC 9649, section 2)."""
  if encoded[12:16] == b"VP8X":
    return tuple(1 + int.from_bytes(encoded[i : i + 3], "little") for i in (27, 24))
  if encoded[12:16] == b"VP8L":
    bits = int.from_bytes(encoded[21:25], "little")
    return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
  return tuple(side & 0x3FFF for side in struct.unpack("<HH", encoded[26:30])[::-1])


def _jpeg_size(encoded):
  """Returns (height, width) of the first frame header (SOF0 to SOF15 without DHT, JPG and DAC; ITU T.81, table B.1)."""
  position = 2
  while True:
    marker = encoded[position + 1]
    if encoded[position] != 0xFF:
      return 0, 0
    if marker == 0xFF:
      position += 1
    elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      return struct.unpack(">HH", encoded[position + 5 : position + 9])
    else:
      position += 2 + struct.unpack(">H", encoded[position + 2 : position + 4])[0]


class ImagePreprocess(Preprocess):
  """Encoded images to the pixels of an image network."""

  def __init__(self, size: int):
    """Args:
    size: height and width of the result in pixels.
    """
    super().__init__(name="image")
    self.size = int(size)
    self.identity = f"central square, bilinear, antialias, {self.size}"

  def one(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns float32 [size, size, 3] in [0, 1] for one encoded image (string scalar), for a parallel `map`."""
    return self.resize(self.decode(encoded))

  def decode(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [height, width, 3] for one encoded image."""
    return decode(encoded)

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """Returns float32 [size, size, 3] in [0, 1] for one decoded image."""
    return resize(image, self.size)

  def __call__(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, size, size, 3] in [0, 1] for encoded images, string [batch]; the batch may be empty."""
    signature = tf.TensorSpec([self.size, self.size, 3], tf.float32)
    return tf.map_fn(self.one, encoded, fn_output_signature=signature)
