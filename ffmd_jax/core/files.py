"""Files that appear complete or not at all, and outputs that may or may not replace others."""

import os
import shutil
from pathlib import Path

import numpy as np


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under another name and renames it, so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises:
        ValueError, OSError, EOFError, zipfile.BadZipFile: it is none, or damaged.
    """
    with open(path, "rb") as file:  # np.load leaves files open that are damaged
        stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an npz file")
        return {name: stored[name] for name in stored.files}


def check_output(path: Path, overwrite: bool) -> None:
    """Raises FileExistsError if ``path`` exists and may not be replaced, FileNotFoundError without its folder."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another --out or say --overwrite")
    if not path.parent.exists():
        raise FileNotFoundError(f"the folder {path.parent} of --out does not exist")


def remove(path: Path) -> None:
    """Removes a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
