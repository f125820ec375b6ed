"""Files that appear complete or not at all, and outputs that may or may not replace others."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file under another name and renames it, so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def write_into(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes files into a folder, which is made if need be: all of them or, where one cannot be written, none."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    partials = {name: folder / f"{name}.partial" for name in contents}
    try:
        for name, content in contents.items():
            partials[name].write_bytes(content)
        for name, partial in partials.items():
            os.replace(partial, folder / name)
    except OSError as error:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        if made:
            shutil.rmtree(folder)
        raise OSError(f"{folder} cannot be written: {error.strerror or error}") from error


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


def check_output(path: Path, overwrite: bool, *inputs: Any) -> None:
    """Raises FileExistsError if ``path`` exists and may not be replaced, FileNotFoundError without its folder.

    ``inputs``, paths of files and folders or anything else, are never replaced: neither one that is ``path``, nor one
    in a folder ``path``, nor one under another name (a link), nor a file of an input folder.
    """
    for given in inputs:
        used = _existing(Path(given)) if isinstance(given, str | Path) else None
        if used is None:
            continue
        inside = path.resolve() in (used, *used.parents) or (used.is_dir() and used in path.resolve().parents)
        if inside or (path.exists() and os.path.samefile(path, used)):
            raise FileExistsError(f"`out` {path} would replace the input {given}; choose another `out`")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another `out` or say `overwrite`")
    if not path.parent.exists():
        raise FileNotFoundError(f"the folder {path.parent} of `out` does not exist")


def _existing(path: Path) -> Path | None:
    """The absolute path of what exists; also of the file of ``run.h5:2``."""
    if not path.exists():
        path = Path(str(path).rpartition(":")[0])
    return path.resolve() if path.name and path.exists() else None


def remove(path: Path) -> None:
    """Removes a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
