"""Compares recipes over seeds on one data set: a table of test scores with intervals, beside the probe's.

python -m tl_app.compare --flagfile=configs/movie_reviews_minilm.cfg --recipes=probe,lp_ft --workdir=runs/compared

Takes every flag of tl_app.train. Finished runs are not run again. Writes comparison.md and comparison.json.
"""

from tl_app import backbones, cli

FLAGS = cli.FLAGS
cli.define_run()
cli.flags.DEFINE_string("recipes", "probe,lp_ft,full,gradual,lora", "Values of --recipe with commas, in its place.")
cli.flags.DEFINE_string("seeds", "0,1,2", "Numbers with commas: each is --split_seed and --seed of a run.")


def main():
  config = cli.config_from_flags()
  backbones.resolve(config.backbone)
  from tl_app.commands import compare

  result = compare.compare(config, FLAGS.recipes, FLAGS.seeds)
  print(compare.markdown(result), end="")
  compare.require_all(result)


if __name__ == "__main__":
  cli.run(main, __doc__)
