"""The processes that run one program together: all do the same, the first prints and writes."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def count() -> int:
    """How many there are."""
    return jax.process_count()


def index() -> int:
    """Which one this is, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """True in the process that writes files and prints."""
    return index() == 0


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """Nothing that others print to stdout is seen."""
    with contextlib.ExitStack() as stack:
        if not is_first():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def agree(*values: int) -> tuple[int, ...]:
    """The largest of each value that a process has, so of flags whether any is set; all processes must ask."""
    if count() == 1:
        return values
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(np.max(everyone, axis=0).tolist())


def check_same(*asked: Any) -> None:
    """Returns when all processes have come here; they must have been asked for the same, JSON-able.

    Raises:
        ValueError: they were not.
    """
    own = int(hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:7], 16)
    if agree(own, -own) != (own, -own):
        raise ValueError(
            f"the {count()} processes of this command were asked for different things: give all the same command, or "
            "start each by itself"
        )


def wait_for_all(where: str) -> None:
    """Returns when all processes have come here."""
    if count() == 1:
        return
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(where)


def whole(tree: Any) -> Any:
    """The arrays with the parts that other processes hold, on the host; those without stay as they are.

    All processes must ask.
    """

    def gather(values: Any) -> Any:
        if not isinstance(values, jax.Array) or values.is_fully_addressable or values.is_fully_replicated:
            return values
        if jnp.issubdtype(values.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(gather(jax.random.key_data(values)))
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(values, tiled=True)

    return jax.tree.map(gather, tree)


def devices(n_devices: int) -> list[Any]:
    """So many devices, equally many of each process.

    Raises:
        ValueError: there are fewer, or they cannot be shared equally.
    """
    known = jax.devices()
    if not 1 <= n_devices <= len(known):
        raise ValueError(f"{n_devices} devices: there are {len(known)} ({known[0].platform})")
    each, left = divmod(n_devices, count())
    if left:
        raise ValueError(f"{n_devices} devices cannot be of {count()} processes equally")
    return [one for i in range(count()) for one in [d for d in known if d.process_index == i][:each]]
