"""The data, the backbones and the flags of the runs that are compared."""

import json
import pathlib
import sys

import tiny_data
import tiny_modules
import tiny_presets

from tl_app.config import Config
from tl_app.errors import UserError

# The fine-tuned weights are compared, whichever candidate is better.
FLAGS = {
  "epochs": 1,
  "head_epochs": 2,
  "batch_size": 8,
  "learning_rate": 1e-3,
  "head_learning_rate": 1e-2,
  "select": "fine_tuned",
  "export": False,
  # Several workers run no folds.
  "refit": "never",
}
PRETRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
# Batches of 8 and of 12 do not divide the 42 images and 58 texts that train.
UNEVEN = {"batch_size": 12}
CLOSED = {"recipe": "probe", "probe_solver": "logistic", "select": "auto"}
FULL = {"recipe": "full", "probe_solver": "logistic"}

# {name: (command, backbone, data, flags)}.
CASES = {
  "probe": ("train", "image", "colours", {"recipe": "probe", "select": "auto"}),
  "probe, closed form": ("train", "image", "colours", CLOSED),
  "full": ("train", "image", "colours", {"recipe": "full", "epochs": 2}),
  "full, odd batches": ("train", "image", "colours", FULL | UNEVEN),
  "full, accumulation": ("train", "image", "colours", FULL | {"accumulate_steps": 2, "epochs": 2}),
  "full, averaged weights": ("train", "image", "colours", FULL | {"ema": 0.5, "select": "averaged"}),
  "full, mixup and class weights": (
    "train",
    "image",
    "colours",
    {"recipe": "full", "mixup": 0.2, "imbalance": "class_weights"},
  ),
  "full, every class equally often": ("train", "image", "colours", {"recipe": "full", "imbalance": "balanced"}),
  "full, batches of tokens": ("train", "bert", "reviews", FULL | {"batch_size": 32, "batch_tokens": 128}),
  "lp_ft, top stages": ("train", "bert", "reviews", {"recipe": "lp_ft", "train_stages": "top:1", "epochs": 2}),
  "lora": ("train", "bert", "reviews", FULL | {"recipe": "lora", "lora_rank": 2}),
  "gradual": ("train", "bert", "reviews", FULL | {"recipe": "gradual", "epochs": 4}),
  "bias_norm": ("train", "bert", "reviews", FULL | {"recipe": "bias_norm"}),
  "contrastive": ("train", "bert", "reviews", FULL | {"recipe": "contrastive"}),
  "full, several labels": ("train", "bert", "labels", FULL | {"label_columns": "good,bad"}),
  "full, numbers": ("train", "bert", "numbers", {"recipe": "full", "task": "regression"}),
  "full, tags": ("train", "bert", "tags", FULL),
  # Adam would divide rounding by itself where a gradient is 0 but for rounding.
  "full, batch statistics": ("train", "cnn_small.scratch", "colours", FULL | {"epochs": 2, "optimizer": "sgd"}),
  "masked_tokens": ("pretrain", "bert", "texts", {"objective": "masked_tokens"}),
  "next_token": ("pretrain", "lstm.scratch", "texts", {"objective": "next_token"}),
  "views": ("pretrain", "cnn_small.scratch", "colours", {"objective": "views"}),
  "reconstruct": ("pretrain", "cnn_small.scratch", "colours", {"objective": "reconstruct"}),
  "clusters": ("pretrain", "cnn_small.scratch", "colours", {"objective": "clusters", "clusters": 3, "rounds": 1}),
}


def world(root: pathlib.Path) -> dict[str, str]:
  """Writes the data and the backbones below `root`; returns {name: value of a flag}."""
  root.mkdir(parents=True, exist_ok=True)
  reviews = tiny_data.reviews(root / "reviews.csv")
  lines = pathlib.Path(reviews).read_text(encoding="utf-8").splitlines()[1:]
  (root / "texts.txt").write_text("\n".join(line.rpartition(",")[0] for line in lines), encoding="utf-8")
  return {
    "image": tiny_modules.image(root / "image"),
    "bert": tiny_presets.bert(root / "preset", list(tiny_modules.VOCABULARY), dropout=0.0),
    "colours": "images:" + tiny_data.colours(root / "colours"),
    "reviews": f"table:{reviews}",
    "texts": f"texts:{root / 'texts.txt'}",
    "labels": _table(
      root / "labels.csv", lines, "text,good,bad", lambda word: f"{int(word != 'bad')},{int(word == 'bad')}"
    ),
    "numbers": _table(root / "numbers.csv", lines, "text,label", lambda word: "1.5" if word == "good" else "0.25"),
    "tags": "table:" + tiny_data.tagged(root / "tags"),
  }


def _table(path, lines, header, cells):
  """Writes a table of the texts of reviews, with `cells` of the word that decides; returns the value of --dataset."""
  texts = [line.rpartition(",")[0] for line in lines]
  rows = [f"{text},{cells('good' if 'good' in text else 'bad')}" for text in texts]
  path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
  return f"table:{path}"


def config(name: str, paths: dict[str, str], **flags) -> Config:
  """Returns the `Config` of a case.

  Args:
    name: of the case.
    paths: what `world` returned.
    **flags: of the devices.
  """
  command, backbone, data, own = CASES[name]
  common = FLAGS if command == "train" else PRETRAINING
  image = {"image_size": 16} if data == "colours" else {}
  return Config(backbone=paths.get(backbone, backbone), dataset=paths[data], **common | image | own | flags)


def directory(root: str | pathlib.Path, name: str) -> pathlib.Path:
  """Returns the workdir of a case below `root`."""
  return pathlib.Path(root) / name.replace(" ", "_").replace(",", "")


def main(argv) -> None:
  """Runs cases in this process: argv is a JSON object with "paths", "cases", "flags" and "root"."""
  given = json.loads(argv[1])
  from tl_app.backbones import scratch
  from tl_app.commands import pretrain, train
  from tl_app.compute import devices

  # Each device draws its own.
  scratch.EMBEDDING_DROPOUT = scratch.LAYER_DROPOUT = 0.0
  devices.make(given["flags"]["strategy"], given["flags"].get("num_devices", 0))
  for name in given["cases"]:
    run = train.train_and_evaluate if CASES[name][0] == "train" else pretrain.pretrain
    workdir = directory(given["root"], name)
    try:
      run(config(name, given["paths"], cache_dir=f"{workdir}_cache", **given["flags"]), workdir)
    except UserError as error:
      print(f"{name}: {error}", file=sys.stderr, flush=True)
