"""The whole files that are damaged: small tables of every form, images of every format."""

import csv
import gzip
import io
import json
import random

import numpy as np
import pandas as pd
import PIL.Image

ROWS = 24


def tables(images: list[str]) -> dict[str, list[bytes]]:
  """Returns {suffix: files} of tables with a column of texts and one of labels, the last one with paths of images."""
  rng = random.Random(0)
  frames = [_frame(rng, kind) for kind in ("classes", "numbers", "pairs", "lists")]
  labels = [("good", "bad")[i % 2] for i in range(ROWS)]
  frames.append(pd.DataFrame({"image": [images[i % len(images)] for i in range(ROWS)], "label": labels}))
  files = {
    ".csv": [_written(frames[0], ";")] + [_written(frame, ",") for frame in frames],
    ".tsv": [_written(frame, "\t") for frame in frames],
    ".jsonl": [_lines(frame) for frame in frames],
    ".parquet": [frame.to_parquet() for frame in frames],
    ".xlsx": [_workbook(frame) for frame in (frames[0], frames[1], frames[-1])],
    ".conll": [_tagged(rng), _tagged(rng)],
  }
  return files | {f"{kind}.gz": [gzip.compress(file) for file in files[kind]] for kind in (".csv", ".jsonl")}


def images() -> dict[str, list[bytes]]:
  """Returns {suffix: files} of images: colour, grey, palette, transparent, 16 bits, progressive, animated."""
  pixels = np.random.default_rng(0).integers(0, 256, [24, 20, 3], np.uint8)
  picture = PIL.Image.fromarray(pixels)
  forms = {
    ".png": [(mode, {}) for mode in ("RGB", "L", "P", "RGBA", "1", "I;16")],
    ".jpg": [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})],
    ".gif": [("P", {}), ("P", {"save_all": True, "append_images": [picture.convert("P")] * 3})],
    ".bmp": [("RGB", {}), ("L", {})],
    ".webp": [("RGB", {}), ("RGB", {"lossless": True}), ("RGBA", {})],
  }
  formats = {".jpg": "JPEG"}
  return {
    suffix: [_encoded(picture, mode, formats.get(suffix, suffix[1:].upper()), options) for mode, options in chosen]
    for suffix, chosen in forms.items()
  }


def examples(images: dict[str, list[bytes]]) -> list[list[bytes]]:
  """Returns the records of TFRecord files, serialised tf.train.Example: of texts, and of images.

  Args:
    images: what `images` returned.
  """
  encoded = [file for files in images.values() for file in files]
  texts = [_example(text=f"word{i} word{i % 5}".encode(), label=i % 3) for i in range(ROWS)]
  return [texts, [_example(image=encoded[i % len(encoded)], label=(b"one", b"two")[i % 2]) for i in range(ROWS)]]


def texts() -> dict[str, list[bytes]]:
  """Returns {suffix: files} of texts without labels."""
  lines = [f'line {i} is the one with "{i * i}" and größe' for i in range(2 * ROWS)]
  files = {
    ".txt": ["\n".join(lines), "\r\n\r\n".join(lines)],
    ".jsonl": ["\n".join(json.dumps({"text": x}) for x in lines)],
  }
  files = {suffix: [file.encode() for file in found] for suffix, found in files.items()}
  return files | {f"{suffix}.gz": [gzip.compress(file) for file in found] for suffix, found in files.items()}


def _example(label, **value):
  import tensorflow as tf

  if isinstance(label, int):
    kind = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
  else:
    kind = tf.train.Feature(bytes_list=tf.train.BytesList(value=[label]))
  ((name, content),) = value.items()
  features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])), "label": kind}
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _frame(rng, kind):
  words = [f"word{i}" for i in range(9)]
  texts = [" ".join(rng.choices(words, k=rng.randrange(2, 9))) + f' {i}, "so"\nthere' for i in range(ROWS)]
  labels = {
    "classes": [("good", "bad", "fair")[i % 3] for i in range(ROWS)],
    "numbers": [round(rng.uniform(0, 5), 3) for _ in range(ROWS)],
    "pairs": [str(i % 2) for i in range(ROWS)],
    "lists": [json.dumps(["a", "b"][: 1 + i % 2]) for i in range(ROWS)],
  }
  frame = {"text": texts, "label": labels[kind]}
  return pd.DataFrame(frame | ({"other": texts[::-1]} if kind == "pairs" else {}))


def _written(frame, separator):
  quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
  frame = frame.replace({r"[\n\t]": " "}, regex=True) if separator == "\t" else frame
  return frame.to_csv(index=False, sep=separator, quoting=quoting, escapechar="\\").encode()


def _lines(frame):
  return "".join(json.dumps(record) + "\n" for record in frame.to_dict("records")).encode()


def _workbook(frame):
  import openpyxl

  book = openpyxl.Workbook()
  for row in [list(frame.columns), *frame.to_numpy().tolist()]:
    book.active.append(row)
  target = io.BytesIO()
  book.save(target)
  return target.getvalue()


def _tagged(rng):
  sentences = [
    "".join(f"word{rng.randrange(9)}\t{rng.choice(('O', 'O', 'B-place', 'B-person'))}\n" for _ in range(5))
    for _ in range(ROWS)
  ]
  return "\n".join(sentences).encode()


def _encoded(picture, mode, format, options):
  target = io.BytesIO()
  image = (
    PIL.Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
  )
  image.save(target, format, **options)
  return target.getvalue()
