"""Compares recipes over seeds on one data set: a table of test scores with intervals and differences to the probe.

python -m tl_app.compare --flagfile=configs/movie_reviews_minilm.cfg --recipes=probe,lp_ft --workdir=runs/compared

Takes all flags of tl_app.train. Finished runs are not repeated, interrupted ones continue. Writes comparison.md and
comparison.json.

python -m tl_app.compare --workdirs=runs/a,runs/b --workdir=runs/a_and_b

Compares finished runs on their test examples and trains nothing: the paired test, and which examples changed. With
--workdir it writes comparison.json, comparison.html and changes.csv.
"""

from tl_app.commands import cli


def define_flags():
  cli.define_run()
  cli.flag("recipes", "probe,lp_ft,full,gradual,lora", "Values of --recipe, separated by commas. Replaces --recipe.")
  cli.flag("seeds", "0,1,2", "Numbers separated by commas; each is the --split_seed and the --seed of a run.")

  cli.flag("workdirs", "", "Finished runs, separated by commas: the first is compared with each of the others.")


def main():
  if cli.FLAGS.workdirs:
    compare_runs()
    return
  config = cli.config_from_flags()
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config)
  config = default_backbone.named(config)
  from tl_app.commands import compare

  result = compare.compare(config, cli.FLAGS.recipes, cli.FLAGS.seeds)
  print(compare.markdown(result), end="")
  compare.require_all(result)


def compare_runs():
  """Compares the runs of --workdirs."""
  given = [name for name in cli.given() if name != "workdir"]
  given += [name for name in ("recipes", "seeds", "config") if cli.FLAGS[name].present]
  from tl_app.commands import compare_runs as command

  command.refuse(given)
  cli.print_results(command.lines(command.compare(cli.FLAGS.workdirs.split(","), cli.FLAGS.workdir)))


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags, continues=True)
