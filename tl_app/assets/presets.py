"""Presets of KerasHub: local directories, and the caches of kagglehub and huggingface_hub."""

import json
import pathlib

from tl_app import files
from tl_app.assets import cache, keras_files
from tl_app.config.paths import expanded
from tl_app.errors import UserError

# Files of a KerasHub preset from which it builds layers, tokenizers and converters, and those that are read here.
_BUILT = ("config.json", "task.json", "tokenizer.json", "preprocessor.json", "image_converter.json")
_READ = ("config.json", "tokenizer.json", "image_converter.json")


def local_preset(handle):
  """Returns the directory of a preset; raises `UserError` if files are missing."""
  directory = pathlib.Path(expanded(handle))
  if not directory.is_dir():
    raise UserError(f"{handle} is not a directory: expected a preset with config.json")
  try:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if isinstance(config, dict) and "registered_name" in config:
      _refuse_code(handle, directory)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{handle} has no readable config.json, as a preset must: {cache.reason(error)}") from None
  if not isinstance(config, dict) or not {"registered_name", "model_type", "architecture"} & set(config):
    raise UserError(f"{handle}: config.json names neither registered_name (KerasHub) nor model_type (Hugging Face)")
  if not any(directory.glob("model*.h5")) and not any(directory.glob("*.safetensors")):
    raise UserError(f"{handle} holds config.json but no weights: expected model.weights.h5 or model.safetensors")
  return directory


def _refuse_code(handle, directory):
  """Raises `UserError` if a configuration of a KerasHub preset has code, or names files outside of it."""
  for path in filter(pathlib.Path.is_file, (directory / name for name in _BUILT)):
    _refuse_code_in(handle, path)


def _refuse_code_in(handle, path):
  fault = keras_files.config_fault(_json(handle, path))
  if fault:
    raise UserError(f"{handle}: {path.name} is refused: {fault}")


def _json(handle, path):
  try:
    return files.read_json(path)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{handle}: {path.name} is damaged: {cache.reason(error)}") from None


def _refuse_code_online(handle, fetch, is_missing):
  """Downloads the configurations of a preset, and checks those from which KerasHub builds objects, as `local_preset`.

  Args:
    handle: of the preset.
    fetch: function, name of a file -> path of the download, which KerasHub uses too.
    is_missing: function of an exception of `fetch`, whether the preset has no such file.

  Returns:
    The content of config.json.
  """
  config = _json(handle, pathlib.Path(fetch("config.json")))
  for name in _READ if "registered_name" in config else ():
    try:
      path = pathlib.Path(fetch(name))
    except Exception as error:
      if not is_missing(error):
        raise
    else:
      _refuse_code_in(handle, path)
  return config


def kaggle_probe(name):
  """Downloads the configurations of a Kaggle model and checks them."""
  import kagglehub

  _kaggle_handle(name)
  _refuse_code_online(
    f"kaggle://{name}",
    lambda file: kagglehub.model_download(name, path=file),
    lambda error: "404 Client Error" in str(error) or "is not present in the model files" in str(error),
  )


def _kaggle_handle(name):
  from kagglehub import handle

  try:
    return handle.parse_model_handle(name)
  except ValueError:
    raise UserError(f"kaggle://{name} is not of the form kaggle://OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]") from None


def kaggle_cached(name):
  """Returns the newest cached version of a Kaggle model with complete weights, or None."""
  from kagglehub import config

  handle = _kaggle_handle(name)
  model = pathlib.Path(
    config.get_cache_folder(), "models", handle.owner, handle.model, handle.framework, handle.variation
  )
  versions = [str(handle.version)] if handle.is_versioned() else [path.name for path in model.glob("[0-9]*")]
  for version in sorted((v for v in versions if v.isdigit()), key=int, reverse=True):
    complete = (model / f"{version}.complete").exists()
    marked = model / ".complete" / version
    weights = complete or any(
      (marked / f"{name}.complete").exists() for name in ("model.weights.h5", "model.weights.json")
    )
    if weights and (model / version / "config.json").is_file():
      return model / version
  return None


def huggingface_probe(model_types, name):
  """Downloads the configurations of a model and checks them; returns the directory of one of `model_types`, or None."""
  import huggingface_hub.utils

  try:
    config = _refuse_code_online(
      f"hf://{name}",
      lambda file: huggingface_hub.hf_hub_download(repo_id=name, filename=file),
      lambda error: isinstance(error, huggingface_hub.utils.EntryNotFoundError),
    )
    if config.get("model_type") in model_types:
      return huggingface_hub.snapshot_download(repo_id=name, allow_patterns=["*.json", "*.txt", "model*.safetensors"])
  except huggingface_hub.utils.HFValidationError:
    raise UserError(f"hf://{name} is not of the form hf://OWNER/MODEL") from None


def huggingface_cached(name):
  """Returns the cached snapshot of a Hugging Face model, or None."""
  import huggingface_hub

  try:
    return pathlib.Path(huggingface_hub.snapshot_download(repo_id=name, local_files_only=True))
  except huggingface_hub.utils.HFValidationError:
    raise UserError(f"hf://{name} is not of the form hf://OWNER/MODEL") from None
  except FileNotFoundError:
    return None
