"""Pretrains a backbone on texts or images without labels.

python -m tl_app.pretrain --backbone=minilm_l6.pypi --dataset=texts:mails/ --workdir=runs/mails_lm

The result is WORKDIR/backbone, which --backbone of tl_app.train reads.
"""

import logging

from tl_app.commands import cli

log = logging.getLogger("tl_app.pretrain")


def define_flags():
  cli.define_run(cli.PRETRAIN_FLAGS)


def main():
  config = cli.config_from_flags()
  # A wrong name is reported at once, not after the seconds that TensorFlow takes to start.
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config, labelled=False)
  config = default_backbone.named(config, quickly=True, labelled=False)
  log.info("pretraining %s on %s; results go to %s", config.backbone, config.dataset, config.workdir)
  cli.start_tensorflow()
  from tl_app.commands import pretrain, results

  with cli.progress():
    metrics = pretrain.pretrain(config, config.workdir)
  results.pretraining(metrics, config.workdir)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags, continues=True)
