"""Processes that run molecules side by side, each on one core."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool


@contextlib.contextmanager
def pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes with one thread each, which ends with the block; Ctrl-C is the parent's to handle.

    Raises:
        ChildProcessError: a process has died.
    """
    made = ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn"), _leave_ctrl_c_to_the_parent)
    others = set(multiprocessing.active_children())
    try:
        with _one_thread_each():
            yield made
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that ran molecules has died, perhaps for want of memory: try fewer `workers`; "
            'a Python script must make the call under `if __name__ == "__main__":`'
        ) from None
    finally:  # what still runs is not waited for
        made.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets processes that begin within this block compute with one thread each: molecules side by side are faster."""
    wanted = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip(),
        "OMP_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
