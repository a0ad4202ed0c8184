"""Decides which examples are usable: readable, labelled, decodable. Hashes their content on the way."""

import concurrent.futures
import hashlib
import logging
import os

from tl_app.data import examples

log = logging.getLogger(__name__)

_PROGRESS_EVERY = 2000


def check(raw, verify=None, known=frozenset()):
  """Returns the good rows, their content hashes, and the bad ones as (id, reason), each in the order of `raw.rows`.

  Args:
    raw: `Raw`.
    verify: callable, encoded image bytes -> None, or the reason why training could not decode them. Default: the
      decoder that training uses.
    known: content hashes of images that were decoded before: these are read and hashed, but not decoded again.
  """
  function = _check_text
  if raw.modality == "image":
    if verify is None:
      from tl_app.preprocessing import image

      verify = image.verify

    def function(row):
      return _check_image(row, verify, known)

  rows, hashes, bad = [], [], []
  for row, digest, reason in _map(function, raw.rows, threads=raw.modality == "image"):
    if reason:
      bad.append((row.id, reason))
    else:
      rows.append(row)
      hashes.append(digest)
  return rows, hashes, bad


def read_image(value):
  """Returns (encoded bytes, reason) of an image; of one that cannot be read b"" and the reason why.

  Args:
    value: str (a path), bytes, `Record`, or None.
  """
  if not value and value != b"":
    return b"", "it has no image"
  try:
    if isinstance(value, str):
      value.encode("utf-8")
    return examples.encoded(value), ""
  except UnicodeEncodeError:
    return b"", "the file name is not valid UTF-8"
  except (OSError, ValueError) as error:
    return b"", f"{value} cannot be read: {getattr(error, 'strerror', None) or error}"


def encode_text(text):
  """Returns (UTF-8 bytes, reason) of a text; of one that cannot be encoded b"" and the reason why."""
  try:
    return text.encode("utf-8"), ""
  except UnicodeEncodeError:
    return b"", "the text is not valid Unicode"


def _check_text(row):
  reason = row.reason or _label_fault(row)
  texts = examples.texts_of(row.input)
  if not reason and not all(text and text.strip() for text in texts):
    reason = "the text is empty" if len(texts) == 1 else "one of the two texts is empty"
  if reason:
    return row, "", reason
  encoded, reasons = zip(*map(encode_text, texts))
  return row, examples.content_hash(encoded), next(filter(None, reasons), "")


def _check_image(row, verify, known):
  reason = row.reason or _label_fault(row)
  if reason:
    return row, "", reason
  encoded, reason = read_image(row.input)
  digest = hashlib.sha256(encoded).hexdigest()
  return row, digest, reason or (None if digest in known else verify(encoded))


def _label_fault(row):
  if not (row.label and row.label.strip()):
    return "it has no label"
  return "the label is not valid Unicode" if encode_text(row.label)[1] else ""


def _map(function, rows, threads):
  """Yields `function(row)` in the order of `rows`; images in threads, with a log line every so many."""
  if not threads:
    yield from map(function, rows)
    return
  # One block at a time: a future for every row of a large data set would cost more memory than the rows.
  with concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
    for start in range(0, len(rows), _PROGRESS_EVERY):
      if len(rows) > _PROGRESS_EVERY:
        log.info("Checking images: %s of %s", f"{start:,}", f"{len(rows):,}")
      yield from pool.map(function, rows[start : start + _PROGRESS_EVERY])
