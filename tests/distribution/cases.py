"""The data, the backbones and the flags of the runs that are compared."""

import json
import pathlib

import tiny_data
import tiny_modules
import tiny_presets

from tl_app.config import Config

FLAGS = {"epochs": 2, "head_epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "head_learning_rate": 1e-2}
PRETRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}
# 80 examples divide into batches of 8; 56 that train do not divide into batches of 12.
UNEVEN = {"batch_size": 12}

# {name: (command, backbone, data, flags)}.
CASES = {
  "probe": ("train", "image", "colours", {"recipe": "probe"}),
  "probe, closed form": ("train", "image", "colours", {"recipe": "probe", "probe_solver": "logistic"}),
  "full": ("train", "image", "colours", {"recipe": "full"}),
  "full, odd last batches": ("train", "image", "colours", {"recipe": "full", **UNEVEN}),
  "lp_ft, top stages": ("train", "bert", "reviews", {"recipe": "lp_ft", "train_stages": "top:1"}),
  "lora": ("train", "bert", "reviews", {"recipe": "lora", "lora_rank": 2}),
  "short": ("train", "image", "colours", {"recipe": "full", "probe_solver": "logistic", "epochs": 1, **UNEVEN}),
  "masked_tokens": ("pretrain", "bert", "texts", {"objective": "masked_tokens"}),
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
  }


def config(name: str, paths: dict[str, str], **flags) -> Config:
  """Returns the `Config` of a case.

  Args:
    name: of the case.
    paths: what `world` returned.
    **flags: of the devices.
  """
  command, backbone, data, own = CASES[name]
  common = FLAGS | {"export": False} if command == "train" else PRETRAINING
  image = {"image_size": 16} if backbone == "image" else {}
  return Config(backbone=paths[backbone], dataset=paths[data], **common | image | own | flags)


def directory(root: str | pathlib.Path, name: str) -> pathlib.Path:
  """Returns the workdir of a case below `root`."""
  return pathlib.Path(root) / name.replace(" ", "_").replace(",", "")


def main(argv) -> None:
  """Runs cases in this process: argv is a JSON object with "paths", "cases", "flags" and "root"."""
  given = json.loads(argv[1])
  from tl_app.commands import pretrain, train
  from tl_app.compute import devices

  devices.make(given["flags"]["strategy"], given["flags"].get("num_devices", 0))
  for name in given["cases"]:
    run = train.train_and_evaluate if CASES[name][0] == "train" else pretrain.pretrain
    workdir = directory(given["root"], name)
    run(config(name, given["paths"], cache_dir=f"{workdir}_cache", **given["flags"]), workdir)
