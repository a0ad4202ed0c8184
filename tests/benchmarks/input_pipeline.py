"""Input pipeline against a bare tf.data loop that only reads and decodes the same files, in one process.

python -m tests.benchmarks.input_pipeline --directory=../shared/data/tf_flowers/all
"""

import argparse
import pathlib
import statistics
import time

import numpy as np
import tensorflow as tf

from tl_app.data import pipeline
from tl_app.data.examples import strings
from tl_app.data.folders import image_files
from tl_app.preprocessing.image import Preprocess, decode

BATCH_SIZE = 32


def bare(paths):
  """Returns a dataset of decoded images, read and decoded in parallel and nothing else."""
  read = tf.data.Dataset.from_tensor_slices(list(paths)).map(
    lambda path: decode(tf.io.read_file(path)), num_parallel_calls=tf.data.AUTOTUNE
  )
  return read.prefetch(tf.data.AUTOTUNE)


def seconds(dataset):
  """Returns the seconds of one pass; nothing leaves the C++ runtime, so Python's share of a batch does not count."""
  start = time.perf_counter()
  dataset.reduce(np.int64(0), lambda count, *_: count + 1).numpy()
  return time.perf_counter() - start


def main():
  """Prints examples per second of each pipeline and its ratio to the bare loop: median and range over the rounds."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--directory", required=True, help="Images below it are read.")
  parser.add_argument("--rounds", type=int, default=7, help="Times that each pipeline runs, in turn.")
  parser.add_argument("--image_size", type=int, default=224, help="Height and width in pixels.")
  parser.add_argument("--max_examples", type=int, default=0, help="0: all.")
  flags = parser.parse_args()
  paths = strings([str(path) for path in image_files(pathlib.Path(flags.directory))[0]])
  paths = paths[: flags.max_examples or None]
  paths = paths[: len(paths) // BATCH_SIZE * BATCH_SIZE]
  preprocess = Preprocess(flags.image_size)
  targets = np.zeros(len(paths), np.int32)
  training = pipeline.for_training(paths, targets, preprocess, "image", BATCH_SIZE, seed=0)
  datasets = {
    "bare": bare(paths),
    "for_inference": pipeline.for_inference(paths, preprocess, "image", BATCH_SIZE)[0],
    "for_training": training.take(len(paths) // BATCH_SIZE),
  }
  times = {name: [] for name in datasets}
  for round_number in range(flags.rounds + 1):
    for name, dataset in datasets.items():
      taken = seconds(dataset)
      if round_number:  # the first one fills the page cache and traces
        times[name].append(taken)
  print(f"{len(paths):,} images, {flags.image_size} pixels, batches of {BATCH_SIZE}, {flags.rounds} rounds")
  for name, taken in times.items():
    rates = [len(paths) / value for value in taken]
    ratios = [base / value for base, value in zip(times["bare"], taken)]
    print(
      f"{name:14} {statistics.median(rates):7.0f} images/s ({min(rates):.0f} to {max(rates):.0f})   "
      f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
  main()
