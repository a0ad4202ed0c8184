"""`Facts`: what a recipe needs to know in addition to `Config`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts about data and backbone, known after both are loaded. Recipes are functions of `Config` and `Facts`.

  Attributes:
    num_train: number of training examples.
    num_classes: number of logits.
    learning_rate: default peak learning rate for fine-tuning the whole network, see `Modality.learning_rate`.
    stages: {stage of the backbone: tuple of the paths of its variables that can train}, from the input upwards. A stage
      that the features do not depend on has none.
    primary_metric: key of the task's metric that fine-tuning monitors.
    batch_examples: mean number of examples in a batch of --batch_tokens; 0 without that flag.
    pretrained: whether the backbone has pretrained weights. Random ones have to be trained, all and longer.
    few_steps: smallest number of steps of few examples, see `Modality.few_steps`.
    frozen: stages that --train_stages=auto leaves as they are, see `Modality.few_frozen`.
    contrasts: whether the supervised contrastive loss suits the data: few texts with one class each, and features of L2
      norm 1, see `planning.contrasts`.
    closed_solver: solver of the probe in closed form, see `Task.closed_solver`; "" for none.
    probe_work: rows x features x outputs that the probe is fitted on.
  """

  num_train: int
  num_classes: int
  learning_rate: float
  stages: dict
  primary_metric: str = "accuracy"
  batch_examples: float = 0.0
  pretrained: bool = True
  few_steps: int = 0
  frozen: tuple = ()
  contrasts: bool = False
  closed_solver: str = ""
  probe_work: float = 0.0
