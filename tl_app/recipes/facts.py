"""`Facts`: what a recipe must know besides `Config`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Facts:
  """What `Config` does not know before data and backbone are loaded; recipes are functions of both.

  Attributes:
    num_train: training examples.
    num_classes: logits.
    learning_rate: default peak learning rate of fine-tuning the whole network, see `Modality.learning_rate`.
    stages: ordered dict, stage of the backbone -> tuple of the paths of those of its variables that can train, from the
      input upwards; a stage that does not reach the features has none.
    primary_metric: key of the task's metric that fine-tuning monitors.
    batch_examples: mean number of examples in a batch of --batch_tokens; 0 without that flag.
  """

  num_train: int
  num_classes: int
  learning_rate: float
  stages: dict
  primary_metric: str = "accuracy"
  batch_examples: float = 0.0
