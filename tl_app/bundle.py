"""Puts all downloads of a run into one archive, for a machine without a network.

python -m tl_app.bundle --flagfile=configs/movie_reviews_minilm.cfg --output=movie_reviews.tar
python -m tl_app.bundle --flagfile=configs/movie_reviews_minilm.cfg --output=lock.json

Takes all flags of `train` and of `pretrain`; --help shows those that say what is downloaded. --backbone or --dataset is
needed. With --bundle=FILE.tar a run uses the archive; with --lock=lock.json it refuses downloads that have changed.
"""

from tl_app.commands import cli

# The other flags that say what is downloaded.
DATA_SETS = (
  *("dataset", "validation_dataset", "test_dataset", "probe_dataset", "unlabelled_dataset", "ood_dataset"),
  "data_dir",
)


def define_flags():
  cli.define_run(cli.ALL_FLAGS, (*cli.DOWNLOAD_FLAGS, *cli.LOADING_FLAGS, "backbone", *DATA_SETS))
  cli.flag("output", "", "Archive to write; if its name ends with .json, its lock.json alone.", path=True)


def main():
  flags = cli.FLAGS
  cli.need("output")
  config = cli.config_from_flags(needed=())
  from tl_app.commands import arguments

  arguments.bundle(config, flags.output)
  from tl_app.commands import early_checks

  early_checks.backbone(config)
  cli.start_tensorflow()
  from tl_app.commands import bundle as command

  with cli.progress():
    downloads, local = command.bundle(config, flags.output)
  print(command.text(flags.output, downloads, local))


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
