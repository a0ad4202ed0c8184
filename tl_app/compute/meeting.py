"""The start of several workers: each one listens and waits for the others, before TensorFlow does.

TensorFlow connects the workers in a call in which Python runs nothing else: no signal ends it and no timer, and it does
not say which worker is missing.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence

from tl_app.errors import UserError
from tl_app.errors.counts import number_of

log = logging.getLogger(__name__)

# How long a worker waits for the others to start, in seconds.
START_SECONDS = 600
# Seconds after which it says for whom, between two attempts, and for one of them.
QUIET, PAUSE, ATTEMPT = 15.0, 0.2, 2.0


def wait(addresses: Sequence[str], own: int, seconds: float = START_SECONDS) -> None:
  """Waits until all workers listen. Afterwards the port of this one is free again, for TensorFlow.

  Args:
    addresses: host:port of each worker.
    own: number of this worker.
    seconds: how long to wait.

  Raises:
    UserError: the port is in use, or a worker does not start.
  """
  start, told = time.monotonic(), False
  missing = [number for number in range(len(addresses)) if number != own]
  with _listening(addresses[own], len(addresses)):
    while missing := [number for number in missing if not _listens(addresses[number])]:
      passed = time.monotonic() - start
      if passed > seconds:
        raise UserError(
          f"--strategy=multi_worker: {_named(missing, addresses)} cannot be reached after {_minutes(seconds)}: start "
          "all workers with the same command"
        )
      if passed > QUIET and not told:
        told = True
        log.warning("waiting for %s, for at most %s", _named(missing, addresses), _minutes(seconds))
      time.sleep(PAUSE)


def _named(numbers, addresses):
  """Returns the first of some workers and how many others there are, in words."""
  others = f" and {number_of(len(numbers) - 1, 'other')}" if len(numbers) > 1 else ""
  return f"worker {numbers[0]} ({addresses[numbers[0]]}){others}"


def _minutes(seconds):
  return f"{seconds / 60:.0f} minutes"


@contextlib.contextmanager
def _listening(address, most) -> Iterator[None]:
  """Listens while the block runs. TensorFlow would wait for ever for a port that is in use."""
  host, port = _split(address)
  family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
  try:
    server = socket.create_server(("", port), family=family, backlog=most, dualstack_ipv6=family == socket.AF_INET6)
  except OSError as error:
    reason = os.strerror(error.errno or 0)
    raise UserError(
      f"--strategy=multi_worker: port {port} of {host} cannot be used ({reason}): give this worker another"
    ) from None
  with server:
    yield


def _listens(address):
  try:
    socket.create_connection(_split(address), timeout=ATTEMPT).close()
  except OSError:
    return False
  return True


def _split(address):
  """Returns (host, port); an IPv6 address has brackets."""
  host, _, port = address.rpartition(":")
  return host.strip("[]"), int(port)
