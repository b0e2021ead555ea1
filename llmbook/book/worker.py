"""A process that executes notebooks through papermill, one after the other, as it is told.

`execute.py` starts one for each chapter that may run at a time. A line of JSON on its input is one
execution, a line of JSON on its output says how it ended, and the end of its input (the end of the
process that started it, however that came) ends it at once, and with it its kernel. It imports
nothing of `llmbook`: a worker is there quickly, and needs little memory.
"""

import json
import os
import queue
import sys
import threading


def work():
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what kernels and libraries print is not an answer
    orders = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        order = json.loads(orders.get())
        try:
            _execute(**order)
            answer = {}
        except Exception as error:
            answer = {"error": str(error).strip() or repr(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _listen(orders):
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


def _execute(notebook, parameters, folder, timeout):
    """Execute a notebook in its place: what ran before a failure is kept there, too."""
    import papermill

    papermill.execute_notebook(
        notebook,
        notebook,
        parameters=parameters,
        cwd=folder,
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=timeout,
        log_output=False,
    )


if __name__ == "__main__":
    work()
