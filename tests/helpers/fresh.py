"""Code in a process that has imported torch and nothing of ours: a fork of one that waits.

What a test says of a fresh Python (what importing costs and loads, Triton's interpreter, which
must be chosen before Triton is imported) needs no second import of torch, which takes a second.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

WAITING = """
import gc, json, os, sys, torch, traceback
gc.freeze()  # what is here stays: no child goes through it
for line in sys.stdin:
    code, arguments, environment, folder, files = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
os.environ.clear(), os.environ.update(environment), os.chdir(folder)
for k, file in enumerate([os.devnull, *files]):
    os.dup2(os.open(file, os.O_RDWR), k)
sys.argv[1:] = arguments
status = 1
try:
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    status = 0
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else 1 if end.code else 0
    traceback.print_exc()
except BaseException:
    traceback.print_exc()
sys.stdout.flush(), sys.stderr.flush()
os._exit(status)  # taking all of torch down takes half a second
"""


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """`fresh(code, *arguments, **environment)` → returncode, stdout, stderr; started once."""
    files = [tmp_path_factory.mktemp("fresh") / name for name in ("stdout", "stderr")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    waiting = subprocess.Popen([sys.executable, "-c", WAITING], text=True, **pipes)

    def run(code, *arguments, **environment):
        for file in files:
            file.write_text("")
        given = [list(map(str, arguments)), {**os.environ, **environment}, os.getcwd()]
        waiting.stdin.write(json.dumps([code, *given, list(map(str, files))]) + "\n")
        waiting.stdin.flush()
        returncode = int(waiting.stdout.readline())
        out, err = (file.read_text() for file in files)
        return SimpleNamespace(returncode=returncode, stdout=out, stderr=err)

    yield run
    waiting.communicate()
