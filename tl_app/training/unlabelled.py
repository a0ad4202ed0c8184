"""Features of examples without labels that are no part of the data of a run."""

import dataclasses
import pathlib
import shutil

import numpy as np
import tensorflow as tf

from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data.corpus import corpus as corpora
from tl_app.errors import UserError
from tl_app.model.model import Model

# Examples whose features are computed together.
BATCH = 128


def read(config: Config, flag: str, modality: str, directory: pathlib.Path, most: int) -> corpora.Corpus:
  """Returns the examples of a data set; both parts of the corpus are of use, and one may be empty.

  Args:
    config: the `Config`.
    flag: name of the flag that names the data set.
    modality: that of the run.
    directory: for copies of the texts; `deleted` removes it.
    most: largest number of examples.

  Raises:
    UserError: it cannot be read, or holds another modality.
  """
  directory.mkdir(exist_ok=True)
  name = getattr(config, flag)
  changes = {"dataset": name, "validation_dataset": "", "validation_fraction": 0.5, "max_examples": most}
  try:
    corpus = corpora.load(dataclasses.replace(config, **changes), Assets.of(config), directory, divided=False)
  except UserError as error:
    raise UserError(str(error).replace("--dataset=", f"--{flag}=")) from None
  if corpus.modality != modality:
    raise UserError(
      f"--{flag}={name} holds {corpus.modality}s, but --dataset={config.dataset} holds {modality}s: name examples of "
      "the same kind"
    )
  return corpus


def features(corpus: corpora.Corpus, model: Model, most: int) -> np.ndarray:
  """Returns the features of the examples by the current backbone, float32 [at most `most`, width]."""
  infer = tf.function(lambda raw: model.features(model.backbone.preprocess(raw), training=False), reduce_retracing=True)
  found = []
  for rows in (corpus.train, corpus.held_out):
    count = min(len(rows), most - sum(map(len, found)))
    for start in range(0, count, BATCH):
      raw = rows.read(np.arange(start, min(start + BATCH, count)))
      found.append(infer(tf.constant(list(raw), tf.string)).numpy())
  return np.concatenate(found)


def features_of(config: Config, flag: str, model: Model, directory: pathlib.Path, most: int) -> np.ndarray:
  """Returns the features of a data set, float32 [n, width]; the arguments are those of `read`."""
  try:
    return features(read(config, flag, model.backbone.modality, directory, most), model, most)
  finally:
    shutil.rmtree(directory, ignore_errors=True)


def check(config: Config, flag: str, modality: str, directory: pathlib.Path, most: int) -> None:
  """Raises the `UserError` of `read`, if any, and leaves nothing."""
  try:
    read(config, flag, modality, directory, most)
  finally:
    shutil.rmtree(directory, ignore_errors=True)
