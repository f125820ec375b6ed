"""Training states on disk (orbax): the newest and the best of the validation are kept."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


class TrainingStates:
    """Training states in a folder: the newest and the best of the validation are kept.

    A context manager; writing is asynchronous, and leaving it waits for the last write.  A state appears when it is
    complete, and only then is an older one deleted: whenever the process is killed, a whole state is there.  With
    several processes, all of them call it; they share the folder.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        def error(metrics: Any) -> float:
            return metrics["validation"]

        # best_fn with max_to_keep would delete the newest state if it is not among the best; without best_fn, orbax
        # does not write the errors, and a resumed training would not know which old state is the best.
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(get_metric_fn=error, reverse=True, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=error, best_mode="min", preservation_policy=keep, cleanup_tmp_directories=True
        )
        self._ocp, self._folder = ocp, folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "TrainingStates":
        return self

    def __exit__(self, *_) -> None:
        with self._disk():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Says in one line that the disk is full, where orbax prints pages."""
        try:
            yield
        except Exception as error:  # of one kind or another, from one thread or another
            if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise OSError(
                    f"{self._folder.parent}: the training state cannot be written, no space left on device; with space "
                    f"for it, `resume` continues"
                ) from error
            raise

    def save(self, step: int, state: Any, best: float, validation: float = float("inf")) -> None:
        """Saves the state after ``step``, with the lowest validation error so far and its own, if it was validated."""
        copy = _copy(state)  # the next block of steps takes the memory of the original
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(copy), best=self._ocp.args.JsonSave({"validation": best})
        )
        with self._disk():
            self._manager.save(step, args=args, metrics={"validation": validation})

    def restore(self, like: Any) -> tuple[Any, float] | None:
        """The newest state, shaped and placed as ``like``, and the lowest validation error so far; or None.

        Raises:
            ValueError: the state has other parts, as that of another version may, or is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(like), best=self._ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except ValueError as error:  # orbax prints both trees
            raise ValueError(
                f"the training state after {step} steps does not fit: of another version, or damaged; "
                "`init` starts from its weights"
            ) from error
        return restored["state"], float(restored["best"]["validation"])


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
