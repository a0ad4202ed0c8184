"""Fine-tunes a pretrained backbone on labelled data.

python -m tl_app.train --flagfile=configs/movie_reviews_minilm.cfg --workdir=runs/movie_reviews
"""

import dataclasses
import pathlib

from absl import flags

from tl_app import backbones, cli
from tl_app import config as config_lib
from tl_app.errors import UserError

cli.define()
flags.DEFINE_string("config", "", "A config.json of an earlier run; flags that are given override it.")


def config_from_flags():
  """Returns the validated `Config` of the command line."""
  config = config_lib.Config()
  path = flags.FLAGS.config
  if path:
    if not pathlib.Path(path).is_file():
      raise UserError(f"--config={path} is not a file")
    config = config_lib.from_json(pathlib.Path(path).read_text(encoding="utf-8", errors="replace"), path)
  config = dataclasses.replace(config, **cli.given())
  config_lib.validate(config)
  return config


def main():
  config = config_from_flags()
  # A misspelt name is said at once, not after the seconds that TensorFlow takes to start.
  backbones.resolve(config.backbone)
  cli.start_tensorflow()
  from tl_app import summary, training

  with cli.progress():
    metrics = training.train_and_evaluate(config, config.workdir)
  print(summary.lines(metrics, config.workdir))


if __name__ == "__main__":
  cli.run(main, __doc__)
