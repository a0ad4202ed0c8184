"""Export: raw strings or image bytes in, class names out, and the proof that it answers as the evaluation did."""

import functools
import inspect
import itertools
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

from tl_app import files
from tl_app.data import modalities
from tl_app.errors import RunFailed
from tl_app.serving import fresh_process

log = logging.getLogger(__name__)

# Test examples that the fresh process answers, evenly spaced over the split.
PARITY_EXAMPLES = 512
TOLERANCE = 1e-4
# Inputs that the fresh process takes at a time, at most.
BATCH = 32
LABELS = "labels.txt"
FACTS = "assets.extra/tl_app.json"
# Where the checkpoint of an export holds `Served._variables`.
CHECKPOINT_KEY = "_variables/{position}/.ATTRIBUTES/VARIABLE_VALUE"


class Served(tf.Module):
  """The SavedModel: `serving_default` and `features`, both on a batch of raw inputs."""

  def __init__(self, model, labels_file):
    """Args:
    model: the `Model`.
    labels_file: path of a text file, one name of an output a line; it becomes assets/labels.txt.
    """
    super().__init__(name="tl_app")
    self._preprocess = model.backbone.preprocess
    self._answer = functools.partial(model.network, training=False)
    self._pooled = functools.partial(model.features, training=False)
    self._variables = [variable.value for variable in model.network.variables]
    # A module's tables and assets are found through its layer. Of a native network there is nothing more to find, and
    # through Keras each variable would be written a second time.
    self._layers = model.network.layers if model.backbone.tracks_assets else []
    self._labels_file = tf.saved_model.Asset(str(labels_file))
    self._task = model.task
    signature = [tf.TensorSpec([None, 2] if model.backbone.pairs else [None], tf.string, name="inputs")]
    self.serving_default = tf.function(self._serve, input_signature=signature)
    self.features = tf.function(self._pool, input_signature=signature)

  def _serve(self, inputs):
    """string [batch], or [batch, 2] for pairs -> what the task answers, see `Task.serve`."""
    return self._task.answers.signature_outputs(self._answer(self._preprocess(inputs)), inputs)

  def _pool(self, inputs):
    """string [batch], or [batch, 2] for pairs -> features float32 [batch, feature_size], pooled, before the head.

    Of a task that answers for each word it is [batch, positions, feature_size], zeros beyond the words that are read.
    """
    return {"features": self._pooled(self._preprocess(inputs))}


class Client:
  """A new Python process that imports only TensorFlow: it starts while others work, and is then told what to answer."""

  def __init__(self, modality):
    """Args:
    modality: name of the `Modality` of the inputs: tells which modules are imported besides TensorFlow.
    """
    # -P: the script must not find this package's modules (`inspect`, ..) in place of the standard library's.
    command = [sys.executable, "-P", "-c", inspect.getsource(fresh_process)]
    command += modalities.of(modality).serving_modules
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    self._process = subprocess.Popen(command, **pipes, text=True, env=environment)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._process.poll() is None:
      self._process.kill()
      self._process.communicate()

  def answer(self, directory, rows, batch_size):
    """Returns the answers of `serving_default` of the SavedModel at `directory`; the process ends with them.

    Args:
      directory: the SavedModel.
      rows: list of tuples of bytes, one for each column.
      batch_size: of them a call.

    Raises:
      RunFailed: it does not run there.
    """
    with tempfile.TemporaryDirectory() as scratch:
      asked, answered = os.path.join(scratch, "inputs.tfrecord"), os.path.join(scratch, "answers.npz")
      with tf.io.TFRecordWriter(asked) as writer:
        for part in itertools.chain.from_iterable(rows):
          writer.write(part)
      _, said = self._process.communicate(json.dumps([str(directory), asked, answered, batch_size]) + "\n")
      if self._process.returncode:
        last = (said.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
        raise RunFailed(f"parity: the export does not run in a fresh process ({last}); no export is left")
      with np.load(answered) as answers:
        return {name: answers[name] for name in answers.files}


def write(model, directory):
  """Writes the SavedModel of `model` to `directory`, which must not exist."""
  served_facts = {
    "modality": model.backbone.modality,
    "class_names": list(model.task.names),
    "backbone": model.backbone.spec.name,
    "stages": _positions(model),
    "pairs": model.backbone.pairs,
    "task": model.task.get_config(),
  }
  with tempfile.TemporaryDirectory() as scratch:
    labels = pathlib.Path(scratch) / LABELS
    labels.write_text("".join(f"{' '.join(name.splitlines())}\n" for name in model.task.names), encoding="utf-8")
    served = Served(model, labels)
    signatures = {"serving_default": served.serving_default, "features": served.features}
    tf.saved_model.save(served, str(directory), signatures=signatures)
  extra = pathlib.Path(directory) / FACTS
  extra.parent.mkdir()
  extra.write_text(json.dumps(served_facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _positions(model):
  """Returns {stage: [[path of the variable, its position in `Served._variables`]]}, in the order of the stages."""
  position = {id(variable): i for i, variable in enumerate(model.network.variables)}
  return {name: [[v.path, position[id(v)]] for v in variables] for name, variables in model.stages.items()}


def export_and_prove(model, directory, inputs, outputs, client=None, batch_size=BATCH):
  """Writes the SavedModel to `directory`, but only when a fresh process answers as the evaluation did.

  Args:
    model: the `Model`.
    directory: where the export goes; what is there is replaced as a whole, once the new export is proven.
    inputs: `Inputs` of the test split.
    outputs: float [n, outputs], the evaluation's answers, see `Answers.outputs`.
    client: `Client` that was started before, or None for a new one.
    batch_size: inputs that fit into a forward pass; a client takes `BATCH` at a time, or fewer.

  Returns:
    The proof, see `Answers.parity`.

  Raises:
    RunFailed: a label flipped, an answer differs by more than 1e-4, or the fresh process failed; nothing is left
      at `directory`.
  """
  chosen = sample(len(inputs))
  log.info("export: writing the SavedModel, then %d test examples are answered by a fresh process", len(chosen))
  with files.atomic_path(directory) as new, client or Client(model.backbone.modality) as client:
    write(model, new)
    try:
      return prove(new, model, inputs[chosen], np.asarray(outputs)[chosen], client, min(BATCH, batch_size))
    except RunFailed:
      shutil.rmtree(directory, ignore_errors=True)
      raise


def _encoded(row, modality):
  """Returns what a client sends for an example: a tuple of bytes, one for each column."""
  parts, reasons = zip(*(modalities.of(modality).encode(value, allow_empty=True) for value in row))
  if any(reasons):
    raise RunFailed(f"parity: a test example cannot be read: {next(filter(None, reasons))}")
  return parts


def sample(count):
  """Returns the positions, int [at most PARITY_EXAMPLES], of those of `count` test examples that prove an export."""
  return np.unique(np.linspace(0, count - 1, min(PARITY_EXAMPLES, count)).round().astype(int))


def prove(directory, model, inputs, outputs, client, batch_size):
  """Returns the proof that `client` with the SavedModel at `directory` gives `outputs` for `inputs`, so many a call.

  Raises:
    RunFailed: it does not.
  """
  answers = client.answer(directory, [_encoded(row, model.backbone.modality) for row in inputs.rows()], batch_size)
  proof = model.task.answers.parity(answers, outputs)
  if not model.task.answers.is_equal(proof, TOLERANCE):
    raise RunFailed(f"export check: {model.task.answers.describe_parity(proof)}; no export is left")
  return proof
