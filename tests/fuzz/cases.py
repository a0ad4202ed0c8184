"""One damaged file through reading, checking and predict, and what may come of it: a result, or one line."""

import contextlib
import dataclasses
import io
import json
import pathlib
import random
import resource
import time

import tensorflow as tf

from tests.fuzz import mutations, originals
from tl_app import files, workdir
from tl_app.commands import check, early_checks, predict
from tl_app.config import Config
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
    return self._run(
      f"table:{path}", path, "image" if original == len(originals) - 1 and suffix != ".conll" else "text"
    )

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
      return self._run(f"images:{folder}", folder, "image")
    finally:
      for file in [*folder.rglob("*.*")]:
        file.unlink()

  def _run(self, dataset, path, modality):
    outcome, start, before = Outcome(), time.monotonic(), _peak()
    config = Config(dataset=dataset, cache_dir=str(self._directory / "cache"), offline=True)
    for step in (lambda: check.check(config), lambda: self._answers(path, modality, outcome)):
      try:
        with contextlib.redirect_stdout(io.StringIO()):
          step()
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
