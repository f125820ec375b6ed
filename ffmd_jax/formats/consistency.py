"""Do the frames of a trajectory belong together?  Asked per atom and per frame, since averages hide a single bad one.

`check` raises ValueError, naming frame and atom, for what no run of any ensemble shows:

- a frame that repeats the one before it, or intervals in which the atoms move twice as far as their velocities say (a
  lost frame), not at all, or back (overlapping restarts);
- an atom that moves farther in an interval than its speed allows: two atoms that changed places, or positions that were
  wrapped into a cell of which the file says nothing;
- displacements that contradict the velocities in all frames: wrong times, or another unit of velocity;
- energies that would be conserved in another unit, or that are total energies under the name of potential ones.

`check_nve` is sharper, and only right where no thermostat acts: one velocity of one atom in one frame is enough.
"""

from typing import NamedTuple

import numpy as np

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import Array, System
from ffmd_jax.formats.common import Trajectory, frame_interval

_RESOLVED = 0.1  # deviation of an interval's slope from 1 up to which frames resolve the motion
_SLOPE = 0.6  # deviation that lost, repeated and overlapping frames exceed: their slopes are 2, 0 and negative
_MISSED = 0.7  # of ⟨Δr²⟩: a lost frame misses 1 or more, new velocities for all atoms 0.5
_SLACK = 0.3  # Å
_ENERGIES = {
    "Hartree": units.HARTREE_IN_EV,
    "Rydberg": units.HARTREE_IN_EV / 2,
    "kcal/mol": units.KCAL_PER_MOL_IN_EV,
    "kJ/mol": units.KCAL_PER_MOL_IN_EV / 4.184,
    "meV": 1e-3,
    "K": units.BOLTZMANN,
    "cm⁻¹": 1.239841984e-4,
}  # eV


class _Intervals(NamedTuple):
    """What happens between consecutive frames.

    Attributes:
        moved: Å, ``[n_frames − 1, n_atoms, 3]``.
        expected: by the trapezoidal rule, Å, ``[n_frames − 1, n_atoms, 3]``.
        speeds: the larger one at the two ends, Å/fs, ``[n_frames − 1, n_atoms]``.
        interval: fs.
    """

    moved: np.ndarray
    expected: np.ndarray
    speeds: np.ndarray
    interval: float


def check(trajectory: Trajectory) -> None:
    """Raises ValueError, in one line that names frame and atom, unless the frames belong together."""
    if len(trajectory.times) < 2 or "model" in trajectory.metadata:  # a rollout may be as wrong as its model
        return
    found = _intervals(trajectory)
    if not np.any(found.speeds):
        _check_positions(trajectory.system, found.moved)
        return
    velocities, noise = np.asarray(trajectory.frames.velocities), _rounding(trajectory.frames.positions) ** 2 / 6
    _check_all(velocities, found, noise)
    _check_repeats(trajectory, found)
    _check_speeds(trajectory.system, found)
    _check_frames(trajectory.system, found)
    _check_energies(trajectory)


def check_nve(trajectory: Trajectory) -> None:
    """Raises ValueError where the displacement of an atom in an interval is not what its velocities at the ends give.

    What the trapezoidal rule misses by, it misses everywhere by about as much; ten times what 90 % of an element's
    atoms stay below, and a quarter of its mean displacement besides, is an error in the data.
    """
    if len(trajectory.times) > 2:
        found = _intervals(trajectory)
        velocities, noise = np.asarray(trajectory.frames.velocities), _rounding(trajectory.frames.positions) ** 2 / 6
        _check_rest(velocities, found, noise)
        check_moves(trajectory.system, found.moved, found.expected, lambda i: f"between frames {i} and {i + 1}")


def check_moves(system: System, moved: np.ndarray, expected: np.ndarray, where) -> None:
    """Raises ValueError where ``moved`` is not about ``expected``, Å ``[n, n_atoms, 3]``; ``where(i)`` names one."""
    missed = np.linalg.norm(moved - expected, axis=-1)
    for number in np.unique(system.species):
        atoms = np.flatnonzero(np.asarray(system.species) == number)
        own = missed[:, atoms]
        usual = np.sqrt(np.mean(np.median(np.sum(expected[:, atoms] ** 2, axis=-1), axis=0)))
        _raise_worst(
            own / (10 * np.quantile(own, 0.9) + 0.25 * usual + 1e-3),
            lambda i, j, atoms=atoms: (
                f"{where(i)} atom {atoms[j]} moves by {np.linalg.norm(moved[i, atoms[j]]):.3g} Å, its velocities say "
                f"{np.linalg.norm(expected[i, atoms[j]]):.3g} Å: a damaged frame, or atoms that changed places"
            ),
        )


def _intervals(trajectory: Trajectory) -> _Intervals:
    positions, velocities = (np.asarray(values) for values in trajectory.frames[:2])
    interval = frame_interval(trajectory.times)
    speeds = np.linalg.norm(velocities, axis=-1)
    moved, cells = np.diff(positions, axis=0), np.asarray(trajectory.frames.cell)
    if len(cells) and np.any(cells != cells[0]):  # a barostat carries the atoms with the cell
        moved = np.diff(positions @ np.linalg.inv(cells), axis=0) @ cells[1:]
    return _Intervals(
        moved,
        0.5 * interval * (velocities[1:] + velocities[:-1]),
        np.maximum(speeds[1:], speeds[:-1]),
        interval,
    )


def _check_repeats(trajectory: Trajectory, found: _Intervals) -> None:
    same = ~np.any(found.moved, axis=(1, 2)) & np.any(found.speeds, axis=1)
    if same.any() and not same.all():
        i = int(np.argmax(same))
        raise ValueError(f"frame {i + 1} repeats the positions of frame {i}: a restart, or joined files?")


def _check_all(velocities: np.ndarray, found: _Intervals, noise: float) -> None:
    """All displacements together: velocities that point the same way, but in another unit, or with wrong times.

    Where velocities forget themselves between two frames, they cannot tell; nor can coordinates that are rounded.
    """
    squares, expected = float(np.sum(found.moved**2)), float(np.sum(found.expected**2))
    seen = noise * found.moved.size < 0.1 * squares or squares == 0
    if not seen or _kept(velocities) < 0.5:
        return
    # Frames a period of a vibration or rotation apart see velocities that stay and displacements that are unlike them.
    if squares == 0 or abs(np.sum(found.moved * found.expected)) > 0.5 * np.sqrt(squares * expected):
        check_slope(found.moved, found.expected, 0.3, 3.0)


def _check_rest(velocities: np.ndarray, found: _Intervals, noise: float) -> None:
    """What the trapezoidal rule misses, relative to ⟨Δr²⟩, is less than what the velocities forget.

    It is (ωδ)⁴/144 against (ωδ)²/2 for a vibration ω, and a sixth of it for random kicks.
    """
    kept, squares = _kept(velocities), float(np.mean(found.moved**2))
    if kept < 0.5 or noise > 0.1 * squares:
        return
    missed = (float(np.mean((found.moved - found.expected) ** 2)) - noise) / squares
    if missed > 2 * (1 - kept) + 0.05:
        check_slope(found.moved, found.expected, 0.6, 1.6)
        raise ValueError(
            f"displacements do not follow the velocities: {np.sqrt(missed):.0%} of them is not explained, though the "
            f"velocities keep {kept:.0%} of themselves from frame to frame; other frames' velocities, or directions "
            f"exchanged?"
        )


def _kept(velocities: np.ndarray) -> float:
    """Correlation of the velocities of consecutive frames."""
    squares = np.sum(velocities[1:] ** 2) * np.sum(velocities[:-1] ** 2)
    return float(np.sum(velocities[1:] * velocities[:-1]) / np.sqrt(squares)) if squares > 0 else 0.0


def _rounding(positions: Array) -> float:
    """The grid that the coordinates are on, Å; 0 if there is none of 0.1, 0.01 or 0.001 Å."""
    some = np.asarray(positions)[: 4096 // max(1, positions.shape[1]) + 1]
    for step in (0.1, 0.01, 0.001):
        if np.all(abs(some / step - np.round(some / step)) < 0.02):  # of 32-bit numbers up to 100 Å
            return step
    return 0.0


def check_slope(moved: np.ndarray, expected: np.ndarray, low: float, high: float) -> None:
    """Raises ValueError, with the likely reason, unless ``expected`` is ``moved`` times a factor within bounds."""
    squares = float(np.sum(moved**2))
    if squares == 0:
        raise ValueError("the atoms do not move although they have velocities")
    slope = float(np.sum(moved * expected)) / squares
    if not low < slope < high:
        raise ValueError(f"displacements are {1 / slope:.3g} times what the velocities give: {_cause(abs(1 / slope))}")


def _cause(factor: float) -> str:
    """The likely reason of displacements ``factor`` times too large."""
    for unit, size in (
        ("ASE's unit, Å per 10.18 fs, or positions in nm", 1 / units.ASE_VELOCITY),
        ("atomic units", 21.876912633),
        ("Å/ps or Å/fs", 1000.0),
    ):
        for known, said in ((size, "larger"), (1 / size, "smaller")):
            if 0.7 < factor / known < 1.4:
                return (
                    f"velocities seem to be in a unit {size:.4g} times {said} than stated ({unit}), or times in a unit "
                    f"{size:.4g} times {'larger' if said == 'larger' else 'smaller'}"
                )
    nearest = round(factor) if factor > 1 else 1 / round(1 / max(factor, 1e-3))
    if 0.02 < factor < 50 and abs(factor / nearest - 1) < 0.15 and nearest != 1:
        return f"is the interval between frames perhaps {nearest:.3g} times what is stated?"
    return "velocities in another unit than stated, wrong times, or frames too far apart"


def _check_frames(system: System, found: _Intervals) -> None:
    """Single intervals in which all atoms together move too far, not at all, or back.

    Where frames hardly resolve the motion, what an interval misses stands out from what the others do: a lost frame
    misses as much as the atoms move, whatever the interval.
    """
    weights = np.asarray(system.masses)[:, None]
    missed = np.sum(weights * (found.moved - found.expected) ** 2, axis=(1, 2))
    missed /= max(float(np.mean(np.sum(weights * found.expected**2, axis=(1, 2)))), 1e-300)
    worst = missed > np.maximum(_MISSED, 5 * np.quantile(missed, 0.9))
    if worst.any():
        i = int(np.argmax(worst))
        raise ValueError(
            f"between frames {i} and {i + 1} the displacements are not what the velocities give, elsewhere they are: "
            f"is a frame lost, or do frames repeat (a restart, joined files)?"
        )
    squares = np.sum(found.expected**2, axis=(1, 2))
    slopes = np.sum(found.moved * found.expected, axis=(1, 2)) / np.maximum(squares, 1e-300)
    away = abs(slopes - 1)
    if np.median(away) > _RESOLVED:
        return
    wrong = (away > max(_SLOPE, 6 * float(np.quantile(away, 0.9)))) & (squares > 0.1 * np.median(squares))
    if wrong.any():
        i = int(np.argmax(wrong))
        what = "is a frame lost" if slopes[i] > 1 else "do frames repeat (a restart, joined files)"
        raise ValueError(
            f"between frames {i} and {i + 1} the atoms move {slopes[i]:.2g} times as far as their velocities say, "
            f"elsewhere {np.median(slopes):.2g} times: {what}?"
        )


def _check_speeds(system: System, found: _Intervals) -> None:
    """No atom may move farther than its speed allows, or twice that of the fastest thirds of its element."""
    distances = np.linalg.norm(found.moved, axis=-1)
    for number in np.unique(system.species):
        atoms = np.flatnonzero(np.asarray(system.species) == number)
        usual = 3 * np.sqrt(np.mean(np.median(found.speeds[:, atoms] ** 2, axis=0)))
        allowed = 2 * found.interval * np.maximum(found.speeds[:, atoms], usual) + _SLACK
        _raise_jump(system, atoms, distances[:, atoms], allowed, found.moved[:, atoms])


def _check_positions(system: System, moved: np.ndarray) -> None:
    """Of positions alone: an atom may not move six times as far as 90 % of its element do."""
    distances = np.linalg.norm(moved, axis=-1)
    for number in np.unique(system.species):
        atoms = np.flatnonzero(np.asarray(system.species) == number)
        allowed = np.full_like(distances[:, atoms], 6 * np.quantile(distances[:, atoms], 0.9) + _SLACK)
        _raise_jump(system, atoms, distances[:, atoms], allowed, moved[:, atoms])
    same = ~np.any(moved, axis=(1, 2))
    if same.any() and not same.all():
        i = int(np.argmax(same))
        raise ValueError(f"frame {i + 1} repeats the positions of frame {i}: a restart, or joined files?")


def _raise_jump(
    system: System, atoms: np.ndarray, distances: np.ndarray, allowed: np.ndarray, moved: np.ndarray
) -> None:
    def says(i: int, j: int) -> str:
        start = f"atom {atoms[j]} moves by {distances[i, j]:.3g} Å between frames {i} and {i + 1}"
        if not all(system.pbc) and _like_a_cell(distances, allowed, moved):
            return (
                f"{start}, as others do: these positions are wrapped into a cell that the file does not state; give a "
                f"file with the cell, or unwrapped positions"
            )
        return f"{start}, its speed allows {allowed[i, j]:.2g} Å: atoms that changed places, or a damaged frame"

    _raise_worst(distances / allowed, says)


def _like_a_cell(distances: np.ndarray, allowed: np.ndarray, moved: np.ndarray) -> bool:
    """True if atoms jump again and again by the same length along an axis."""
    jumps = abs(moved[distances > allowed]).max(axis=-1)
    return len(jumps) > 1 and float(np.median(abs(jumps - np.median(jumps)))) < 0.1 * float(np.median(jumps))


def _raise_worst(ratio: np.ndarray, says) -> None:
    """Raises ValueError, ``says(frame, atom)``, for the first frame with a ratio above 1 and its worst atom there."""
    wrong = np.any(ratio > 1, axis=1)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(says(i, int(np.argmax(ratio[i]))))


def _check_energies(trajectory: Trajectory) -> None:
    """Of a run at constant energy, potential energies that would be conserved in another unit, or are total ones."""
    potential = trajectory.observables.get("potential_energy_eV")
    if potential is None or len(potential) < 8 or not np.isfinite(potential).all():
        return
    kinetic = np.asarray(mechanics.kinetic_energy(trajectory.system, np.asarray(trajectory.frames.velocities)))
    spread = float(np.std(kinetic))
    if not spread > 0 or np.std(potential + kinetic) < 0.2 * spread:
        return
    if np.std(potential) < 0.05 * spread:
        raise ValueError(
            f"the potential energy changes by {np.std(potential):.2g} eV where the kinetic energy changes by "
            f"{spread:.2g} eV: the file gives the total energy as the potential one"
        )
    for unit, size in _ENERGIES.items():
        if np.std(size * potential + kinetic) < 0.1 * spread:
            raise ValueError(f"the energies are in {unit}, not in eV: with {size:.6g} eV they are conserved")
    for what, size in (("per atom", len(trajectory.system.species)), ("of the opposite sign", -1)):
        if np.std(size * potential + kinetic) < 0.1 * spread:
            raise ValueError(f"the energies are {what}: times {size} they are conserved")
