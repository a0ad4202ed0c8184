"""`Corpus`: the unlabelled data of a pretraining run. Labels of the data set, if it has any, are not read."""

import dataclasses
import hashlib
import json
import pathlib
import typing
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data import modalities
from tl_app.data.corpus import order, text_store
from tl_app.data.corpus.text_store import TextRows, TextWriter
from tl_app.data.examples import encoded
from tl_app.data.pipeline import AHEAD, PARALLEL, untuned
from tl_app.data.readers import forms, sources, text_files
from tl_app.errors import UserError
from tl_app.errors.counts import number_of

# More held-out examples would make each epoch's evaluation long, and hardly more exact.
MOST_HELD_OUT = 2000
# Size of English text divided by that of its .gz file, and of texts with their index divided by that of the texts.
_COMPRESSED, _WITH_INDEX = 3, 1.3
# Bad examples whose places are kept.
_LISTED = 50


@dataclasses.dataclass(frozen=True)
class ImageRows:
  """Images where they lie.

  Attributes:
    values: object array [n], as a `Column` holds them.
  """

  values: np.ndarray

  def __len__(self):
    return len(self.values)

  def read(self, positions: np.ndarray) -> np.ndarray:
    """Returns the encoded images at int64 [k] positions, object [k] of bytes."""
    found = np.empty(len(positions), object)
    found[:] = [encoded(value) for value in self.values[positions]]
    return found

  def take(self, positions: np.ndarray) -> "ImageRows":
    """Returns the rows at the positions, int64 [k]."""
    return ImageRows(self.values[positions])


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Unlabelled examples on disk.

  Attributes:
    modality: name of the `Modality`.
    train: the training rows: `len`, and `read(int64 [k])` -> object [k] of bytes (UTF-8 texts, encoded images).
    held_out: the rows that the objective is measured on.
    digest: sha256 hex of the contents of all examples, in order.
    facts: what splits.json and the model card tell: {"source", "examples", "duplicates", ..}.
    notes: lines worth telling the user.
  """

  modality: str
  train: TextRows | ImageRows
  held_out: TextRows | ImageRows
  digest: str
  facts: dict
  notes: list

  def batches(self, batch_size: int, seed: int, skipped: int = 0) -> tf.data.Dataset:
    """Returns the endless dataset of training batches (raw, rows, number), see `raw_batches`.

    Args:
      batch_size: examples in a batch, at most the number of training examples.
      seed: of the order. Texts of a batch are alike in length.
      skipped: number of batches to skip at the beginning; they are not read.
    """
    sizes = self.train.sizes if isinstance(self.train, TextRows) else None
    return raw_batches(self.train, order.Batches(len(self.train), batch_size, seed, sizes), skipped)

  def held_out_batches(self, batch_size: int) -> tf.data.Dataset:
    """Returns the dataset of the held-out examples, once, in full batches, the shortest texts first.

    The last examples come in a smaller batch.
    """
    positions = np.arange(len(self.held_out))
    if isinstance(self.held_out, TextRows):
      positions = positions[np.argsort(self.held_out.sizes(positions), kind="stable")]
    count = -(-len(positions) // batch_size)
    return raw_batches(self.held_out, lambda i: positions[i * batch_size : (i + 1) * batch_size]).take(count)


def raw_batches(
  rows: TextRows | ImageRows, positions_of: typing.Callable[[int], np.ndarray], first: int = 0
) -> tf.data.Dataset:
  """Returns the endless dataset of (raw, rows, number).

  `raw` is string [batch]: UTF-8 texts or encoded images; `rows` int64 [batch], positions in `rows`; `number` int64, the
  number of the batch, from `first`.

  Args:
    rows: what is read.
    positions_of: function, number of a batch -> int64 [batch] positions.
    first: number of the first batch.
  """

  def read(number):
    positions = positions_of(int(number))
    return rows.read(positions), positions

  def batch(number):
    raw, positions = tf.numpy_function(read, [number], [tf.string, tf.int64])
    return tf.ensure_shape(raw, [None]), tf.ensure_shape(positions, [None]), number

  return tf.data.Dataset.counter(first).map(batch, num_parallel_calls=PARALLEL)


def stream(batches: tf.data.Dataset, example: typing.Callable) -> tf.data.Dataset:
  """Returns the dataset of what `example` makes of (raw, rows, number); it prepares its next elements meanwhile."""
  return untuned(batches.map(example, num_parallel_calls=PARALLEL).prefetch(AHEAD))


def load(config: Config, assets: Assets, directory: pathlib.Path, divided: bool = True) -> Corpus:
  """Returns the `Corpus` of --dataset, with --validation_dataset as its held-out part if it is given.

  Texts are copied into `directory`, which the corpus reads as long as it is used.

  Args:
    config: the `Config`.
    assets: the `Assets`.
    directory: an empty directory.
    divided: whether both parts must have examples; otherwise one of them may be empty.

  Raises:
    UserError: the data cannot be read, or are too few.
  """
  form, _ = forms.parse(config.dataset, "dataset")
  loader = _Loader(config, assets, directory, divided)
  if form == "texts":
    loader.add_texts(texts_of(config, "dataset", loader.notes), held_out=False)
  else:
    loader.add_set("dataset", held_out=False)
  if config.validation_dataset:
    if forms.parse(config.validation_dataset, "validation_dataset")[0] == "texts":
      loader.add_texts(texts_of(config, "validation_dataset", loader.notes), held_out=True)
    else:
      loader.add_set("validation_dataset", held_out=True)
  return loader.corpus()


def size_of_texts(config: Config) -> float:
  """Returns about how many bytes `load` writes for the texts: data sets: their own size, and that of the index.

  A data set of another form is small beside them, or holds images, which are not copied.
  """
  total = 0.0
  for flag in ("dataset", "validation_dataset"):
    name = getattr(config, flag)
    form, path = forms.parse(name, flag) if name else ("", "")
    if form == "texts":
      found = text_files.find(path, f"--{flag}={name}", config.text_unit).paths
      total += sum(file.stat().st_size * (_COMPRESSED if file.suffix == ".gz" else 1) for file in found)
  return total * _WITH_INDEX


def texts_of(config: Config, flag: str, notes: list[str]) -> Iterator[text_files.Text]:
  """Returns the `Text`s of a texts: data set.

  Args:
    config: the `Config`.
    flag: the flag that names the data set.
    notes: list that gets lines worth telling the user.

  Raises:
    UserError: there is no such file.
  """
  name = getattr(config, flag)
  what = f"--{flag}={name}"
  files = text_files.find(forms.parse(name, flag)[1], what, config.text_unit)
  notes += files.notes
  return text_files.read(files, config.text_column, what)


class _Loader:
  """Collects the examples of the data sets of a run."""

  def __init__(self, config, assets, directory, divided):
    self.notes = []
    self._config, self._assets, self._directory, self._divided = config, assets, directory, divided
    self._writer, self._images, self._bad, self._count_bad = None, {}, [], 0

  def add_texts(self, texts, held_out):
    """Adds the `Text`s of files."""
    if self._images:
      raise UserError(f"--dataset={self._config.dataset} holds images, --validation_dataset texts")
    self._writer = self._writer or TextWriter(self._directory)
    for text in texts:
      if text.reason:
        self._add_bad(text.id, text.reason, "validation_dataset" if held_out else "dataset")
      else:
        self._writer.add(text.text, held_out)

  def add_set(self, flag, held_out):
    """Adds the examples of a data set of another form, without the labels and without its test split."""
    raw = sources.unlabelled(getattr(self._config, flag), flag, self._config, self._assets)
    (modality,) = set(raw.columns.values())
    rows = [row for row in raw.rows if row.split != "test"]
    if len(rows) < len(raw.rows):
      self.notes.append(f"--{flag}: its test split is not read ({number_of(len(raw.rows) - len(rows), 'example')})")
    self.notes += raw.notes
    given = [held_out or row.split == "validation" for row in rows]
    if modalities.of(modality).varies_in_length:
      self.add_texts(_texts_of_rows(rows), held_out) if len(set(given)) < 2 else self._add_both(rows, given)
    else:
      self._add_images(rows, given, flag, modalities.of(modality))

  def _add_both(self, rows, given):
    for held_out in (True, False):
      self.add_texts(_texts_of_rows([row for row, out in zip(rows, given) if out == held_out]), held_out)

  def _add_images(self, rows, given, flag, modality):
    from tl_app.data.readers import verify

    if self._writer:
      raise UserError(f"--{flag}={getattr(self._config, flag)} holds images, --dataset texts")
    usable, digests, bad = verify.check_inputs(modality, rows)
    for id, reason in bad:
      self._add_bad(id, reason, flag)
    held_out = {row.id: out for row, out in zip(rows, given)}
    for row, digest in zip(usable, digests):
      self._images.setdefault(digest, []).append((row.values[0], held_out[row.id]))

  def _add_bad(self, id, reason, flag):
    if self._config.on_bad_example == "fail":
      name = getattr(self._config, flag)
      raise UserError(f"--{flag}={name}: {id}: {reason}: fix or remove it, or pass --on_bad_example=skip")
    self._count_bad += 1
    if len(self._bad) < _LISTED:
      self._bad.append({"id": id, "reason": reason})

  def corpus(self):
    """Returns the `Corpus`."""
    config = self._config
    if self._writer:
      train, held_out, facts = self._divided_texts()
      digest = train.digest()
      modality = "text"
    else:
      train, held_out, facts = self._divided_images()
      digest = self._digest_of_images()
      modality = "image"
    if config.max_examples and config.max_examples < len(train):
      train = train.take(order.permuted(np.arange(config.max_examples), len(train), config.split_seed))
    facts |= {"train": len(train), "held_out": len(held_out), "bad_examples": self._count_bad, "bad": self._bad}
    if self._count_bad:
      self.notes.append(f"bad examples that were removed: {self._count_bad:,}, e.g. {self._bad[0]['id']}")
    if facts["duplicates"]:
      noun = modalities.of(modality).plural
      self.notes.append(f"{noun} that repeat an earlier one, which are read once: {facts['duplicates']:,}")
    return Corpus(modality, train, held_out, digest, {"source": config.dataset} | facts, self.notes)

  def _divided_texts(self):
    writer, config = self._writer, self._config
    writer.finish()
    if not writer.passages:
      raise UserError(f"--dataset={config.dataset} holds no text: its files are empty or blank")
    fraction = min(config.validation_fraction, MOST_HELD_OUT / writer.passages)
    train, held_out, repeats = text_store.divide(self._directory, fraction, config.split_seed)
    self._need_both(train, held_out)
    if len(held_out) > 2 * MOST_HELD_OUT:
      held_out = held_out.take(np.arange(2 * MOST_HELD_OUT))
    if writer.passages > writer.texts:
      self.notes.append(
        f"long texts are read in passages of at most {text_store.PASSAGE:,} characters: "
        f"{number_of(writer.texts, 'text')}, {number_of(writer.passages, 'passage')}"
      )
    return train, held_out, {"examples": writer.texts, "passages": writer.passages, "duplicates": repeats}

  def _digest_of_images(self):
    # The contents are the keys.
    rows = [[digest, *(out for _, out in members)] for digest, members in self._images.items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

  def _divided_images(self):
    config, images = self._config, self._images
    if not images:
      raise UserError(f"--dataset={config.dataset} holds no image")
    total = sum(map(len, images.values()))
    given = any(out for members in images.values() for _, out in members)
    limit = min(config.validation_fraction, MOST_HELD_OUT / len(images)) * (2**64 - 1)
    parts = {True: [], False: []}
    for digest, members in images.items():
      drawn = int.from_bytes(bytes.fromhex(digest)[:8], "little") ^ (config.split_seed * 0x9E3779B97F4A7C15 % 2**64)
      out = any(one for _, one in members) if given else int(order.mixed(np.array([drawn], np.uint64))[0]) < limit
      parts[out].append(members[0][0])
    train, held_out = (ImageRows(_objects(parts[out])) for out in (False, True))
    self._need_both(train, held_out)
    return train, held_out, {"examples": total, "duplicates": total - len(images)}

  def _need_both(self, train, held_out):
    for part, name in ((train, "to train on"), (held_out, "to hold out")):
      if self._divided and not len(part):
        found = number_of(len(train) + len(held_out), "different example")
        raise UserError(
          f"--dataset={self._config.dataset} has {found} and none of them {name}: "
          "add examples, raise --validation_fraction, or give --validation_dataset"
        )


def _objects(values):
  found = np.empty(len(values), object)
  found[:] = values
  return found


def _texts_of_rows(rows):
  """Yields the `Text`s of the rows of a labelled data set; of a pair both."""
  for row in rows:
    for value in row.values:
      if not row.reason and value and value.strip():
        yield text_files.Text(row.id, value)
    if row.reason:
      yield text_files.Text(row.id, reason=row.reason)
