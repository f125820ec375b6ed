"""A particle group of an H5MD file as columns that grow by blocks of frames."""

from typing import Any

import h5py
import numpy as np

from ffmd_jax.core.state import State, System, check_forces, check_state, is_isolated
from ffmd_jax.formats import common

_UNITS = {
    "position/value": "Angstrom",
    "edges/value": "Angstrom",
    "velocity/value": "Angstrom fs-1",
    "force/value": "eV Angstrom-1",
}


class Group:
    """The columns of one particle group, and of its observables."""

    def __init__(self, name: str, system: System, dtype: np.dtype, velocities: bool):
        self.n_frames = 0
        self._particles, self._system, self._dtype, self._velocities = f"particles/{name}", system, dtype, velocities
        self._observables = "observables" if name == common.ALL else f"observables/{name}"
        self._columns: dict[str, Any] = {}  # HDF5 path -> dataset whose first axis is the frame
        self._last_times, self._next = np.empty(0), (0, np.empty(0))

    def block(
        self, frames: State, times: np.ndarray, observables: dict[str, Any], forces: Any
    ) -> dict[str, np.ndarray]:
        """What goes into each column; raises ValueError unless it fits the system and the blocks before."""
        particles, periodic = self._particles, not is_isolated(self._system)
        check_state(self._system, frames)
        block: dict[str, np.ndarray] = {f"{particles}/position/value": np.asarray(frames.positions)}
        if self._velocities:
            block[f"{particles}/velocity/value"] = np.asarray(frames.velocities)
        if forces is not None:
            block[f"{particles}/force/value"] = np.asarray(forces)
        block |= {f"{self._observables}/{k}/value": np.asarray(v, dtype=np.float64) for k, v in observables.items()}
        self._check(times, block)
        if periodic:
            cells = np.asarray(frames.cell, np.float64)
            near, images = common.near_images(self._system, block[f"{particles}/position/value"], cells)
            if images.any() or f"{particles}/image/value" in self._columns:
                block |= {f"{particles}/position/value": near, f"{particles}/image/value": images}
            block[f"{particles}/box/edges/value"] = cells
        block[f"{particles}/position/step"] = np.arange(self.n_frames, self.n_frames + len(times))
        block[f"{particles}/position/time"] = times
        return block

    def _check(self, times: np.ndarray, block: dict[str, np.ndarray]) -> None:
        n_atoms = len(self._system.species)
        for name, values in block.items():
            shape = (len(times), n_atoms, 3) if name.startswith("particles") else times.shape
            if values.shape != shape or times.ndim != 1 or not len(times):
                raise ValueError(f"{name} is {values.shape} for times {times.shape}; {shape} with frames is needed")
        force = f"{self._particles}/force/value"
        check_forces(block.get(force))
        if self.n_frames and (force in block) != (force in self._columns):
            raise ValueError(f"{force} must be in each block or in none, as in the first")
        names = {name for name in self._columns if name.startswith("observables")}
        if self.n_frames and names != {name for name in block if name.startswith("observables")}:
            raise ValueError(f"observables must be those of the first block, {sorted(names)}")
        joined = np.concatenate([self._last_times, times])
        if len(joined) > 1:
            common.frame_interval(joined, first_frame=self.n_frames - len(self._last_times))

    def write(self, file: Any, block: dict[str, np.ndarray], n_new: int) -> None:
        """Extends every column; `settle` makes it final."""
        if not self._columns:
            self._create_constants(file)
        self._create_columns(file, {name: values for name, values in block.items() if name not in self._columns})
        for name, column in self._columns.items():
            column.resize(self.n_frames + n_new, axis=0)
            column[self.n_frames :] = block[name]
        times = block[f"{self._particles}/position/time"]
        self._next = (self.n_frames + n_new, np.concatenate([self._last_times, times])[-2:])

    def settle(self) -> None:
        """The block written last is in the file."""
        if self._next[0]:
            self.n_frames, self._last_times = self._next

    def cut(self, n_frames: int) -> None:
        """Drops the frames after ``n_frames``."""
        for column in self._columns.values():
            column.resize(n_frames, axis=0)
        self.n_frames = n_frames

    def find(self, file: Any, n_frames: int) -> None:
        """Takes over the columns that a file has, and cuts them to ``n_frames``."""
        if self._particles in file:
            for base in (self._particles, self._observables):
                for name, element in file.get(base, {}).items():
                    if isinstance(element, h5py.Group) and "value" in element and "step" in element:
                        self._columns[f"{base}/{name}/value"] = element["value"]
            if f"{self._particles}/box/edges" in file:
                self._columns[f"{self._particles}/box/edges/value"] = file[f"{self._particles}/box/edges/value"]
            for name in ("step", "time"):
                self._columns[f"{self._particles}/position/{name}"] = file[f"{self._particles}/position/{name}"]
        found = min((len(column) for column in self._columns.values()), default=0)
        if found < n_frames:
            raise ValueError(f"the file holds {found} frames, fewer than the {n_frames} to go on from")
        self.cut(n_frames)
        if self._columns:
            times = self._columns[f"{self._particles}/position/time"][max(0, n_frames - 2) : n_frames]
            self._last_times = np.asarray(times, dtype=np.float64)
        self._next = (n_frames, self._last_times)

    def _create_constants(self, file: Any) -> None:
        particles = file.create_group(self._particles)
        particles["species"] = np.asarray(self._system.species, dtype=np.int32)
        particles["mass"] = np.asarray(self._system.masses, dtype=np.float64)
        particles["mass"].attrs["unit"] = "u"
        box = particles.create_group("box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in self._system.pbc]

    def _create_columns(self, file: Any, block: dict[str, np.ndarray]) -> None:
        """Columns of zeros; images come late, with the first atom that needs one."""
        for name, values in block.items():
            chunk = max(1, min(1024, 2**16 // max(1, values[0].size)))  # 2^16 numbers, or one frame
            column = self._columns[name] = file.create_dataset(
                name,
                shape=(0, *values.shape[1:]),
                maxshape=(None, *values.shape[1:]),
                chunks=(chunk, *values.shape[1:]),
                dtype=self._dtype if name.endswith(("position/value", "velocity/value")) else values.dtype,
                compression="gzip",
                compression_opts=2,
                shuffle=True,
            )
            unit = "fs" if name.endswith("time") else _UNITS.get("/".join(name.split("/")[-2:]))
            if unit:
                column.attrs["unit"] = unit
        for name in block:  # all elements share step and time as hard links
            group: Any = file[name].parent
            if name.endswith("/value") and group.name != f"/{self._particles}/position":
                group["step"], group["time"] = (file[f"{self._particles}/position/{x}"] for x in ("step", "time"))
