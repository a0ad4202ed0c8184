"""Compares recipes over seeds on one data set: a table of test scores with intervals, beside the probe's.

python -m tl_app.compare --flagfile=configs/movie_reviews_minilm.cfg --recipes=probe,lp_ft --workdir=runs/compared

Takes all flags of tl_app.train. Finished runs are not repeated, interrupted ones continue. Writes comparison.md and
comparison.json.
"""

from tl_app import cli


def define_flags():
  cli.define_run()
  cli.flag("recipes", "probe,lp_ft,full,gradual,lora", "Values of --recipe, separated by commas. Replaces --recipe.")
  cli.flag("seeds", "0,1,2", "Numbers separated by commas; each is the --split_seed and the --seed of a run.")


def main():
  config = cli.config_from_flags()
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config)
  config = default_backbone.named(config)
  from tl_app.commands import compare

  result = compare.compare(config, cli.FLAGS.recipes, cli.FLAGS.seeds)
  print(compare.markdown(result), end="")
  compare.require_all(result)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags, continues=True)
