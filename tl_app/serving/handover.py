"""What an export has besides the SavedModel for those who serve it: README.md, the model card,
requirements.txt, an example request.

The example request has the row form of the REST interface of TensorFlow Serving, which KServe takes too.
"""

import base64
import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tl_app import files
from tl_app.config import Config, rules
from tl_app.data import modalities
from tl_app.model.model import Model
from tl_app.report import formatting, machine

README = "README.md"
CARD = "model_card.md"
REQUIREMENTS = "requirements.txt"
REQUEST = "example_request.json"
ANSWER = "example_answer.json"
# {output of `serving_default`: what it is}.
MEANINGS = {
  "label": "the answer; several labels are joined",
  "score": "probability of the label, of several labels the highest",
  "probabilities": "of each label, in the order above",
  "prediction_set": "true for each label that may be the right one",
  "predicted": "true for each label that is answered",
  "values": "the predicted numbers, in the unit of the training labels",
  "intervals": "lower and upper end of the interval of each number",
  "words": "the words of the text; empty after the last one",
  "labels": "the tag of each word",
  "scores": "probability of the tag of each word",
  "accept": "true if the answer should be used",
  "ood_score": "how unlike the training data the input is, from 0 to 1",
}
# More labels are left to assets/labels.txt.
_MANY_LABELS = 50


@dataclasses.dataclass(frozen=True)
class About:
  """What an export tells of the training of its model.

  Attributes:
    card: the text of model_card.md, see `report.model_card`.
    columns: {flag: column} of the inputs in the training table, which `predict` reads too.
  """

  card: str
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def about(config: Config, card: str) -> About:
  """Returns the `About` of a candidate of a run.

  Args:
    config: the `Config` of the run.
    card: as of `About`.
  """
  return About(card, {name: getattr(config, name) for name in rules.INPUT_COLUMNS})


def write(
  directory: pathlib.Path | str,
  model: Model,
  about: About,
  example: Sequence[bytes],
  answer: Mapping[str, np.ndarray],
) -> None:
  """Writes the files into the directory of an export.

  Args:
    directory: of the export.
    model: the exported `Model`.
    about: the `About`.
    example: what a client sends for one input: one value, or those of a pair.
    answer: the outputs of `serving_default` for a batch of this input.
  """
  directory = pathlib.Path(directory)
  needed = requirements(model.backbone.modality)
  files.write_text(directory / REQUIREMENTS, "".join(f"{line}\n" for line in needed))
  _write_json(directory / REQUEST, request([example]))
  _write_json(directory / ANSWER, response(answer))
  files.write_text(directory / README, _readme(model, answer, needed))
  files.write_text(directory / CARD, about.card)


def request(inputs: Sequence[Sequence[bytes]]) -> dict:
  """Returns the REST request, ready for JSON, for inputs of one value each, or of two for pairs."""
  rows = [[{"b64": base64.b64encode(value).decode("ascii")} for value in values] for values in inputs]
  return {"signature_name": "serving_default", "instances": [row if len(row) > 1 else row[0] for row in rows]}


def response(outputs: Mapping[str, np.ndarray]) -> dict:
  """Returns the REST answer, ready for JSON, for the outputs of a batch, each [batch, ..].

  As TensorFlow Serving does, an only output has no name.
  """
  rows = [dict(zip(outputs, values)) for values in zip(*(array.tolist() for array in outputs.values()))]
  return {"predictions": [row if len(row) > 1 else next(iter(row.values())) for row in rows]}


def requirements(modality: str) -> list[str]:
  """Returns NAME==VERSION of the distributions that a Python client of an export needs."""
  distributions = importlib.metadata.packages_distributions()
  names = ("tensorflow", *modalities.of(modality).serving_modules, "numpy")
  found = (min(distributions.get(name, []), default="") for name in names)
  return [f"{name}=={importlib.metadata.version(name)}" for name in dict.fromkeys(found) if name]


def _write_json(path, value):
  files.write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


def _effects(backbone):
  if not backbone.effects:
    return ""
  return f"""
## Effects outside the model

The graph has {backbone.effects}. It was let through by `--trust_backbone` when the model was trained; whoever serves
the model must trust the maker of its backbone too.
"""


def _readme(model, answer, needed):
  task, pairs = model.task, model.backbone.pairs
  names, modality = list(task.names), model.backbone.modality
  labels = [f"- `{' '.join(name.split())}`" for name in names[:_MANY_LABELS]]
  if len(names) > _MANY_LABELS:
    labels.append(f"- .. and {len(names) - _MANY_LABELS:,} more, see `assets/labels.txt`")
  takes = modalities.of(modality).served_form
  shape = "[batch, 2], pairs of" if pairs else "[batch],"
  outputs = [
    f"| `{name}` | {'string' if array.dtype.kind == 'U' else array.dtype.name} | "
    f"[{', '.join(['batch', *map(str, array.shape[1:])])}] | {MEANINGS.get(name, '')} |"
    for name, array in answer.items()
  ]
  imports = "".join(
    f"import {name}  # noqa: F401, the operations of the model\n" for name in modalities.of(modality).serving_modules
  )
  version = machine.version("tl_app")
  return f"""# {formatting.sentence(modality)} model, {task.name.replace("_", " ")}

Made by tl_app {version} on {datetime.date.today().isoformat()}. `{CARD}` says how good the model is, when to rely on
it, where it fails, and where it comes from.

## Labels

The outputs are in this order:

{chr(10).join(labels)}

## Input and output

The signature `serving_default` takes `inputs`, string {shape} {takes}. It returns:

| output | type | shape | meaning |
| --- | --- | --- | --- |
{chr(10).join(outputs)}

{"" if modality == "image" else _EMPTY}\
The signature `features` takes the same inputs and returns the features of the network, float32.
{_effects(model.backbone)}
## Python

The exact versions are {", ".join(needed)}:

```bash
pip install -r {REQUIREMENTS}
```

```python
import base64
import json

import tensorflow as tf
{imports}
with open("{REQUEST}") as file:
  instances = json.load(file)["instances"]
inputs = {_PYTHON_PAIRS if pairs else _PYTHON_INPUTS}
model = tf.saved_model.load(".")
print(model.signatures["serving_default"](inputs=tf.constant(inputs)))
```

## Command line

{_command_line(modality, pairs)}

## TensorFlow Serving

`{REQUEST}` is a request to the REST interface, `{ANSWER}` its answer. Each value is encoded in Base64 under `b64`:

```bash
docker run -p 8501:8501 -v "$PWD":/models/model/1 -e MODEL_NAME=model tensorflow/serving &
curl --retry 20 --retry-connrefused -d @{REQUEST} http://localhost:8501/v1/models/model:predict
```

{_own_input(modality, pairs)}
"""


_EMPTY = """The graph cannot refuse one row of a batch: it answers an empty text as any other. Refuse
empty texts before the request.

"""
_PYTHON_INPUTS = '[base64.b64decode(value["b64"]) for value in instances]'
_PYTHON_PAIRS = '[[base64.b64decode(value["b64"]) for value in pair] for pair in instances]'


def _command_line(modality, pairs):
  """Returns how `saved_model_cli` answers an input of one's own, in Markdown."""
  run = "run --dir . --tag_set serve --signature_def serving_default"
  if modality == "image":
    return f"""A photograph of your own:

```bash
python -c 'import numpy; numpy.save("photo.npy", numpy.array([open("photo.jpg", "rb").read()]))'
saved_model_cli {run} --inputs inputs=photo.npy
```"""
  text = '["a text", "another text"]' if pairs else '"a text"'
  return f"""`saved_model_cli` needs the operations of `tensorflow_text`:

```bash
python -c 'import tensorflow_text; from tensorflow.python.tools import saved_model_cli; saved_model_cli.main()' \\
  {run} --input_exprs 'inputs=[{text}]'
```"""


def _own_input(modality, pairs):
  """Returns how to send an input of one's own, in Markdown."""
  if modality == "image":
    return """A photograph of your own:

```bash
echo '{"instances": [{"b64": "'"$(base64 -w0 photo.jpg)"'"}]}' | curl -d @- http://localhost:8501/v1/models/model:predict
```"""
  instance = '["a text", "another text"]' if pairs else '"a text"'
  return f"""Texts may also be sent as they are:

```bash
curl -d '{{"instances": [{instance}]}}' http://localhost:8501/v1/models/model:predict
```"""
