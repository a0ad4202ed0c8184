"""Decides which examples are usable: readable, labelled, decodable. Hashes their content on the way."""

import concurrent.futures
import hashlib
import itertools
import os

from tl_app.data import modalities
from tl_app.data.examples import content_hash
from tl_app.terminal import progress

# Rows that wait for a thread: a future for each row of a large data set would cost more memory than the rows.
_BLOCK = 2000


def check(raw, verify=None, known=frozenset()):
  """Returns the usable rows, their content hashes, and the bad ones as (id, reason), each in the order of `raw.rows`.

  Args:
    raw: `Raw`.
    verify: function, encoded input -> None, or the reason why training could not decode it, of the modalities that
      are decoded. Default: that of the modality.
    known: content hashes of inputs that were decoded before: these are read and hashed, but not decoded again.
  """
  columns = {name: modalities.of(modality) for name, modality in raw.columns.items()}

  def function(row):
    return _check(row, columns, verify, known)

  return _usable(_map(function, raw.rows, threads=any(m.is_decoded for m in columns.values())))


def check_inputs(modality, rows):
  """Returns the rows of which the input is usable, their content hashes, and the bad ones as (id, reason), in order.

  Args:
    modality: the `Modality` of the one input of each row.
    rows: list of `Row`; their labels are not looked at.
  """
  return _usable(_map(lambda row: _check_input(row, modality), rows, threads=modality.is_decoded))


def _usable(checked):
  """Returns (rows, content hashes, [(id, reason)]) of the results (row, hash, reason) of a check."""
  rows, hashes, bad = [], [], []
  for row, digest, reason in checked:
    if reason:
      bad.append((row.id, reason))
    else:
      rows.append(row)
      hashes.append(digest)
  return rows, hashes, bad


def _check_input(row, modality):
  if row.reason:
    return row, "", row.reason
  encoded, reason = modality.encode(row.values[0])
  reason = reason or modality.verify(encoded)
  return row, "" if reason else content_hash([encoded]), reason


def _check(row, columns, verify, known):
  """Returns (row, content hash, reason); the reason is empty where the row is usable."""
  reason = row.reason or _label_fault(row)
  if reason:
    return row, "", reason
  content = []
  for (name, modality), value in zip(columns.items(), row.values, strict=True):
    encoded, reason = modality.encode(value)
    if not reason and hashlib.sha256(encoded).hexdigest() not in known:
      reason = (verify if verify and modality.is_decoded else modality.verify)(encoded)
    if reason:
      return row, "", reason if len(columns) == 1 else f"--{name}_column: {reason}"
    content.append(encoded)
  return row, content_hash(content), ""


def _label_fault(row):
  if not (row.label and row.label.strip()):
    return "it has no label"
  try:
    row.label.encode("utf-8")
  except UnicodeEncodeError:
    return "the label is not valid Unicode"
  return ""


def _map(function, rows, threads):
  """Yields `function(row)` in the order of `rows`; with `threads` in several, and with a bar."""
  if not threads:
    yield from map(function, rows)
    return
  with concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
    blocks = (pool.map(function, rows[start : start + _BLOCK]) for start in range(0, len(rows), _BLOCK))
    yield from progress.counted(itertools.chain.from_iterable(blocks), len(rows), "reading images")
