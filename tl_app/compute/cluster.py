"""The workers of --strategy=multi_worker: their addresses and the number of this one, from the environment.

TF_CONFIG is what TensorFlow reads; Kubeflow, Vertex AI and others set it. A step of a Slurm job has its own variables.
"""

import dataclasses
import json
import os
from collections.abc import Mapping

from tl_app.errors import UserError
from tl_app.terminal import progress

STRATEGY = "multi_worker"
VARIABLE = "TF_CONFIG"
# Kinds of tasks that train, the chief first, as `tf.distribute.MultiWorkerMirroredStrategy` numbers them.
TRAINING = ("chief", "worker")
# Ports of the tasks of a Slurm job: two jobs on a machine have different ones.
FIRST_PORT, PORTS = 12000, 16384
_EXAMPLE = '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of this process among the workers.

  Attributes:
    worker: number of this worker, from 0; worker 0 is the chief.
    workers: number of workers.
    slurm_port: port of the first task on each machine if Slurm's variables tell the addresses; 0 with TF_CONFIG.
  """

  worker: int
  workers: int
  slurm_port: int = 0


def join(strategy: str) -> Place | None:
  """Returns the `Place` of this process, and lets a worker that is not the chief print warnings and errors only.

  Args:
    strategy: value of --strategy.

  Returns:
    The `Place`; None without --strategy=multi_worker.

  Raises:
    UserError: the environment names no workers, or not this one.
  """
  if strategy != STRATEGY:
    return None
  place = _of_environment(os.environ)
  if place.workers < 2:
    raise UserError(
      f"--strategy={STRATEGY}: the environment names one worker alone: pass --strategy=single, or --strategy=mirrored "
      "for several GPUs of one machine"
    )
  if place.worker:
    progress.show_none(place.worker)
  return place


def _of_environment(environment: Mapping[str, str]) -> Place:
  if environment.get(VARIABLE):
    return _of_tf_config(environment[VARIABLE])
  try:
    worker, workers = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS"))
    return Place(worker, workers, FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % PORTS)
  except (KeyError, ValueError):
    raise UserError(
      f"--strategy={STRATEGY} needs the environment variable {VARIABLE}, with the addresses of the workers and the "
      f"number of this one ({_EXAMPLE}), or to be started by srun in a Slurm job"
    ) from None


def _of_tf_config(text):
  try:
    content = json.loads(text)
    cluster, task = content["cluster"], content["task"]
    addresses = {kind: list(cluster[kind]) for kind in cluster if cluster[kind]}
    kind, index = str(task["type"]), int(task["index"])
  except (ValueError, KeyError, TypeError):
    raise UserError(f"{VARIABLE} is not of the form {_EXAMPLE}") from None
  other = [name for name in addresses if name not in TRAINING]
  if other:
    raise UserError(f"{VARIABLE}: the cluster has tasks of the kind {other[0]!r}: only {' and '.join(TRAINING)} train")
  every = [str(address) for name in TRAINING for address in addresses.get(name, [])]
  bad = [address for address in every if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit()]
  if bad:
    raise UserError(f"{VARIABLE}: the address {bad[0]!r} is not of the form host:port")
  if len(set(every)) < len(every):
    raise UserError(f"{VARIABLE}: two workers have the same address: give each its own host:port")
  if not 0 <= index < len(addresses.get(kind, [])):
    raise UserError(
      f"{VARIABLE}: this task is {kind} {index}, but the cluster names {len(addresses.get(kind, []))} of this kind, "
      "numbered from 0"
    )
  return Place(index + (len(addresses.get("chief", [])) if kind == "worker" else 0), len(every))
