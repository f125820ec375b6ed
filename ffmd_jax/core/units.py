"""The only place where units are converted.

Inside the package: Å, fs, u (atomic mass units), K, and eV for energies.  The kinetic energy ½ m v² comes out in
u Å²/fs²; `EV` is one electronvolt in that unit, so that ``acceleration = force_eV_per_A * EV / mass``.
Values: CODATA 2018 (exact SI constants), doi:10.1103/RevModPhys.93.025010.
"""

import math

_J_PER_MOL = 1e-7  # 1 u Å²/fs² is 1e7 J/mol

EV = 96485.33212331 * _J_PER_MOL  # u Å²/fs²
KCAL_PER_MOL = 4184.0 * _J_PER_MOL  # u Å²/fs²
KCAL_PER_MOL_IN_EV = KCAL_PER_MOL / EV
HARTREE_IN_EV = 27.211386245988
BOHR = 0.529177210903  # Å
BOLTZMANN = 8.31446261815324 * _J_PER_MOL / EV  # eV/K
COULOMB = 14.399645478425668  # e²/(4π ε₀) in eV Å
EV_PER_A3_IN_GPA = 160.2176634
BAR = 1e-4 / EV_PER_A3_IN_GPA  # eV/Å³

PS = 1000.0  # fs
ASE_TIME = 10.180505710759414  # fs: ASE's unit Å sqrt(u/eV)
ASE_VELOCITY = 1.0 / ASE_TIME  # Å/fs in one ASE velocity unit
LAMMPS_METAL_VELOCITY = 1e-3  # Å/ps in Å/fs
LAMMPS_REAL_VELOCITY = 1.0  # Å/fs

TERAHERTZ_IN_PER_CM = 33.35640951981521  # 1 THz as a wave number


def ns_per_day(time_step_fs: float, seconds_per_step: float) -> float:
    """Simulated nanoseconds a day of wall time, from the time step in fs and the wall seconds of one step."""
    return time_step_fs * 1e-6 * 86400.0 / seconds_per_step


assert math.isclose(ASE_TIME, 1.0 / math.sqrt(EV), rel_tol=1e-6)
