"""Writes a BERT or MPNet in the files of Hugging Face and sentence-transformers: `transformers`, KerasHub and
`bert.load` read them."""

import json
import pathlib
import shutil
import struct

import keras
import numpy as np

from tl_app.backbones import bert
from tl_app.backbones.spec import BackboneSpec

# Files of a tokenizer, beside vocab.txt, that are copied where the pretrained network has them.
TOKENIZER_FILES = (
  "vocab.txt",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "tokenizer.json",
  "added_tokens.json",
)
MODULES = {
  "Transformer": "",
  "Pooling": "1_Pooling",
  "Normalize": "2_Normalize",
}


def save(directory: pathlib.Path, network: keras.Model, source: pathlib.Path, spec: BackboneSpec) -> None:
  """Writes config.json, model.safetensors, the tokenizer, and the pooling as sentence-transformers has it.

  Args:
    directory: an empty directory.
    network: what `bert.load` returned, with its present weights.
    source: the directory that it was loaded from.
    spec: the record, with the pooling.

  Raises:
    UserError: the layers of an MPNet have different terms for distances, which the format cannot hold.
  """
  config = bert.read_config(source)
  write_safetensors(directory / "model.safetensors", weights(network, config))
  _write_json(directory / "config.json", config)
  for name in TOKENIZER_FILES:
    if (source / name).is_file():
      shutil.copyfile(source / name, directory / name)
  if not (directory / "tokenizer_config.json").is_file():
    _write_json(directory / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
  if spec.pooling in bert.POOLING_MODES:
    _write_pooling(directory, config["hidden_size"], spec)


def weights(network: keras.Model, config: dict) -> dict[str, np.ndarray]:
  """Returns {Hugging Face's name: tensor} of a network of `bert.build`, float32, in the layout of PyTorch."""
  found = {}
  for layer in network.layers:
    if layer.weights:
      found |= {name: _tensor(name, variable) for name, variable in bert.torch_names(layer).items()}
  return bert.to_mpnet(found, config) if bert.is_mpnet(config) else found


def write_safetensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  """Writes float32 tensors in the safetensors format, see `bert.read_safetensors`."""
  header, offset = {"__metadata__": {"format": "pt"}}, 0
  for name, value in tensors.items():
    header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
    offset += value.nbytes
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for value in tensors.values():
      file.write(np.ascontiguousarray(value, "<f4").tobytes())


def _tensor(name, variable):
  value = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
  if not name.endswith("weight") or "mbeddings" in name or value.ndim < 2:
    return value if name.endswith(bert.RELATIVE_BIAS) or "mbeddings" in name else value.reshape(-1)
  # Kernels of attention are split into heads, of the output before them, of the others after.
  rows = (-1, value.shape[-1]) if "attention.output" in name else (value.shape[0], -1)
  return value.reshape(rows).T


def _write_pooling(directory, width, spec):
  """Writes modules.json and the configuration of each module, as sentence-transformers reads them."""
  names = [name for name in MODULES if name != "Normalize" or spec.l2_normalized]
  modules = [
    {"idx": i, "name": str(i), "path": MODULES[name], "type": f"sentence_transformers.models.{name}"}
    for i, name in enumerate(names)
  ]
  _write_json(directory / "modules.json", modules)
  for name in names[1:]:
    (directory / MODULES[name]).mkdir()
  modes = {mode: name == spec.pooling for name, mode in bert.POOLING_MODES.items()}
  _write_json(directory / MODULES["Pooling"] / "config.json", {"word_embedding_dimension": width, **modes})
  _write_json(directory / "sentence_bert_config.json", {"max_seq_length": spec.max_length, "do_lower_case": False})


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
