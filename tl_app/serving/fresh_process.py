"""The script of the export check: a client of the SavedModel that imports TensorFlow and nothing of tl_app.

python -P fresh_process.py [tensorflow_text] <<<'["SAVED_MODEL", "INPUTS.tfrecord", "ANSWERS.npz", 32]'
"""

import importlib
import json
import sys


def main(modules, requests):
  """Imports TensorFlow and `modules`, then answers the request on the first line of the file `requests`, if any."""
  for module in ("tensorflow", *modules):
    importlib.import_module(module)
  line = requests.readline()
  if line:
    answer(*json.loads(line))


def answer(directory, asked, answered, batch_size):
  """Answers inputs with a SavedModel and writes the outputs, by name, to an .npz file.

  Args:
    directory: directory of the SavedModel.
    asked: path of a TFRecord file. Where the signature takes pairs, two records are one input.
    answered: path of the .npz file.
    batch_size: inputs in a call.
  """
  import numpy as np
  import tensorflow as tf

  signature = tf.saved_model.load(directory).signatures["serving_default"]
  records = tf.data.TFRecordDataset(asked)
  columns = signature.structured_input_signature[1]["inputs"].shape.as_list()[1:]
  outputs = [signature(inputs=batch) for batch in (records.batch(*columns) if columns else records).batch(batch_size)]
  joined = {name: _joined([output[name].numpy() for output in outputs]) for name in outputs[0]}
  strings = {name: values for name, values in joined.items() if values.dtype == object}
  for name, values in strings.items():
    joined[name] = np.array([value.decode("utf-8") for value in values.flat]).reshape(values.shape)
  np.savez(answered, **joined)


def _joined(batches):
  """Returns the batches as one array. Shorter ones are filled with zeros, or b""."""
  import numpy as np

  shape = [sum(map(len, batches)), *np.max([batch.shape[1:] for batch in batches], axis=0).astype(int)]
  joined = np.full(shape, b"" if batches[0].dtype == object else 0, batches[0].dtype)
  start = 0
  for batch in batches:
    joined[(slice(start, start + len(batch)), *map(slice, batch.shape[1:]))] = batch
    start += len(batch)
  return joined


if __name__ == "__main__":
  main(sys.argv[1:], sys.stdin)
