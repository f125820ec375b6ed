"""What `trajectory.read` finds in files, one module a format, converted to Å, fs and u.

Units are read, never guessed: a file that does not state them needs `Hints`, or is refused.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Hints:
    """What a trajectory file may leave unstated.

    Attributes:
        frame_interval_fs: Interval of the stored frames, fs, for files without times.
        lammps_units: LAMMPS dumps: the `units` of the input script, real (Å/fs) or metal (Å/ps).
        lammps_timestep_fs: LAMMPS dumps: the `timestep` of the input script, in fs.
        elements: Elements of the atom types 1, 2, … where only types are given, e.g. Si O.
        topology: File with the elements, for formats that MDAnalysis reads (.pdb, .tpr, .data, …).
        velocities: stored, or central-difference: v(t) = (r(t+δ) − r(t−δ)) / 2δ from the positions at the frame
            interval δ, without the first and last frame. Inaccurate: relative error (ωδ)²/6 for a vibration ω.
    """

    frame_interval_fs: float | None = None
    lammps_units: Literal["real", "metal"] | None = None
    lammps_timestep_fs: float | None = None
    elements: tuple[str, ...] = ()
    topology: Path | None = None
    velocities: Literal["stored", "central-difference"] = "stored"


def note(text: str) -> None:
    """Says what a reader found and the user should know, in the log ``ffmd_jax``; commands print it as a line."""
    logging.getLogger("ffmd_jax").warning(text)
