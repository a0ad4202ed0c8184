"""A stand-in for TensorFlow Serving: the predict method of its REST interface over SavedModels, for tests.

python tests/rest_server.py PORT NAME=DIRECTORY .. [MODULE ..]

It knows nothing of tl_app. What a request and an answer look like is described in the documentation of TensorFlow
Serving, "RESTful API": rows ("instances", "predictions") or columns ("inputs", "outputs"), strings as they are or in
Base64 under "b64", and no name where a signature has one output.
"""

import base64
import contextlib
import functools
import http.server
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import numpy as np

_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/\d+)?:predict")


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    try:
      body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
      status, answer = 200, predict(self.server.models[_PREDICT.fullmatch(self.path)[1]], body)
    except Exception as error:
      status, answer = 400, {"error": f"{type(error).__name__}: {error}"}
    encoded = json.dumps(answer).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(encoded)))
    self.end_headers()
    self.wfile.write(encoded)

  def log_message(self, *_):
    pass


def predict(model, body):
  """Returns the answer of a loaded SavedModel to a request, both as JSON holds them."""
  import tensorflow as tf

  signature = model.signatures[body.get("signature_name", "serving_default")]
  specs = signature.structured_input_signature[1]
  rows = "instances" in body
  values = _decoded(body["instances"] if rows else body["inputs"])
  if rows and isinstance(values[0], dict):
    values = {name: [row[name] for row in values] for name in values[0]}
  columns = values if isinstance(values, dict) else {next(iter(specs)): values}
  tensors = {name: tf.constant(column, specs[name].dtype) for name, column in columns.items()}
  outputs = {name: _encoded(tensor.numpy()) for name, tensor in signature(**tensors).items()}
  if not rows:
    return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
  answers = [dict(zip(outputs, row)) for row in zip(*outputs.values(), strict=True)]
  return {"predictions": [row if len(row) > 1 else next(iter(row.values())) for row in answers]}


def _decoded(value):
  """Returns a value of a request with bytes in place of strings."""
  if isinstance(value, dict):
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else {k: _decoded(v) for k, v in value.items()}
  return [_decoded(item) for item in value] if isinstance(value, list) else _as_bytes(value)


def _as_bytes(value):
  return value.encode() if isinstance(value, str) else value


def _encoded(array):
  """Returns an output as JSON holds it."""
  return _as_text(array.tolist()) if array.dtype == object else array.tolist()


def _as_text(value):
  return [_as_text(item) for item in value] if isinstance(value, list) else value.decode()


@contextlib.contextmanager
def serve(models, port=0):
  """Serves {name: directory of a SavedModel} inside the block; gives the address of its models."""
  import tensorflow as tf

  server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler)
  server.models = {name: tf.saved_model.load(str(directory)) for name, directory in models.items()}
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}/v1/models"
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def check_example(directory):
  """Asserts that curl gets the example answer of an export for its example request; returns {output: value}.

  An only output is under "".
  """
  import pytest

  if not shutil.which("curl"):
    pytest.skip("curl is absent")
  directory = pathlib.Path(directory)
  with serve({"model": directory}) as address:
    command = ["curl", "-sS", "-d", f"@{directory}/example_request.json", f"{address}/model:predict"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
  wanted = json.loads((directory / "example_answer.json").read_text())
  assert answer.keys() == {"predictions"}, answer
  given, wanted = (
    row if isinstance(row, dict) else {"": row} for (row,) in (answer["predictions"], wanted["predictions"])
  )
  assert given.keys() == wanted.keys()
  for name, values in given.items():
    values, expected = np.asarray(values), np.asarray(wanted[name])
    equal = np.array_equal if values.dtype.kind in "Ub" else functools.partial(np.allclose, atol=1e-5)
    assert values.shape == expected.shape and equal(values, expected), name
  return given


if __name__ == "__main__":
  for module in [argument for argument in sys.argv[2:] if "=" not in argument]:
    importlib.import_module(module)
  served = dict(argument.split("=", 1) for argument in sys.argv[2:] if "=" in argument)
  with serve(served, int(sys.argv[1])) as address:
    print(address, flush=True)
    threading.Event().wait()
