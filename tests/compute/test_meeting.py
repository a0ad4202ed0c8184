"""Workers wait for each other, and say for whom; a signal and the clock end the wait."""

import logging
import signal
import socket
import threading
import time

import pytest

from tl_app.compute import meeting
from tl_app.errors import UserError


def addresses(count):
  """Returns host:port of some ports that are free now."""
  sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
  found = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
  for each in sockets:
    each.close()
  return found


def test_workers_that_start_at_different_times_meet(monkeypatch):
  monkeypatch.setattr(meeting, "PAUSE", 0.01)
  workers, ended = addresses(3), {}

  def work(number):
    # Those that have met leave their port to TensorFlow, which listens there in their place.
    time.sleep(0.2 * number)
    meeting.wait(workers, number, 5)
    ended[number] = time.monotonic()
    with socket.create_server(("127.0.0.1", int(workers[number].rpartition(":")[2]))):
      time.sleep(1)

  start, threads = time.monotonic(), [threading.Thread(target=work, args=(number,)) for number in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(ended) == [0, 1, 2]
  assert min(ended.values()) - start > 0.3


def test_the_worker_that_is_missing_is_named(monkeypatch, caplog):
  monkeypatch.setattr(meeting, "QUIET", 0.1)
  monkeypatch.setattr(meeting, "PAUSE", 0.01)
  workers = addresses(3)
  with caplog.at_level(logging.WARNING), pytest.raises(UserError) as error:
    meeting.wait(workers, 1, 0.3)
  missing = f"worker 0 ({workers[0]}) and 1 other"
  assert str(error.value).startswith(f"--strategy=multi_worker: {missing} cannot be reached after 0 minutes: start all")
  assert [record.getMessage() for record in caplog.records] == [f"waiting for {missing}, for at most 0 minutes"]


def test_a_signal_ends_the_wait():
  def interrupt(*_):
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGALRM, interrupt)
  signal.setitimer(signal.ITIMER_REAL, 0.2)
  start = time.monotonic()
  try:
    # The port of the other one is taken, and nobody listens there.
    with socket.socket() as other, pytest.raises(KeyboardInterrupt):
      other.bind(("127.0.0.1", 0))
      meeting.wait([*addresses(1), f"127.0.0.1:{other.getsockname()[1]}"], 0, 20)
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
  assert time.monotonic() - start < 5


def test_a_port_that_others_listen_to_is_refused_and_one_that_was_just_closed_is_not():
  with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    client, (served, _) = socket.create_connection(("127.0.0.1", port)), server.accept()
    with pytest.raises(UserError, match=f"port {port} of one cannot be used .Address already in use.: give this"):
      meeting.wait([f"one:{port}"], 0)
  # The side that closes first keeps the port for a minute.
  served.close()
  client.close()
  meeting.wait([f"one:{port}"], 0)


def test_an_address_of_ipv6_has_brackets():
  assert meeting._split("[::1]:12345") == ("::1", 12345)
  assert meeting._split("host0:12345") == ("host0", 12345)
