"""TF Hub SavedModels, and whatever else `tf.saved_model.save` wrote, as Keras 3 networks."""

import collections
import contextlib
import dataclasses
import hashlib
import pathlib
import re

import keras
import tensorflow as tf
from keras import ops

# Registers the ops of text modules, which `tf.saved_model.load` needs; nothing else of it is used.
import tensorflow_text as _  # noqa: F401

from tl_app.backbones import graph_order, partition
from tl_app.backbones.backbone import Backbone
from tl_app.errors import UserError
from tl_app.preprocessing import image, text

DEFAULT_IMAGE_SIZE = 224
# Google's BERT reads 512 tokens; taken where a module has no table of positions.
DEFAULT_MAX_LENGTH = 512
SIGNATURES = ("serving_default", "default", "image_feature_vector", "tokens")
TRAINING_NAMES = ("training", "is_training")
ROLES = {
    "input_word_ids": re.compile(r"word_id|input_ids|token_ids|^tokens?$"),
    "input_mask": re.compile(r"mask"),
    "input_type_ids": re.compile(r"type|segment"),
}
MOVING = re.compile(r"moving_(mean|var|avg|std)|running_(mean|var)", re.IGNORECASE)


def load(directory, spec, *, preprocessor=None, pooling="auto", image_size=0):
  """Loads a SavedModel as a `Backbone`; call it inside the scope of the strategy that will train it.

  Args:
    directory: holds saved_model.pb: a TF2 module with `__call__(inputs, training)`, a Keras 2 model, what Keras 3's
      `Model.export` wrote, or signatures alone (these run in inference mode only).
    spec: `BackboneSpec`.
    preprocessor: directory of the text preprocessing twin, or None.
    pooling: "mean", "cls", "pooler", or "auto" for the record's.
    image_size: height and width in pixels; 0 for the record's or the module's own.

  Raises:
    UserError: the module cannot be read, or cannot be a backbone with these choices.
  """
  module = read(directory)
  face = Face.of(module, spec)
  size = _image_size(face, spec, image_size) if face.modality == "image" else 0
  outputs = _outputs(face, size)
  chosen, source, notes = _choose_pooling(pooling, spec, face, outputs)
  variables = _variables(module, face)
  uses = graph_order.walk(face.trace, list(variables.values()))
  layer = SavedModelLayer(module, face, variables, outputs, uses, reached=outputs[source].index)
  network = _network(layer, face, size, chosen, source)
  stages, stage_notes = _stages(layer, spec, uses)
  spec = dataclasses.replace(spec, modality="image" if face.modality == "image" else "text")
  return Backbone(
      spec=spec,
      preprocess=_preprocess(module, face, layer, spec, preprocessor, size),
      network=network,
      stages=stages,
      feature_size=int(outputs[source].shape[-1]),
      notes=face.notes + notes + stage_notes + layer.notes(),
  )


def read(directory):
  """Returns `tf.saved_model.load(directory)`, in TF1 Hub format too.

  Raises:
    UserError: there is no readable SavedModel.
  """
  directory = str(directory)
  tags = [] if (pathlib.Path(directory) / "tfhub_module.pb").exists() else None
  try:
    return tf.saved_model.load(directory, tags=tags)
  except (OSError, tf.errors.OpError, ValueError, TypeError, KeyError, RuntimeError) as error:
    reason = str(error).strip().partition("\n")[0]
    raise UserError(f"{directory} holds no readable SavedModel: {reason}") from None


@dataclasses.dataclass(frozen=True)
class Output:
  """One tensor among a module's outputs: its place in the flat structure and its shape, batch first."""

  index: int
  shape: tuple


@dataclasses.dataclass(frozen=True)
class Face:
  """How a module is called.

  Attributes:
    function: what is called: a polymorphic function, or a signature.
    trace, training_trace: concrete functions of inference and of training; the second is None where there is none.
    arguments: (args, kwargs) of `trace`, with a TensorSpec wherever a tensor goes.
    training_arguments: the same of `training_trace`.
    roles: dict, role -> TensorSpec: "image", "text", or `text.INPUT_NAMES`.
    modality: "image", "tokens" or "strings".
    notes: lines worth telling the user.
  """

  function: object
  trace: object
  training_trace: object
  arguments: tuple
  training_arguments: tuple
  roles: dict
  modality: str
  notes: list

  @classmethod
  def of(cls, module, spec):
    """Returns the `Face` of a loaded module.

    Raises:
      UserError: no way of calling it takes images, texts or BERT's inputs.
    """
    function, notes = _entry(module)
    names = _argument_names(function)
    calls = [_Call.of(trace, names) for trace in getattr(function, "concrete_functions", [function])]
    usable = [call for call in calls if call.roles and _fits(call.modality, spec.modality)]
    inference = [call for call in usable if call.training is not True]
    if not inference:
      raise UserError(f"{spec.name} is no backbone for images or texts: {_description(calls)}")
    chosen = min(inference, key=_Call.preference)
    _check_batch(chosen, spec)
    training = [call for call in usable if call.training is True and call.shapes() == chosen.shapes()]
    training = training or [chosen] * (chosen.training == "tensor")
    return cls(
        function=function,
        trace=chosen.trace,
        training_trace=training[0].trace if training else None,
        arguments=chosen.arguments(names, False),
        training_arguments=training[0].arguments(names, True) if training else None,
        roles=chosen.roles,
        modality=chosen.modality,
        notes=notes,
    )

  def __call__(self, tensors, training):
    """Returns the module's flat outputs for {role: tensor}; `training` needs a `training_trace`."""
    args, kwargs = self.training_arguments if training else self.arguments
    by_spec = {id(spec): tf.cast(tensors[role], spec.dtype) for role, spec in self._specs(args, kwargs)}
    args, kwargs = tf.nest.map_structure(lambda leaf: by_spec.get(id(leaf), leaf), (args, kwargs))
    return tf.nest.flatten(self.function(*args, **kwargs))

  def _specs(self, args, kwargs):
    specs = [leaf for leaf in tf.nest.flatten((args, kwargs)) if isinstance(leaf, tf.TensorSpec)]
    return zip(self.roles, specs) if len(self.roles) == 1 else _by_role(_named_specs(args, kwargs)).items()
