"""`Config`: one frozen dataclass with the fields of all groups.

It inherits the groups, so that flags, config.json and keywords stay flat. A function takes the group that it needs.
"""

import dataclasses
import typing
from collections.abc import Callable

from tl_app.config.groups import (
  AUTO,
  AnswerConfig,
  AugmentationConfig,
  BackboneConfig,
  DataConfig,
  HeadConfig,
  InputConfig,
  MachineConfig,
  OptimisationConfig,
  PretrainingConfig,
  RecipeConfig,
  RunConfig,
  SplitConfig,
)
from tl_app.config.paths import expanded

Group = typing.TypeVar("Group")

# {heading in the help: group}, in the order of help, docs and config.json.
GROUPS = {
  "Run": RunConfig,
  "Backbone": BackboneConfig,
  "Inputs": InputConfig,
  "Data": DataConfig,
  "Splits": SplitConfig,
  "Pretraining": PretrainingConfig,
  "Recipe": RecipeConfig,
  "Head": HeadConfig,
  "Answers": AnswerConfig,
  "Optimisation": OptimisationConfig,
  "Augmentation and loss": AugmentationConfig,
  "Machine": MachineConfig,
}


# A dataclass has the fields of its last base first.
@dataclasses.dataclass(frozen=True)
class Config(
  MachineConfig,
  AugmentationConfig,
  OptimisationConfig,
  AnswerConfig,
  HeadConfig,
  RecipeConfig,
  PretrainingConfig,
  SplitConfig,
  DataConfig,
  InputConfig,
  BackboneConfig,
  RunConfig,
):
  """All settings of a run. A field is a flag of the same name; `validate` refuses values that cannot work.

  The properties are the groups that code takes: `splits.make(examples, config.splits)`. In a field that is a path, ~ is
  the home directory.
  """

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.metadata["path"]:
        object.__setattr__(self, field.name, expanded(getattr(self, field.name)))

  @property
  def data(self) -> DataConfig:
    """The labelled examples."""
    return self._group(DataConfig)

  @property
  def splits(self) -> SplitConfig:
    """How the examples are divided."""
    return self._group(SplitConfig)

  @property
  def inputs(self) -> InputConfig:
    """What the network reads of an example."""
    return self._group(InputConfig)

  @property
  def head(self) -> HeadConfig:
    """The layers of the head."""
    return self._group(HeadConfig)

  @property
  def answers(self) -> AnswerConfig:
    """What the answers say about their certainty."""
    return self._group(AnswerConfig)

  @property
  def machine(self) -> MachineConfig:
    """Devices, number formats and the feature cache."""
    return self._group(MachineConfig)

  def _group(self, group: Callable[..., Group]) -> Group:
    return group(**{field.name: getattr(self, field.name) for field in dataclasses.fields(typing.cast(type, group))})

  @property
  def probe_alone(self) -> bool:
    """Whether --recipe, or --preset where --recipe leaves it the choice, fine-tunes nothing."""
    return self.recipe == "probe" or (self.recipe == AUTO and self.preset == "quick")

  @property
  def examples_per_step(self):
    """--batch_size as a number."""
    return FIELDS["batch_size"].default if self.batch_size == AUTO else self.batch_size


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Of a field that takes a word besides numbers, that of the numbers.
TYPES = {name: (typing.get_args(hint) or [hint])[0] for name, hint in typing.get_type_hints(Config).items()}
