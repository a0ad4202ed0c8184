"""Input pipeline against a bare tf.data loop that only reads and decodes the same files, in one process.

python -m tests.benchmarks.input_pipeline --directory=../shared/data/tf_flowers/all
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

from tl_app.data import pipeline
from tl_app.data.examples import Inputs, Record, strings
from tl_app.data.readers.folders import image_files
from tl_app.preprocessing.image import ImagePreprocess, decode

BATCH_SIZE = 32


def bare(paths):
  """Returns a dataset of decoded images, read and decoded in parallel and nothing else."""
  read = tf.data.Dataset.from_tensor_slices(list(paths)).map(
    lambda path: decode(tf.io.read_file(path)), num_parallel_calls=pipeline.PARALLEL
  )
  return pipeline.ahead(read)


def records(paths, file):
  """Writes the images into a TFRecord file and returns them as object array [n] of `Record`."""
  found, offset = [], 0
  with tf.io.TFRecordWriter(file) as writer:
    for path in paths:
      example = tf.train.Example()
      example.features.feature["image"].bytes_list.value.append(pathlib.Path(path).read_bytes())
      serialized = example.SerializeToString()
      writer.write(serialized)
      found.append(Record(file, offset, "image"))
      offset += len(serialized) + 16
  return strings(found)


def seconds(dataset):
  """Returns (seconds, CPU seconds of all threads) of one pass, which stays in the C++ runtime."""
  start, cpu = time.perf_counter(), time.process_time()
  dataset.reduce(np.int64(0), lambda count, *_: count + 1).numpy()
  return time.perf_counter() - start, time.process_time() - cpu


def main():
  """Prints the images per second of each pipeline and their ratio to the bare loop: median and range of the rounds.

  The last column is the ratio per CPU second, which other work on the machine hardly moves.
  """
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--directory", required=True, help="Images below it are read.")
  parser.add_argument("--rounds", type=int, default=7, help="Times that each pipeline runs, in turn.")
  parser.add_argument("--image_size", type=int, default=224, help="Height and width in pixels.")
  parser.add_argument("--max_examples", type=int, default=0, help="0: all.")
  flags = parser.parse_args()
  paths = strings([str(path) for path in image_files(pathlib.Path(flags.directory))[0]])
  paths = paths[: flags.max_examples or None]
  paths = paths[: len(paths) // BATCH_SIZE * BATCH_SIZE]
  preprocess = ImagePreprocess(flags.image_size)
  with tempfile.TemporaryDirectory() as scratch:
    datasets = {"bare": bare(paths)}
    for form, values in (("files", paths), ("records", records(paths, f"{scratch}/images.tfrecord"))):
      inputs = Inputs.of("image", values)
      datasets[f"inference, {form}"] = pipeline.for_inference(inputs, preprocess, BATCH_SIZE)[0]
      order = pipeline.index_batches(len(paths), BATCH_SIZE, seed=0)
      steps = pipeline.training_steps(inputs, np.zeros(len(paths), np.int32), preprocess, order)
      training = pipeline.whole(steps)
      datasets[f"training, {form}"] = training.take(len(paths) // BATCH_SIZE)
    # The first round fills the page cache and traces.
    rounds = [{name: seconds(dataset) for name, dataset in datasets.items()} for _ in range(flags.rounds + 1)][1:]
  print(f"{len(paths):,} images, {flags.image_size} pixels, batches of {BATCH_SIZE}, {flags.rounds} rounds")
  for name in datasets:
    rates = _spread([len(paths) / taken[name][0] for taken in rounds], ".0f")
    ratios, cpu = ([taken["bare"][i] / taken[name][i] for taken in rounds] for i in (0, 1))
    print(f"{name:18} images/s {rates:22} ratio {_spread(ratios, '.2f'):22} per CPU second {_spread(cpu, '.2f')}")


def _spread(values, form):
  return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
  main()
