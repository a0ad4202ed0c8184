"""New processes that have TensorFlow already: each is forked from one that has imported it and has run nothing.

Importing TensorFlow is most of the time of a small script. `tests/serving/test_saved_model_export.py` and
`tests/test_entry_points.py` start real processes.
"""

import atexit
import concurrent.futures
import functools
import json
import os
import signal
import socket
import subprocess
import sys

# Forks a keeper for each request, and the keeper the process, whose exit code it writes.
_TEMPLATE = """
import json, os, runpy, socket, sys, traceback
import tensorflow

def run(argv, environment, directory):
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(directory)
  if argv[0] == "-c":
    sys.argv = ["-c", *argv[2:]]
    sys.path.insert(0, "")
    exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
  elif argv[0] == "-m":
    sys.argv = argv[1:]
    sys.path.insert(0, directory)
    runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
  else:
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")

def child(*request):
  code = 0
  try:
    run(*request)
  except SystemExit as exit:
    code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)

def keeper(request, streams, status):
  pid = os.fork()
  if not pid:
    os.close(status)
    for number, stream in enumerate(streams):
      os.dup2(stream, number)
      os.close(stream)
    # Those of the template may be files.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", 1, errors="backslashreplace")
    child(*request)
  for stream in streams:
    os.close(stream)
  os.write(status, b"%d " % pid)
  code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  try:
    os.write(status, b"%d" % code)
  finally:
    # Nobody reads it any more if the tests have ended.
    os._exit(0)

requests = socket.socket(fileno=int(sys.argv[1]))
keepers = 0
while True:
  message, descriptors, *_ = socket.recv_fds(requests, 1 << 20, 4)
  if not message:
    break
  keepers += 1
  if not os.fork():
    requests.close()
    keeper(json.loads(message), descriptors[:3], descriptors[3])
  for descriptor in descriptors:
    os.close(descriptor)
  while os.waitpid(-1, os.WNOHANG)[0]:
    keepers -= 1
    if not keepers:
      break
"""


@functools.cache
def _template():
  """Starts the process that is forked; returns the socket for requests."""
  ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}
  command = [sys.executable, "-P", "-c", _TEMPLATE, str(theirs.fileno())]
  process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
  theirs.close()
  atexit.register(lambda: (ours.close(), process.wait()))
  return ours


def run(*command):
  """Runs Python with a script, "-c" and code or "-m" and a module, and arguments; returns its `CompletedProcess`."""
  pipe = subprocess.PIPE
  process = Popen([sys.executable, *command], env=os.environ, stdin=pipe, stdout=pipe, stderr=pipe)
  process.stdin.close()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    stdout, stderr = pool.map(lambda stream: stream.read().decode(), (process.stdout, process.stderr))
  return subprocess.CompletedProcess(command, process.wait(), stdout, stderr)


class Popen:
  """Stands for `subprocess.Popen` with three pipes of bytes.

  Args:
    command: [Python, "-P"?, what Python runs, *arguments].
    env: the environment.
    stdin, stdout, stderr: `subprocess.PIPE`.
  """

  def __init__(self, command, env, stdin, stdout, stderr):
    assert command[0] == sys.executable and {stdin, stdout, stderr} == {subprocess.PIPE}
    (read_in, write_in), (read_out, write_out), (read_err, write_err), (read_status, write_status) = (
      os.pipe() for _ in range(4)
    )
    request = json.dumps([[word for word in command[1:] if word != "-P"], dict(env), os.getcwd()]).encode()
    theirs = [read_in, write_out, write_err, write_status]
    socket.send_fds(_template(), [request], theirs)
    for descriptor in theirs:
      os.close(descriptor)
    self.stdin, self.stdout, self.stderr = (
      os.fdopen(write_in, "wb"),
      os.fdopen(read_out, "rb"),
      os.fdopen(read_err, "rb"),
    )
    self._status, self._read, self.returncode = read_status, b"", None
    while b" " not in self._read:
      chunk = os.read(self._status, 32)
      assert chunk, "the process that is forked has ended: see its standard error"
      self._read += chunk
    self.pid = int(self._read.split()[0])

  def poll(self):
    """Returns the exit code, or None while the process runs."""
    if self.returncode is None:
      os.set_blocking(self._status, False)
    try:
      return self._ended()
    except BlockingIOError:
      return None

  def wait(self):
    """Returns the exit code, negative after a signal."""
    if self.returncode is None:
      os.set_blocking(self._status, True)
    return self._ended()

  def kill(self):
    """Ends the process."""
    os.kill(self.pid, signal.SIGKILL)

  def _ended(self):
    if self.returncode is None:
      while chunk := os.read(self._status, 32):
        self._read += chunk
      self.returncode = int(self._read.split()[1])
      os.close(self._status)
    return self.returncode
