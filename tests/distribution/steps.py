"""Measures steps of one process and of two workers on loopback, and compares them with the cost model.

python -m tests.distribution.steps [--width=1024] [--batch_size=256] [--steps=30]

The network has four dense layers. Each process computes with one thread. The fastest step counts, since other processes
share the machine. The forecast for two workers knows the steps of one process with a whole and half a batch, and the
time in which two workers add up as many numbers as the network has weights.
"""

import argparse
import json

from tests.distribution import cost, launch

MEASURE = (
  launch.SETUP
  + """
import json, time
import keras, numpy as np
from tl_app.compute import devices
given = json.loads(sys.argv[1])
width, steps = given["width"], given["steps"]
used = devices.make(given["strategy"], 0)
with used.scope():
  network = keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(4))])
  network.compile(keras.optimizers.SGD(1e-3), keras.losses.MeanSquaredError())
x = np.random.default_rng(0).normal(size=(given["batch_size"], width)).astype("float32")
batches, seconds = tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(x))).repeat(), []

class Clock(keras.callbacks.Callback):
  def on_train_batch_begin(self, batch, logs=None):
    self.start = time.perf_counter()

  def on_train_batch_end(self, batch, logs=None):
    seconds.append(time.perf_counter() - self.start)

network.fit(used.distributed(batches), steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[Clock()])
exchange = []
if used.workers > 1:
  strategy = used.strategy
  add_up = lambda x: tf.distribute.get_replica_context().all_reduce("SUM", x + 0.0)
  sums = tf.function(lambda x: strategy.run(add_up, args=(x,)))
  numbers = tf.zeros([network.count_params()])
  for _ in range(steps):
    start = time.perf_counter()
    sums(numbers).numpy()
    exchange.append(time.perf_counter() - start)
found = {"step": min(seconds), "median": float(np.median(seconds)), "exchange": min(exchange, default=0.0)}
print(json.dumps(found | {"parameters": network.count_params()}))
"""
)


def measured(workers: int, **given) -> dict[str, float]:
  """Returns {"step", "median", "exchange"} in seconds and "parameters" of one process or of some workers."""
  argument = given | {"strategy": "multi_worker" if workers > 1 else "single"}
  configs = launch.cluster(workers) if workers > 1 else [""]
  (code, lines), *_ = launch.finish([launch.start(MEASURE, argument, tf_config) for tf_config in configs])
  assert code == 0, lines
  return json.loads(next(line for line in lines.splitlines() if line.startswith("{")))


def main():
  """Prints the measured steps and the forecast."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, default in (("width", 1024), ("batch_size", 256), ("steps", 30)):
    parser.add_argument(f"--{name}", type=int, default=default)
  given = vars(parser.parse_args())
  one, half = measured(1, **given), measured(1, **given | {"batch_size": given["batch_size"] // 2})
  two = measured(2, **given)
  compute = min(one["step"], 2 * (one["step"] - half["step"]))
  gbit = cost.BYTES * one["parameters"] * 8 / two["exchange"] / 1e9
  model = cost.Cost(one["parameters"], gbit, compute, fixed=one["step"] - compute, latency=0.0)
  print(f"weights: {one['parameters']:,}; sum over two workers {two['exchange']:.4f} s, {gbit:.2f} Gbit/s")
  for name, found in (("one process", one), ("one process, half a batch", half), ("two workers", two)):
    print(f"{name}: fastest step {found['step']:.4f} s, median {found['median']:.4f} s")
  print(f"forecast for two workers: {model.seconds(2):.4f} s")


if __name__ == "__main__":
  main()
