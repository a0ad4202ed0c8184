"""The one decode-and-resize: formats, damage, and the same numbers alone, in a batch and after an export."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tl_app.preprocessing import image


def _photo(height=48, width=64):
  y, x = np.mgrid[0:height, 0:width]
  pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1)
  return Image.fromarray(pixels.astype(np.uint8))


def _encode(picture, kind, **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


PHOTO = _photo()
GREY = PHOTO.convert("L")
WHOLE = {
  "jpeg": (_encode(PHOTO, "JPEG", quality=95), PHOTO, 2),
  "progressive jpeg": (_encode(PHOTO, "JPEG", quality=95, progressive=True), PHOTO, 2),
  "cmyk jpeg": (_encode(PHOTO.convert("CMYK"), "JPEG", quality=95), PHOTO, 2),
  "grey jpeg": (_encode(GREY, "JPEG", quality=95), GREY, 2),
  "png": (_encode(PHOTO, "PNG"), PHOTO, 0),
  "alpha png": (_encode(PHOTO.convert("RGBA"), "PNG"), PHOTO, 0),
  "grey png": (_encode(GREY, "PNG"), GREY, 0),
  "grey alpha png": (_encode(GREY.convert("LA"), "PNG"), GREY, 0),
  "palette png": (_encode(PHOTO.quantize(64), "PNG"), PHOTO.quantize(64), 0),
  "one-bit png": (_encode(PHOTO.convert("1"), "PNG"), PHOTO.convert("1"), 0),
  "16-bit png": (_encode(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"), GREY, 0),
  "bmp": (_encode(PHOTO, "BMP"), PHOTO, 0),
  "32-bit bmp": (_encode(PHOTO.convert("RGBA"), "BMP"), PHOTO, 0),
  "gif": (_encode(PHOTO.quantize(64), "GIF"), PHOTO.quantize(64), 0),
  "moving gif": (_encode(PHOTO.quantize(64), "GIF", save_all=True, append_images=[GREY]), PHOTO.quantize(64), 4),
}


@pytest.mark.parametrize("name", WHOLE)
def test_decode_gives_the_pixels(name):
  encoded, reference, tolerance = WHOLE[name]
  assert image.verify(encoded) is None
  pixels = image.decode(tf.constant(encoded))
  assert pixels.dtype == tf.uint8 and pixels.shape == (48, 64, 3)
  difference = np.abs(pixels.numpy().astype(int) - np.asarray(reference.convert("RGB")).astype(int))
  assert difference.mean() <= tolerance


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "cmyk jpeg", "png", "bmp", "gif"])
@pytest.mark.parametrize("missing", [0.9, 0.5, 0.02])
def test_truncated_files_are_found(name, missing):
  encoded = WHOLE[name][0]
  assert "truncated" in image.verify(encoded[: -max(2, int(missing * len(encoded)))])


@pytest.mark.parametrize(
  "encoded, reason",
  [
    (b"", "empty"),
    (b"plain text, not an image", "not JPEG"),
    (b"<html></html>", "not JPEG"),
    (b"\xff\xd8\xff", "trunc"),
  ],
)
def test_what_is_no_image_is_told(encoded, reason):
  assert reason in image.verify(encoded)


def test_what_tensorflow_would_misread_is_told():
  rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
  for picture in (rgb.convert("P"), rgb.convert("1")):
    assert image.verify(_encode(picture, "BMP")) == "it is a BMP with a palette: save it as PNG"
  for picture in (rgb, rgb.convert("L"), rgb.convert("RGBA")):
    encoded = _encode(picture, "BMP")
    assert image.verify(encoded) is None
    np.testing.assert_array_equal(image.decode(encoded), picture.convert("RGB"))
  moving = _encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)], lossless=True)
  assert image.verify(moving) == "it is an animated WebP: save one of its frames"
  for options in ({"lossless": True}, {"lossless": False}, {"lossless": True, "exif": b"Exif\0\0"}):
    encoded = _encode(rgb, "WEBP", **options)
    assert image.verify(encoded) is None and image._header_size(encoded) == (20, 30)


def test_a_damaged_png_is_found():
  encoded = bytearray(WHOLE["png"][0])
  encoded[len(encoded) // 2] ^= 0xFF
  assert "damaged" in image.verify(bytes(encoded))


def _chunk(kind, data):
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _huge_jpeg():
  encoded = WHOLE["jpeg"][0]
  at = encoded.index(b"\xff\xc0")
  return encoded[: at + 5] + struct.pack(">HH", 60000, 50000) + encoded[at + 9 :]


@pytest.mark.parametrize(
  "encoded",
  [
    b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 50000, 60000, 8, 2, 0, 0, 0)) + _chunk(b"IEND", b""),
    _huge_jpeg(),
    b"GIF89a" + struct.pack("<HH", 50000, 60000),
    b"BM" + bytes(16) + struct.pack("<ii", 50000, -60000),
  ],
  ids=["png", "jpeg", "gif", "bmp"],
)
def test_decompression_bombs_are_refused_by_their_header(encoded):
  assert image.verify(encoded) == f"it has 50000 x 60000 pixels, more than {image.MAX_PIXELS} in all"


def test_resize_keeps_the_range_and_the_aspect():
  wide = np.zeros((100, 300, 3), np.uint8)
  wide[:, 100:200] = 255
  result = image.resize(tf.constant(wide), 32)
  assert result.dtype == tf.float32 and result.shape == (32, 32, 3)
  np.testing.assert_allclose(result, 1.0, atol=1e-6)


def test_resize_to_the_same_size_changes_nothing():
  pixels = np.asarray(_photo(32, 32))
  np.testing.assert_allclose(image.resize(tf.constant(pixels), 32), pixels / 255.0, atol=1e-6)


def test_small_details_are_averaged_not_dropped():
  stripes = np.zeros((256, 256, 3), np.uint8)
  stripes[:, ::4] = 255
  result = image.resize(tf.constant(stripes), 32).numpy()
  assert abs(result.mean() - 0.25) < 0.01 and result.max() < 0.5


def test_batch_single_and_export_agree(tmp_path):
  preprocess = image.ImagePreprocess(32)
  batch = tf.constant([encoded for encoded, _, _ in WHOLE.values()])
  expected = np.stack([preprocess.one(encoded) for encoded in batch])
  assert expected.min() >= 0 and expected.max() <= 1
  np.testing.assert_array_equal(preprocess(batch), expected)
  assert preprocess(batch[:0]).shape == (0, 32, 32, 3)

  module = tf.Module()
  module.preprocess = preprocess
  module.serve = tf.function(lambda encoded: module.preprocess(encoded), [tf.TensorSpec([None], tf.string)])
  tf.saved_model.save(module, str(tmp_path / "saved"))
  np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "saved")).serve(batch), expected)


@pytest.mark.parametrize("height, width, size", [(215, 320, 224), (500, 333, 96), (1, 1, 8), (7, 40, 32), (64, 64, 64)])
def test_resize_gives_the_pixels_of_tf_image(height, width, size):
  pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  square = pixels[top : top + side, left : left + side]
  expected = tf.image.resize(square, (size, size), method="bilinear", antialias=True) / 255.0
  np.testing.assert_allclose(image.resize(tf.constant(pixels), size), expected, rtol=0, atol=1e-6)


def test_the_page_about_exports_names_the_formats():
  page = pathlib.Path(__file__).parents[2] / "docs/export.md"
  assert f"bytes of {image.FORMATS} files" in page.read_text(encoding="utf-8")
