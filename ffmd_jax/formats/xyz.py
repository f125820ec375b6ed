"""What programs write into the comment lines of .xyz files, and what ASE's reader does not take in them.

ASE reads the atoms; the comment lines of CP2K and i-PI (https://docs.ipi-code.org, "output files") say more than it
understands, deuterium and tritium have symbols of their own, and a byte-order mark stops it.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core import units

_CP2K = re.compile(r"^\s*i\s*=\s*\d+.*\btime\s*=\s*(?P<time>[-+.\dEe]+)(?:.*\bE\s*=\s*(?P<energy>[-+.\dEe]+))?")
_IPI_QUANTITY = re.compile(r"\b(positions|x_centroid|velocities|momenta|forces\w*|cell)\{(\w+)\}", re.IGNORECASE)
_IPI_CELL = re.compile(r"CELL\((?P<kind>abcABC|H|GENH)\):\s*(?P<numbers>(?:[-+.\dEe]+\s+){6,9})", re.IGNORECASE)
_IPI_STEP = re.compile(r"\bStep:\s*(\d+)")
_LENGTHS = {"angstrom": 1.0, "atomic_unit": units.BOHR, "bohr": units.BOHR, "nanometer": 10.0, "nm": 10.0}  # Å
_SYMBOL_LINE = re.compile(r"^(\s*)([DT])(\s)")


class Text(NamedTuple):
    """An .xyz file as text that ASE reads.

    Attributes:
        lines: of the file, without a byte-order mark, D and T replaced by H.
        comments: of every frame.
        isotopes: of every frame, symbol of each atom where it is D or T, else None; empty: there are none.
    """

    lines: list[str]
    comments: list[str]
    isotopes: list[list[str | None]]


def read(path: Path) -> Text | None:
    """The text of an .xyz file; None of a file that does not begin with a number of atoms."""
    from ffmd_jax.formats.lammps import open_text

    try:
        with open_text(path) as file:
            head = next(
                (head for _ in range(9) if (head := file.readline(64).removeprefix(b"\xef\xbb\xbf").strip())), b""
            )
            if not head.isdigit():
                return None
            lines = (head + b"\n" + file.read()).decode("utf-8", errors="replace").splitlines()
    except (OSError, EOFError, ValueError):  # a damaged or compressed file: ASE's reader says how
        return None
    lines, comments = _without_blanks(lines)
    if not any(_SYMBOL_LINE.match(line) for line in lines[2 : 2 + int(lines[0])]):
        return Text(lines, comments, [])
    isotopes, i = [], 0
    for _ in comments:
        end = i + 2 + int(lines[i])
        found = [_SYMBOL_LINE.match(line) for line in lines[i + 2 : end]]
        isotopes.append([one[2] if one else None for one in found])
        i = end
    return Text([_SYMBOL_LINE.sub(r"\1H\3", line) for line in lines], comments, isotopes)


def _without_blanks(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines without blank ones between frames, where ASE stops in silence, and the comments of the frames."""
    kept, comments, i = [], [], 0
    while i < len(lines):
        count = lines[i].strip()
        if not count:
            i += 1
            continue
        if not count.isdigit():  # ASE says what is wrong
            return kept + lines[i:], comments
        end = i + 2 + int(count)
        kept += lines[i:end]
        comments += lines[i + 1 : i + 2]
        i = end
    return kept, comments


def annotate(atoms: Any, comment: str) -> None:
    """Puts into an ASE structure what the comment of its frame says: time, step, energy, cell, units of positions.

    Raises:
        ValueError: another quantity than positions, or a unit that is not known.
    """
    if found := _CP2K.match(comment):
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.info["time"] = float(found["time"])  # fs
        if found["energy"]:
            atoms.calc = SinglePointCalculator(atoms, energy=float(found["energy"]) * units.HARTREE_IN_EV)
    elif _IPI_CELL.search(comment + " ") or _IPI_QUANTITY.search(comment):
        _annotate_ipi(atoms, comment)


def _annotate_ipi(atoms: Any, comment: str) -> None:
    quantities = {name.lower(): unit.lower() for name, unit in _IPI_QUANTITY.findall(comment)}
    others = quantities.keys() - {"positions", "x_centroid", "cell"}
    if others:
        raise ValueError(f"the file holds {', '.join(sorted(others))} (i-PI), no positions")
    if not quantities.keys() - {"cell"}:
        raise ValueError("the comment line (i-PI) does not state the unit of the positions: positions{angstrom}")
    scale = {"cell": 1.0}
    for name, unit in quantities.items():
        if unit not in _LENGTHS:
            raise ValueError(f"the unit {unit} of {name} is not known; known are {', '.join(_LENGTHS)}")
        scale["cell" if name == "cell" else "positions"] = _LENGTHS[unit]
    atoms.positions *= scale.get("positions", 1.0)
    if found := _IPI_CELL.search(comment + " "):
        numbers = np.array(found["numbers"].split(), dtype=np.float64)
        if found["kind"].lower() == "abcabc" and len(numbers) >= 6:
            atoms.set_cell([*(numbers[:3] * scale["cell"]), *numbers[3:6]])
            atoms.pbc = True
        elif len(numbers) == 9:
            atoms.set_cell(numbers.reshape(3, 3).T * scale["cell"])  # columns are the lattice vectors
            atoms.pbc = True
    if found := _IPI_STEP.search(comment):
        atoms.info["step"] = int(found[1])
