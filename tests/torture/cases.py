"""The runs that are killed: tiny data, tiny networks."""

import dataclasses
import pathlib

import tiny_data
import tiny_modules
import tiny_presets


@dataclasses.dataclass(frozen=True)
class Case:
  """A command that is killed and started again.

  Attributes:
    command: "train" or "pretrain".
    flags: {flag: value}, without --workdir.
  """

  command: str
  flags: dict

  def arguments(self, workdir: pathlib.Path) -> list[str]:
    """Returns the arguments of Python, for a run in `workdir`."""
    flags = self.flags | {"workdir": workdir}
    return ["-m", f"tl_app.{self.command}", *(f"--{name}={value}" for name, value in flags.items())]


def make(root: pathlib.Path) -> dict[str, Case]:
  """Writes data and backbones below `root`; returns {RECIPE-BACKBONE: `Case`}."""
  text = {"dataset": f"table:{tiny_data.reviews(root / 'reviews.csv')}", "max_length": 12}
  image = {"dataset": f"images:{tiny_data.colours(root / 'colours')}", "image_size": 32}
  native_text = text | {"backbone": tiny_presets.bert(root / "bert", list(tiny_modules.VOCABULARY), layers=2)}
  native_image = image | {"backbone": "cnn_small.scratch", "network_width": 8}
  saved_text = text | {"backbone": tiny_modules.bert(root / "module")}
  saved_text |= {"preprocessor": tiny_modules.bert_preprocess(root / "module_preprocess")}
  saved_image = image | {"backbone": tiny_modules.image(root / "image")}
  common = {"cache_dir": root / "cache", "checkpoint_minutes": 0.001, "batch_size": 8}
  tuned = common | {"export": False, "epochs": 6, "head_epochs": 6}
  pretrained = common | {"epochs": 6, "validation_fraction": 0.2, "learning_rate": 3e-3}
  cases = {
    "probe-text": native_text | {"recipe": "probe", "head_hidden_units": "8", "head_dropout": 0.3, "head_epochs": 40},
    "lp_ft-text": native_text | {"recipe": "lp_ft"},
    "lp_ft-text_module": saved_text | {"recipe": "lp_ft"},
    "full-image_module": saved_image | {"recipe": "full", "augment": "light", "bn": "train"},
    "full-image": native_image | {"recipe": "full", "mixup": 0.3, "ema": 0.9},
    "lora-text": native_text | {"recipe": "lora", "lora_rank": 2},
    "gradual-text": native_text | {"recipe": "gradual", "early_stopping_patience": 1},
    "contrastive-text": native_text | {"recipe": "contrastive"},
    "batch_tokens-text": native_text | {"recipe": "full", "batch_size": 32, "batch_tokens": 128},
    "trunk-text": native_text | {"recipe": "lp_ft", "train_stages": "top:1"},
    "limited-text": native_text | {"recipe": "full", "max_minutes": 600},
    "folds-text": native_text | {"recipe": "lp_ft", "refit": "always", "epochs": 2},
    "soup-text": native_text | {"recipe": "lp_ft", "fine_tuning_seeds": 2, "interpolate": 0.5, "epochs": 2},
    "mirrored-image": native_image | {"recipe": "full", "strategy": "mirrored", "num_devices": 2},
    "adapt-text": native_text | {"recipe": "probe", "adapt": "dann", "head_hidden_units": "8", "head_epochs": 40},
    "export-text": native_text | {"recipe": "probe", "head_epochs": 2, "export": True},
  }
  cases["adapt-text"]["unlabelled_dataset"] = text["dataset"]
  objectives = {
    "pretrain-masked_tokens": native_text | {"objective": "masked_tokens"},
    "pretrain-views": native_text | {"objective": "views"},
    "pretrain-next_token": text | {"objective": "next_token", "backbone": "lstm.scratch", "sampled_tokens": 5},
    "pretrain-reconstruct": saved_text | {"objective": "reconstruct"},
    "pretrain-clusters": native_image | {"objective": "clusters", "clusters": 3, "rounds": 3},
  }
  objectives["pretrain-clusters"] |= {"probe_dataset": image["dataset"]}
  made = {name: Case("train", tuned | flags) for name, flags in cases.items()}
  # Folds need a probe in closed form.
  made["folds-text"].flags.pop("head_epochs")
  return made | {name: Case("pretrain", pretrained | flags) for name, flags in objectives.items()}
