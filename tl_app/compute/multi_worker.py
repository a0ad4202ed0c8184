"""`Workers`: the strategy of --strategy=multi_worker, and what the workers tell each other.

Keras 3.15 cannot train under `tf.distribute.MultiWorkerMirroredStrategy` as it is: `keras.Model.fit` passes two things
to `Strategy.reduce` that this strategy does not take (https://github.com/keras-team/keras/issues/20585).
`Workers.reduce` takes them.
"""

import contextlib
import faulthandler
import functools
import json
import re
import signal
import threading
import typing
import weakref
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_app.compute import meeting
from tl_app.compute.batch_predictor import BatchPredictor
from tl_app.compute.cluster import TRAINING, Place
from tl_app.errors import RunFailed, UserError
from tl_app.terminal import progress

# Bytes that are sent at a time.
PIECE = 2**26
_ERRORS = {error.__name__: error for error in (UserError, RunFailed)}
# What TensorFlow raises if another process does not answer.
_LOST = (
  *(tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError),
  tf.errors.DeadlineExceededError,
)
# Beginnings of the lines in which TensorFlow says where in a program an error was.
_PLACES = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", " ", "\t")


class Workers(tf.distribute.MultiWorkerMirroredStrategy):
  """A strategy over the devices of several processes, each with the same number of devices.

  Each worker runs the same program; a value that one of them measures or decides is sent to the others. All methods
  that send must be called by all workers, in the same order.

  Attributes:
    place: the `Place` of this process.
  """

  def __init__(self, place: Place):
    """Connects to the other workers, and waits for them.

    Args:
      place: the `Place` of this process; the addresses come from the environment.

    Raises:
      UserError: the port is in use, a worker does not start, or TensorFlow has started before.
    """
    self.place = place
    resolver = None
    if place.slurm_port:
      resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=place.slurm_port, **({} if tf.config.list_physical_devices("GPU") else {"gpus_per_node": 0})
      )
    meeting.wait(_addresses(resolver or tf.distribute.cluster_resolver.TFConfigClusterResolver()), place.worker)
    try:
      with _connecting():
        super().__init__(cluster_resolver=resolver)
    except RuntimeError as error:
      raise UserError(f"--strategy=multi_worker: {error}: start it in a new process") from None
    except tf.errors.OpError as error:
      raise UserError(f"--strategy=multi_worker: TensorFlow cannot connect the workers: {_reason(error)}") from None
    # The streams of training are endless: no step needs to ask all workers whether there is a batch.
    self.extended.experimental_enable_get_next_as_optional = False

  @property
  def local_replicas(self) -> int:
    """Number of devices of this worker."""
    return self.num_replicas_in_sync // self.place.workers

  def reduce(self, reduce_op, value, axis):
    """Reduces a value over the devices; see `tf.distribute.Strategy.reduce`.

    Of a nested structure, from which `fit` takes the shapes of the first batch, it returns the part of this worker's
    first device. Scalars, which `fit` reduces along an axis that they do not have, are reduced over the devices.
    """
    if axis is None and tf.nest.is_nested(value):
      return tf.nest.map_structure(lambda one: self.experimental_local_results(one)[0], value)
    if axis == 0 and all(one.shape.rank == 0 for one in self.experimental_local_results(value)):
      axis = None
    return super().reduce(reduce_op, value, axis)

  def distributed(self, dataset: tf.data.Dataset) -> tf.distribute.DistributedDataset:
    """Returns this worker's shares of the global batches of `dataset`, for `keras.Model.fit`."""
    worker, local = self.place.worker, self.local_replicas

    def share(*batch):
      found = tf.nest.map_structure(lambda x: _share(x, worker, self.place.workers), batch)
      return found if len(found) > 1 else found[0]

    def by_device(*shares):
      found = tf.nest.map_structure(lambda x: tf.stack(tf.split(x, local)), shares)
      return tf.data.Dataset.from_tensor_slices(found if len(found) > 1 else found[0])

    def own(context):
      shares = dataset.map(share)
      return shares.flat_map(by_device) if local > 1 else shares

    return self.distribute_datasets_from_function(own)

  def send(self, content: bytes | None) -> bytes:
    """Returns the bytes that the chief has given; the others give None."""
    content = content or b""
    size, parts = int(self._sum(np.array([len(content)]))[0]), []
    for start in range(0, size, PIECE):
      words = np.zeros(-(-min(PIECE, size - start) // 8), np.int64)
      piece = np.frombuffer(content[start : start + PIECE], np.uint8)
      words.view(np.uint8)[: len(piece)] = piece
      parts.append(self._sum(words).view(np.uint8)[: min(PIECE, size - start)].tobytes())
    return b"".join(parts)

  def decide(self, compute: Callable[[], typing.Any]) -> typing.Any:
    """Returns what `compute` returns on the chief, which JSON must hold. Its errors are raised by all workers."""
    if self.place.worker:
      message = json.loads(self.send(None))
      if "error" in message:
        raise _ERRORS.get(message["error"], RunFailed)(message["reason"])
      return message["value"]
    try:
      message = {"value": compute()}
    except Exception as error:
      reason = str(error) if type(error).__name__ in _ERRORS else f"worker 0, the chief, failed: {_reason(error)}"
      self.send(json.dumps({"error": type(error).__name__, "reason": reason}).encode())
      raise
    content = json.dumps(message, default=float)
    self.send(content.encode())
    return json.loads(content)["value"]

  def arrays(self, compute: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Returns the arrays that `compute` returns on the chief. Its errors are raised by all workers."""
    held = []

    def about():
      held.extend(np.ascontiguousarray(array) for array in compute())
      return [(array.dtype.str, array.shape) for array in held]

    specs = self.decide(about)
    found = []
    for number, (dtype, shape) in enumerate(specs):
      content = self.send(None if self.place.worker else held[number].tobytes())
      found.append(np.frombuffer(content, dtype).reshape(shape))
    return found

  def joined(self, compute: Callable[[np.ndarray], np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Returns [n, ..], what `compute` returns for each of n positions; each worker computes its share of them.

    Args:
      compute: function, int [k] -> array [k, ..].
      positions: int [n].
    """
    shares = np.array_split(positions, self.place.workers)
    if not len(shares[-1]):
      return compute(positions)
    own = np.ascontiguousarray(compute(shares[self.place.worker]))
    row = own.itemsize * int(np.prod(own.shape[1:]))
    sizes = [-(-len(share) * row // 8) for share in shares]
    words = np.zeros(sizes[self.place.worker], np.int64)
    words.view(np.uint8)[: own.nbytes] = own.reshape(-1).view(np.uint8)
    found = self._gather(words)
    if len(found) != sum(sizes):
      raise RunFailed("the workers have computed outputs of different shapes: give all the same flags and data")
    parts = np.split(found, np.cumsum(sizes)[:-1])
    joined = [part.view(np.uint8)[: len(share) * row] for part, share in zip(parts, shares)]
    return np.concatenate(joined).view(own.dtype).reshape(len(positions), *own.shape[1:])

  @functools.cached_property
  def _sum(self):
    return self._exchange(lambda context, words, is_first: context.all_reduce("SUM", words * is_first))

  @functools.cached_property
  def _gather(self):
    return self._exchange(
      lambda context, words, is_first: context.all_gather(words[: tf.size(words, tf.int64) * is_first], axis=0)
    )

  def _exchange(self, operation):
    """Returns the function int64 [n] -> int64 [m] of a collective operation; one device of each worker sends."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def run(words):
      def on_device():
        context = tf.distribute.get_replica_context()
        first = self.place.worker * self.local_replicas
        return operation(context, words, tf.cast(tf.equal(context.replica_id_in_sync_group, first), tf.int64))

      return self.experimental_local_results(self.run(on_device))[0]

    return lambda words: run(tf.constant(words, tf.int64)).numpy()

  @contextlib.contextmanager
  def watched(self) -> Iterator[None]:
    """Raises `RunFailed` with one line if another worker is lost while the block runs."""
    try:
      yield
    except _LOST as error:
      tasks = set(re.findall(r"/job:(?:worker|chief)/(?:replica:\d+/)?task:(\d+)", error.message))
      others = sorted(tasks - {str(self.place.worker)}, key=int)
      which = f"worker {others[0]}" if others else "another worker"
      raise RunFailed(
        f"{which} was lost ({_reason(error)}): start the same command on all workers again; a training continues after "
        "the last phase that has ended"
      ) from None


class LocalPredictor(BatchPredictor):
  """Predicts with a network of `Workers` on the devices of this worker alone.

  `keras.Model.predict` would divide every batch among all workers.
  """

  def __init__(self, network: keras.Model):
    strategy = network.distribute_strategy
    self._local = strategy.local_replicas
    self._strategy = strategy

    @tf.function(reduce_retracing=True)
    def run(batch):
      return strategy.run(lambda x: network(x, training=False), args=(batch,))

    self._run = run

  def predict_on_batch(self, batch) -> np.ndarray:
    """Returns the outputs, float32 [batch, ..], for one batch, whose size the devices of this worker divide."""
    if self._local > 1:
      parts = [
        tf.nest.map_structure(lambda x, number=i: _share(x, number, self._local), batch) for i in range(self._local)
      ]
      batch = self._strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group % self._local]
      )
    outputs = self._strategy.experimental_local_results(self._run(batch))
    return np.concatenate([output.numpy() for output in outputs])


_predictors: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def predictor(network: typing.Any) -> typing.Any:
  """Returns what has `predict` and computes on this worker alone: the network itself without several workers."""
  if not isinstance(network, keras.Model) or not isinstance(network.distribute_strategy, Workers):
    return network
  if network not in _predictors:
    _predictors[network] = LocalPredictor(network)
  return _predictors[network]


@functools.cache
def connected(place: Place) -> Workers:
  """Returns the one `Workers` of this process."""
  with progress.uncounted():
    return Workers(place)


def _addresses(resolver):
  """Returns host:port of each worker, the chief first."""
  spec = resolver.cluster_spec()
  return [address for kind in TRAINING if kind in spec.jobs for address in spec.job_tasks(kind)]


@contextlib.contextmanager
def _connecting():
  """Ends the process if the block takes too long: Python can run nothing else meanwhile, and no handler of a signal."""
  handlers = {}
  faulthandler.dump_traceback_later(meeting.START_SECONDS, exit=True, file=2)
  if threading.current_thread() is threading.main_thread():
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    faulthandler.cancel_dump_traceback_later()
    # TensorFlow has installed its own.
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _share(x, number, count):
  """Returns one of `count` equal parts of a tensor along its first axis."""
  size = (x.shape[0] if x.shape[0] is not None else tf.shape(x)[0]) // count
  return x[number * size : (number + 1) * size]


def _reason(error):
  """Returns the first line of an error, which is short, after those in which TensorFlow says where it was."""
  lines = [line for line in (getattr(error, "message", None) or str(error)).splitlines() if line.strip()]
  told = [line for line in lines if not line.startswith(_PLACES)]
  return " ".join([*told, *lines, type(error).__name__][0].split())[:160]
