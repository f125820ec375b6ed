"""The records of a training in its folder: metrics.jsonl, a figure of the loss, and TensorBoard's files if wished."""

import importlib
import io
import json
import math
from pathlib import Path
from typing import Any

from ffmd_jax.analysis import figures
from ffmd_jax.core.files import write_atomically

METRICS, FIGURE = "metrics.jsonl", "training.png"


class TrainingLog:
    """Appends the lines of a training to what its folder holds; a context manager.

    Args:
        folder: of the model.
        step: where the training goes on; what the folder knows of later steps will be repeated, and is dropped.
        tensorboard: also write scalars into the folder "tensorboard".

    Raises:
        ImportError: tensorboard without the package for it.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False):
        self._folder = folder
        self._lines = [line for line in read(folder / METRICS) if line["step"] <= step]
        write_atomically(folder / METRICS, "".join(map(_as_line, self._lines)).encode())
        self._board = None
        if tensorboard:  # what an earlier writer wrote of later steps is hidden
            self._board = check_tensorboard().SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *_) -> None:
        self.draw()
        if self._board is not None:
            self._board.close()

    def add(self, values: dict[str, Any]) -> None:
        """Appends one line; it has a "step", and what is not finite becomes null."""
        line = {key: value if _is_known(value) else None for key, value in values.items()}
        self._lines.append(line)
        with open(self._folder / METRICS, "a") as file:
            file.write(_as_line(line))
        if self._board is not None:
            for key, value in line.items():
                if key != "step" and value is not None:
                    self._board.add_scalar(key, value, line["step"])

    def draw(self) -> None:
        """Draws the figure anew, and lets TensorBoard see all so far."""
        if self._lines:
            buffer = io.BytesIO()
            figures.training(self._lines).savefig(buffer, format="png")
            write_atomically(self._folder / FIGURE, buffer.getvalue())
        if self._board is not None:
            self._board.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last one that a kill has cut off is left out.

    Raises:
        ValueError: another line is damaged.
    """
    text = path.read_text() if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def check_tensorboard() -> Any:
    """The module that writes TensorBoard's files.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("tensorboardX")
    except ImportError:
        raise ImportError("`tensorboard` needs tensorboardX: pip install tensorboardX") from None


def _is_known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _as_line(values: dict[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"
