"""``ffmd dataset``."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ffmd_jax.core import files
from ffmd_jax.formats import Hints


def dataset(
    trajectories: Positional[tuple[Path, ...]],
    /,
    out: Path,
    time_step: float,
    stride_fs: float | None = None,
    train_pairs: int | None = None,
    test_pairs: int | None = None,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),
    overwrite: bool = False,
) -> None:
    """Makes a dataset of NVE trajectories.

    The file keeps all frames, with potential energies and forces where the trajectories have them; `ffmd train` forms
    training pairs of them, states an interval Δt apart.

    Reads H5MD, extxyz and .traj (ASE, with momenta or a column velocities in Å/fs), LAMMPS custom dumps (with
    --lammps-units, --lammps-timestep-fs and, without a column element, --elements), and with --topology what MDAnalysis
    reads.  Positions are unwrapped.  Refuses, and says by what number: velocities that do not fit the
    displacements, thermostatted runs, changing cells, lost, repeated or damaged frames, a Δt that the frame interval
    does not divide.

    Three or more files of a system: the last becomes the test set, the one before it the validation set.  One or two:
    each is cut in time, 80/10/10, with gaps of 10 Δt (at most 2.5 % of the run) before validation and test.

    Files of different atoms are different systems, which one model learns together: molecules of any size and
    composition, or crystals of several, not both.  A folder stands for all files in it.

    Files in TrajCast's extxyz format (columns displacements, update_velocities) are taken as the pairs that they are;
    --time-step states their Δt.  They are split by file in the same way, or 80/10/10 in their order.

    For crystals, give runs in several supercells of as many unit cells (3×3×2, 18×1×1, 9×2×1 …): one cell holds only
    some wave vectors, and a model that has seen no other may heat vibrations at the others in a larger cell.

    Args:
        trajectories: Files or folders; of a system, files have the same atoms in the same order.  Cells may differ.
        out: HDF5 file to write.
        time_step: Δt of the model, fs; a multiple of the frame interval.
        stride_fs: Time between the starts of two pairs, fs (None: Δt, so that no two pairs share an interval).
        train_pairs: Keep this many training pairs, evenly chosen (None: all).
        test_pairs: Keep this many pairs to validate on, and to test on, evenly chosen (None: all).
        hints: What the files leave unstated.
        overwrite: Replace an existing file.
    """
    files.check_output(out, overwrite, *trajectories, hints.topology)
    from ffmd_jax import api
    from ffmd_jax.data import dataset as datasets

    data = api.make_dataset(
        trajectories, time_step, stride_fs=stride_fs, n_train=train_pairs, n_test=test_pairs, hints=hints, out=out,
        overwrite=overwrite,
    )  # fmt: skip
    facts = datasets.facts(data)
    counts = [facts[f"{split}_pairs"] for split in datasets.SPLITS]
    if train_pairs is None and test_pairs is None and counts[0] < counts[1] + counts[2]:
        print("note: fewer pairs to train on than to validate and test; of three files one trains, of five three")
    sizes = ", ".join(f"{count} {split}" for count, split in zip(counts, datasets.SPLITS, strict=True))
    if "groups" in facts:
        more = f"; {len(facts['groups']):,} systems, which ffmd info lists"
    else:
        more = f"; {facts['cells']} cells" if facts["cells"] > 1 else ""
    print(
        f"{out}: {sizes} pairs at Δt = {time_step:g} fs; RMS Δr {facts['displacement_rms']:.4g} Å, "
        f"v {facts['velocity_rms']:.4g} Å/fs per component{more}"
    )
    if "velocity_relative_error" in data.metadata:
        error = 100 * data.metadata["velocity_relative_error"]
        print(f"velocities are {data.metadata['velocities']}: inaccurate by about {error:.2g} % (RMS)")
