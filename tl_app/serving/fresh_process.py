"""What the parity gate runs in a fresh process: a client of the SavedModel that knows TensorFlow and nothing of tl_app.

python -c SOURCE [tensorflow_text] <<<'["SAVED_MODEL", "INPUTS.tfrecord", "ANSWERS.npz", 32]'
"""

import importlib
import json
import sys


def main(modules, told):
  """Imports TensorFlow and `modules`, then reads from `told`, a file, what to answer; at its end there is nothing."""
  for module in ("tensorflow", *modules):
    importlib.import_module(module)
  line = told.readline()
  if line:
    answer(*json.loads(line))


def answer(directory, asked, answered, batch_size):
  """Answers the records of `asked` by `serving_default`, so many a call, and writes its outputs to `answered`, by name.

  Where the signature takes pairs, two records are one input.
  """
  import numpy as np
  import tensorflow as tf

  signature = tf.saved_model.load(directory).signatures["serving_default"]
  records = tf.data.TFRecordDataset(asked)
  parts = signature.structured_input_signature[1]["inputs"].shape.as_list()[1:]
  outputs = [signature(inputs=batch) for batch in (records.batch(*parts) if parts else records).batch(batch_size)]
  joined = {name: _joined([output[name].numpy() for output in outputs]) for name in outputs[0]}
  strings = {name: values for name, values in joined.items() if values.dtype == object}
  for name, values in strings.items():
    joined[name] = np.array([value.decode("utf-8") for value in values.flat]).reshape(values.shape)
  np.savez(answered, **joined)


def _joined(batches):
  """Returns the batches as one array; what is longer in another batch is filled up with zeros, or b""."""
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
