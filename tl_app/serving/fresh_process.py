"""The script of the export check: a client of the SavedModel that imports TensorFlow and nothing of tl_app.

python -P fresh_process.py [tensorflow_text]

It reads from standard input and writes to standard output. A request is a line with the directory of a SavedModel.
Then each batch is a line with a JSON list of the lengths of its values, and these values. The answer to a batch is a
line with the length of an .npz file, and this file with the outputs by name. The end of the input ends the process.
"""

import importlib
import io
import json
import os
import sys


def main(modules, requests, answers):
  """Imports TensorFlow and `modules`, then answers the batches of a request, if there is one.

  Args:
    modules: names of modules that the SavedModel needs.
    requests: binary file of the request and its batches.
    answers: binary file of the answers.
  """
  for module in ("tensorflow", *modules):
    importlib.import_module(module)
  line = requests.readline()
  if line:
    answer(json.loads(line), requests, answers)


def answer(directory, requests, answers):
  """Answers batches with the signature `serving_default` of a SavedModel.

  Where the signature takes pairs, two values are one input.
  """
  import numpy as np
  import tensorflow as tf

  signature = tf.saved_model.load(directory).signatures["serving_default"]
  columns = signature.structured_input_signature[1]["inputs"].shape.as_list()[1:]
  while line := requests.readline():
    values = [requests.read(length) for length in json.loads(line)]
    inputs = tf.reshape(tf.constant(values, tf.string), [-1, *columns])
    outputs = {name: output.numpy() for name, output in signature(inputs=inputs).items()}
    for name, array in outputs.items():
      if array.dtype == object:
        # An array of objects would be a pickle.
        outputs[name] = np.array([value.decode("utf-8") for value in array.flat], dtype=str).reshape(array.shape)
    file = io.BytesIO()
    np.savez(file, **outputs)
    answers.write(b"%d\n" % file.tell() + file.getvalue())
    answers.flush()


if __name__ == "__main__":
  # What a library prints to standard output must not come between the answers.
  own = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  main(sys.argv[1:], sys.stdin.buffer, own)
