"""`Image`: inputs are encoded images: paths of files, bytes, or records of a TFRecord file."""

import base64
import math
import re

from tl_app import files
from tl_app.data.examples import AugmentedImage, content_hash, encoded
from tl_app.data.modalities import near_paths
from tl_app.data.modalities.base import Modality

# An image of one black pixel. TensorFlow's convolutions on a CPU (2.21, oneDNN) return an empty batch as it is, without
# the channels of their output.
_BLANK = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)
# Pixels of the longer side of a thumbnail in the report.
THUMBNAIL = 128


class Image(Modality):
  """Encoded images, which are read and decoded one at a time and resized to the size of the network."""

  name = "image"
  plural = "images"
  column_flag = "image_column"
  flags = ("image_size", "pixels", "mixup", "cutmix", "crop_scale", "color_jitter", "view_flip")
  predict_sources = "an image, a directory of images, or a table of their paths ({tables})"
  encoded_form = "the bytes of one encoded image"
  is_decoded = True
  # Photographs are learnt in fewer steps than texts, and a step takes longer: docs/results.md, "Few examples".
  few_steps = 60
  # They take more than half of the time of a step; their outputs are computed once: docs/results.md, "Few examples".
  few_frozen = 0.3
  units = "regions"
  prefers_openvino = True
  augmentations = ("light",)
  blank = _BLANK

  @property
  def served_form(self):
    from tl_app.preprocessing import image

    return f"{image.FORMATS} files, as bytes"

  def learning_rate(self, feature_size):
    return 3e-4

  def locate(self, cell, table):
    """Paths are relative to the table, absolute, or begin with ~; see `near_paths.find` for others."""
    if re.match(r"[A-Za-z][\w+.-]*://", cell):
      return None, f"{cell} is an address: download the images and give their paths"
    path, reason = near_paths.find(cell, table.parent)
    return path or None, reason

  def from_bytes(self, data, store):
    return store(data)

  def encode(self, value):
    if not value and value != b"":
      return b"", "it has no image"
    try:
      if isinstance(value, str):
        value.encode("utf-8")
      content = encoded(value)
      is_pointer = files.is_lfs_pointer(content)
      return content, "it is a pointer of Git LFS, not the image: run git lfs pull" if is_pointer else ""
    except UnicodeEncodeError:
      return b"", "the file name is not valid UTF-8"
    except (OSError, ValueError) as error:
      return b"", f"{value} cannot be read: {getattr(error, 'strerror', None) or error}"

  def verify(self, encoded):
    from tl_app.preprocessing import image

    return image.verify(encoded)

  def fingerprint(self, values, hashes, index):
    from tl_app.data.splitting import image_fingerprints

    return image_fingerprints.fingerprint(values, hashes, self.encode, index)

  def slice_values(self, values, hashes, index):
    """The pixels of an image, and its mean grey level, 0 to 255; NaN where Pillow cannot read it."""
    facts = self.fingerprint(values, hashes, index).facts
    return {
      "pixels": [float(found.width * found.height) if found else math.nan for found in facts],
      "brightness": [round(float(found.thumbnail.mean()), 1) if found else math.nan for found in facts],
    }

  def training_steps(self, inputs, preprocess, augment=None):
    from tl_app.data import image_reader

    read, copy = image_reader.reader(inputs.array())
    return {
      "read": lambda i, *_: read(i),
      "decode": lambda encoded, *_: preprocess.decode(encoded),
      "resize": lambda image, *_: preprocess.resize(image),
      **({"copy": lambda image, _, i: copy(image, i)} if copy else {}),
      **({"augment": lambda image, number, _: augment(image, number)} if augment else {}),
    }

  def inference_step(self, inputs, preprocess):
    from tl_app.data import image_reader

    read, copy = image_reader.reader(inputs.array())
    return lambda i: copy(preprocess.one(read(i)), i) if copy else preprocess.one(read(i))

  def augmentation(self, name, inputs, seed):
    from tl_app.data.augmentation import images

    return images.Augment(name, seed)

  def describe_augmentation(self, name):
    from tl_app.data.augmentation import images

    return images.described(name)

  def augmented_copy(self, row, digest, augment, number):
    (image,) = row
    return (AugmentedImage(image, augment, number),), content_hash(
      [digest.encode(), augment.identity.encode(), b"%d" % number]
    )

  def preview(self, row):
    """The image is decoded as for training: what TensorFlow can read is what the model has seen."""
    import tensorflow as tf

    from tl_app.preprocessing import image

    pixels = image.decode(tf.constant(encoded(*row))).numpy()
    if max(pixels.shape[:2]) > THUMBNAIL:
      pixels = tf.image.resize(pixels, (THUMBNAIL, THUMBNAIL), preserve_aspect_ratio=True, antialias=True)
    thumbnail = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8), quality=85)
    return {"image": f"data:image/jpeg;base64,{base64.b64encode(thumbnail.numpy()).decode()}"}
