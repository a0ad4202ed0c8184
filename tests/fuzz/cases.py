"""One damaged file through reading, checking and predict, or the reading of a pretraining: a result, or one line."""

import contextlib
import dataclasses
import io
import json
import pathlib
import random
import resource
import tempfile
import time

import numpy as np
import tensorflow as tf

from tests.fuzz import mutations, originals
from tl_app import files, workdir
from tl_app.assets import Assets
from tl_app.commands import check, early_checks, predict
from tl_app.config import Config
from tl_app.data.corpus import corpus as corpora
from tl_app.errors import RunFailed, UserError
from tl_app.preprocessing import image

SECONDS, BYTES = 10, 1 << 30
# Images of one case: they are checked together, as a folder.
IMAGES = 10
_TASK = {"name": "single_label", "names": ["high", "low"]}


@dataclasses.dataclass
class Outcome:
  """What became of a case.

  Attributes:
    fault: what is wrong with the program, or "".
    answered: whether some rows had answers.
    refused: the lines of `UserError`.
  """

  fault: str = ""
  answered: bool = False
  refused: tuple = ()


class Fuzzer:
  """Makes and runs the cases of a seed; each depends on its number alone."""

  def __init__(self, directory: pathlib.Path, seed: int):
    """Writes two small exports, for texts and for images.

    Args:
      directory: empty, for files.
      seed: of all cases.
    """
    self._directory, self._seed = directory, seed
    self._images = originals.images()
    names = [f"picture{suffix}" for suffix in self._images]
    for name, files_of_kind in zip(names, self._images.values()):
      (directory / name).write_bytes(files_of_kind[0])
    self._tables = originals.tables(names)
    self._examples, self._texts = originals.examples(self._images), originals.texts()
    self._predictors = {name: predict.Predictor(_export(directory / name, name)) for name in ("text", "image")}

  def table(self, number: int) -> Outcome:
    """Runs a damaged table."""
    rng = random.Random(f"table {self._seed} {number}")
    suffix = rng.choice(list(self._tables))
    originals = self._tables[suffix]
    path = self._directory / f"case{suffix}"
    original = rng.randrange(len(originals))
    path.write_bytes(mutations.mutated_container(originals[original], suffix, originals, rng))
    # The last table of each form is one of images.
    modality = "image" if original == len(originals) - 1 and suffix != ".conll" else "text"
    return self._run(f"table:{path}", lambda config, outcome: self._answers(path, modality, outcome))

  def records(self, number: int) -> Outcome:
    """Runs a damaged TFRecord file: whole records with damaged content, or damaged bytes of the file."""
    rng = random.Random(f"records {self._seed} {number}")
    examples, suffix = rng.choice(self._examples), rng.choice((".tfrecord", ".tfrecord.gz"))
    inside = rng.random() < 0.7
    path = self._directory / f"case{suffix}"
    with tf.io.TFRecordWriter(str(path), "GZIP" if suffix.endswith(".gz") else "") as writer:
      for example in examples:
        damaged = inside and rng.random() < 0.2
        writer.write(mutations.mutated(example, examples, rng) if damaged else example)
    if not inside:
      path.write_bytes(mutations.mutated_container(path.read_bytes(), suffix, [path.read_bytes()], rng))
    return self._run(f"tfrecord:{path}")

  def texts(self, number: int) -> Outcome:
    """Runs a damaged file of texts without labels, as a pretraining reads it."""
    rng = random.Random(f"texts {self._seed} {number}")
    suffix = rng.choice(list(self._texts))
    path = self._directory / f"case{suffix}"
    originals = self._texts[suffix]
    path.write_bytes(mutations.mutated_container(rng.choice(originals), suffix, originals, rng))
    return self._run(f"texts:{path}", self._read_all)

  def images(self, number: int) -> Outcome:
    """Runs a folder of `IMAGES` damaged images of two classes."""
    rng = random.Random(f"images {self._seed} {number}")
    folder = self._directory / "images"
    for i in range(IMAGES):
      suffix = rng.choice(list(self._images))
      path = folder / ("one", "two")[i % 2] / f"{i}.img"
      path.parent.mkdir(parents=True, exist_ok=True)
      everything = [file for found in self._images.values() for file in found]
      path.with_suffix(suffix).write_bytes(mutations.mutated(rng.choice(self._images[suffix]), everything, rng))
    try:
      return self._run(f"images:{folder}", lambda config, outcome: self._answers(folder, "image", outcome))
    finally:
      for file in [*folder.rglob("*.*")]:
        file.unlink()

  def _run(self, dataset, after=lambda config, outcome: None):
    """Checks a data set, then calls a function of the `Config` and the `Outcome`, which it may change."""
    outcome, start, before = Outcome(), time.monotonic(), _peak()
    config = Config(dataset=dataset, cache_dir=str(self._directory / "cache"), offline=True)
    for step in (lambda config, outcome: check.check(config), after):
      try:
        with contextlib.redirect_stdout(io.StringIO()):
          step(config, outcome)
      except (UserError, RunFailed) as error:
        outcome.refused += (str(error),)
        if "\n" in str(error):
          outcome.fault = f"a message of several lines: {error}"
      # Whatever else comes out would be a traceback.
      except Exception as error:
        where = error.__traceback__
        while where.tb_next:
          where = where.tb_next
        outcome.fault = f"{type(error).__name__}: {error} ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})"
    seconds, grown = time.monotonic() - start, _peak() - before
    if seconds > SECONDS:
      outcome.fault = outcome.fault or f"it took {seconds:.0f} s"
    if grown > BYTES:
      outcome.fault = outcome.fault or f"the memory grew by {grown >> 20} MB"
    return outcome

  def _read_all(self, config, outcome):
    with tempfile.TemporaryDirectory(dir=self._directory) as directory:
      found = corpora.load(config, Assets(config.cache_dir, offline=True), pathlib.Path(directory))
      for rows in (found.train, found.held_out):
        outcome.answered |= all(text.decode() for text in rows.read(np.arange(len(rows))))

  def _answers(self, path, modality, outcome):
    predictor = self._predictors[modality]
    early_checks.prediction(str(self._directory / modality), str(path), {})
    for batch in predictor.answers(predict.read(predictor.facts, str(path), "text", "image", "")):
      json.dumps(batch)
      outcome.answered |= any("error" not in answer for answer in batch)


class _Answers(tf.Module):
  def __init__(self, modality):
    super().__init__()
    self._modality = modality

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
  def serve(self, inputs):
    if self._modality == "text":
      high = tf.cast(tf.strings.length(inputs) > 5, tf.float32)
    else:
      high = tf.map_fn(
        lambda encoded: tf.reduce_mean(image.resize(image.decode(encoded), 4)), inputs, fn_output_signature=tf.float32
      )
    probabilities = tf.stack([high, 1 - high], axis=1)
    label = tf.gather(tf.constant(_TASK["names"]), tf.argmax(probabilities, axis=-1))
    return {"label": label, "score": tf.reduce_max(probabilities, axis=-1), "probabilities": probabilities}


def _export(directory, modality):
  module = _Answers(modality)
  tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})
  files.write_json(directory / workdir.EXPORT_FACTS, {"modality": modality, "pairs": False, "task": _TASK})
  return directory


def _peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
