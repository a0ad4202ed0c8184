"""Fine-tunes a pretrained backbone on labelled data.

python -m tl_app.train --flagfile=configs/movie_reviews_minilm.cfg --workdir=runs/movie_reviews
"""

import logging

from tl_app.commands import cli

log = logging.getLogger("tl_app.train")


def define_flags():
  cli.define_run()
  cli.flag("self_test", False, "Train nothing, and check the promises of a run on this machine; see docs/resume.md.")


def main():
  config = cli.config_from_flags()
  # A wrong name is reported at once, not after the seconds that TensorFlow takes to start.
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config)
  config = default_backbone.named(config, quickly=True)
  early_checks.directory(config)
  if cli.FLAGS.self_test:
    _self_test(config)
    return
  log.info("training %s on %s; results go to %s", config.backbone or "a network", config.dataset, config.workdir)
  cli.start_tensorflow()
  from tl_app.commands import results, train

  with cli.progress():
    metrics = train.train_and_evaluate(config, config.workdir)
  results.training(metrics, config.workdir)


def _self_test(config):
  log.info("testing %s on %s", config.backbone or "a network", config.dataset)
  cli.start_tensorflow()
  from tl_app.commands import self_test

  checks = self_test.self_test(config)
  cli.print_results("\n".join(f"{check.name}: {check.result}" for check in checks))
  self_test.require_all(checks)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags, continues=True)
