"""A process of an engine ends with the process that started it.

Ray clears up after a worker that dies; where its raylet dies in the same moment nobody does, and an engine's own
process would hold its memory, on a GPU node the GPU, until somebody finds it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """From here this process is killed when the one that started it through `multiprocessing` is gone.

    Nothing happens in a process that was started otherwise.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="lifeline", daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
