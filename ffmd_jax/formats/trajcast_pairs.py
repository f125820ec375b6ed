"""Training pairs in TrajCast's extxyz format: independent frames with per-atom columns.

``velocities`` (Å/fs) at t, ``displacements`` (Å) and ``update_velocities`` (Å/fs) at t + Δt.  Δt is not stated.
"""

from pathlib import Path

import numpy as np

from ffmd_jax.core.state import State, System, check_state
from ffmd_jax.formats import ase_files, common, h5md, lammps

_COLUMNS = ("velocities", "displacements", "update_velocities")


def recognises(path: Path) -> bool:
    """True if the first frame has displacements and update_velocities; a look at the first lines, no more."""
    if not path.is_file() or h5md.recognises(path):
        return False
    with lammps.open_text(path) as file:
        try:
            head = [file.readline(2**16) for _ in range(2)]
        except Exception:  # a damaged or another compressed file: its reader says so
            return False
    return b"displacements:R:3" in head[1] and b"update_velocities:R:3" in head[1]


def read(path: Path) -> tuple[System, State, np.ndarray, np.ndarray]:
    """System, states at t (Å, Å/fs), displacements (Å) and velocities at t + Δt (Å/fs), each ``[n_pairs, n_atoms, 3]``.

    Raises:
        ValueError: one line that names the file and the frame: truncated, other atoms, another cell, NaN.
    """
    with common.errors_name(path):
        found = ase_files.images(path, ":")
        system, cells = ase_files.constant_system(found)
        for i, atoms in enumerate(found):
            missing = [name for name in _COLUMNS if name not in atoms.arrays]
            if missing:
                raise ValueError(f"frame {i} has no per-atom column {missing[0]}")
        positions = np.array([atoms.positions for atoms in found])
        before, displacements, after = (np.array([atoms.arrays[name] for atoms in found]) for name in _COLUMNS)
        check_state(system, State(positions, before, cells))
        check_state(system, State(displacements, after, cells))
    return system, State(positions, before, cells), displacements, after
