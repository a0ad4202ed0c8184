"""Which worker a process is, and the messages about an environment that does not tell it."""

import json
import logging

import pytest

from tl_app import terminal
from tl_app.compute import cluster
from tl_app.errors import UserError

HOSTS = ["one:1234", "two:1234", "three:1234"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """Hides the environment of the machine, and undoes what `join` changes."""
  for name in ("TF_CONFIG", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(terminal, "_speaker", [""])
  level = logging.getLogger("tl_app").level
  yield monkeypatch
  logging.getLogger("tl_app").setLevel(level)


def tf_config(addresses, kind="worker", index=0, **other):
  return json.dumps({"cluster": {"worker": addresses, **other}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
  ("text", "place"),
  [
    (tf_config(HOSTS, index=2), (2, 3)),
    (tf_config(HOSTS[1:], chief=HOSTS[:1], kind="chief"), (0, 3)),
    (tf_config(HOSTS[1:], chief=HOSTS[:1], index=1), (2, 3)),
    (tf_config(HOSTS, ps=[]), (0, 3)),
  ],
)
def test_tf_config_tells_the_place(environment, text, place):
  environment.setenv("TF_CONFIG", text)
  found = cluster.join("multi_worker")
  assert (found.worker, found.workers, found.slurm_port) == (*place, 0)
  assert terminal.speaker() == (f"worker {place[0]}: " if place[0] else "")


def test_a_step_of_slurm_tells_the_place_and_two_jobs_have_other_ports(environment):
  environment.setenv("SLURM_PROCID", "1")
  environment.setenv("SLURM_STEP_NUM_TASKS", "4")
  ports = set()
  for job in ("17", "18"):
    environment.setenv("SLURM_JOB_ID", job)
    found = cluster.join("multi_worker")
    assert (found.worker, found.workers) == (1, 4)
    ports.add(found.slurm_port)
  assert len(ports) == 2 and all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("", "needs the environment variable TF_CONFIG"),
    ("{", "TF_CONFIG is not of the form"),
    ("[1]", "TF_CONFIG is not of the form"),
    (json.dumps({"cluster": {"worker": HOSTS}}), "TF_CONFIG is not of the form"),
    (tf_config(HOSTS, index="first"), "TF_CONFIG is not of the form"),
    (tf_config(HOSTS, index=3), "this task is worker 3, but the cluster names 3 of this kind, numbered from 0"),
    (tf_config(HOSTS, index=-1), "this task is worker -1"),
    (tf_config(HOSTS, kind="evaluator"), "this task is evaluator 0, but the cluster names 0 of this kind"),
    (tf_config(HOSTS, ps=["four:1234"]), "tasks of the kind 'ps'"),
    (tf_config(["one", "two:1"]), "the address 'one' is not of the form host:port"),
    (tf_config(["one:1", "one:1"]), "two workers have the same address"),
    (tf_config(HOSTS[:1]), "names one worker alone: pass --strategy=single"),
  ],
)
def test_an_environment_that_names_no_place_is_one_line(environment, text, line):
  environment.setenv("TF_CONFIG", text)
  with pytest.raises(UserError) as error:
    cluster.join("multi_worker")
  assert line in str(error.value) and "\n" not in str(error.value)


def test_other_strategies_do_not_read_the_environment(environment):
  environment.setenv("TF_CONFIG", "{")
  assert cluster.join("auto") is None and cluster.join("mirrored") is None
