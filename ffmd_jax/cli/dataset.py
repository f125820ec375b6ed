"""``ffmd dataset`` and ``ffmd evaluate``."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ffmd_jax.core import files as files_module
from ffmd_jax.core import progress
from ffmd_jax.formats import Hints


def dataset(
    trajectories: Positional[tuple[Path, ...]],
    /,
    out: Path,
    time_step: float,
    stride_fs: float | None = None,
    train_pairs: int | None = None,
    test_pairs: int | None = None,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),  # noqa: B008
    overwrite: bool = False,
) -> None:
    """Cuts NVE trajectories into training pairs.

    The states of a pair are an interval Δt apart.

    Reads H5MD, extxyz and .traj (ASE, with momenta or a column velocities in Å/fs), LAMMPS custom dumps (with
    --lammps-units, --lammps-timestep-fs and, without a column element, --elements), and with --topology what MDAnalysis
    reads.  Positions are unwrapped.  Refuses, with the number that gives it away: velocities that do not fit the
    displacements, thermostatted runs, changing cells, lost, repeated or damaged frames, a Δt that the frame interval
    does not divide.

    Three or more files: the last becomes the test set, the one before it the validation set.  One or two: each is cut
    in time, 80/10/10, with gaps of 10 Δt (at most 2.5 % of the run) before validation and test.

    Files in TrajCast's extxyz format (columns displacements, update_velocities) are taken as the pairs that they are;
    --time-step states their Δt.  They are split by file in the same way, or 80/10/10 in their order.

    For crystals, give runs in several supercells of as many unit cells (3×3×2, 18×1×1, 9×2×1 …): one cell holds only
    some wave vectors, and a model that has seen no other may heat vibrations at the others in a larger cell.

    Args:
        trajectories: Files of the same atoms in the same order; every file may have its own cell.
        out: HDF5 file to write.
        time_step: Δt of the model, fs; a multiple of the frame interval.
        stride_fs: Time between the starts of two pairs, fs (default: Δt, so that no two pairs share an interval).
        train_pairs: Keep this many training pairs, evenly chosen (default: all).
        test_pairs: Keep this many pairs to validate on, and to test on, evenly chosen (default: all).
        hints: What the files leave unstated.
        overwrite: Replace an existing file.
    """
    files_module.check_output(out, overwrite)
    from ffmd_jax.data import dataset as datasets

    if not trajectories:
        raise ValueError("give at least one trajectory")
    data = _read_dataset(trajectories, time_step, stride_fs, hints)
    data = datasets.thinned(data, train_pairs, test_pairs)
    datasets.write(out, data, overwrite=overwrite)
    counts = [len(getattr(data, split).displacements) for split in datasets.SPLITS]
    if train_pairs is None and test_pairs is None and counts[0] < counts[1] + counts[2]:
        print("note: fewer pairs to train on than to validate and test; of three files one trains, of five three")
    sizes = ", ".join(f"{count} {split}" for count, split in zip(counts, datasets.SPLITS, strict=True))
    scales, n_cells = datasets.statistics(data.train), datasets.n_cells(data)
    print(
        f"{out}: {sizes} pairs at Δt = {time_step:g} fs; RMS Δr {scales.displacement_rms:.4g} Å, "
        f"v {scales.velocity_rms:.4g} Å/fs per component" + (f"; {n_cells} cells" if n_cells > 1 else "")
    )
    if "velocity_relative_error" in data.metadata:
        error = 100 * data.metadata["velocity_relative_error"]
        print(f"velocities are {data.metadata['velocities']}: inaccurate by about {error:.2g} % (RMS)")


def _read_dataset(files: tuple[Path, ...], time_step: float, stride_fs: float | None, hints: Hints):
    """The dataset of trajectories, or of files that hold pairs already."""
    from ffmd_jax.data import dataset as datasets
    from ffmd_jax.formats import trajcast_pairs, trajectory

    ready = [trajcast_pairs.recognises(path) for path in files]
    if all(ready):
        if stride_fs is not None or hints != Hints():
            raise ValueError("files in TrajCast's format hold pairs already: they take no --stride-fs and no hints")
        return datasets.make_from_pairs(files, time_step)
    if any(ready):
        raise ValueError(f"{files[ready.index(True)]} holds TrajCast pairs, others hold trajectories; give one kind")
    found = []
    with progress.progress(len(files), "reading", "files") as bar:
        for path in files:
            found.append(trajectory.read(path, hints=hints))
            bar.update()
    return datasets.make(found, time_step, time_step if stride_fs is None else stride_fs, files)
