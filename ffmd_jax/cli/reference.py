"""``ffmd reference``: reference trajectories from a prepared system or from any ASE calculator."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ffmd_jax.cli import common
from ffmd_jax.reference_md.settings import Settings


def reference(
    system: Positional[str],
    /,
    out: Path,
    settings: Annotated[Settings, arg(name="")] = Settings(),
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Runs reference MD, to train on and to compare with.

    One run in a heat bath equilibrates and gives the start states, each with a total energy near the mean and zero
    total momenta.  Production runs follow in double precision, stored in single precision with time, potential and
    total energy.  At the end of each: mean temperature, energy drift and fluctuation; a time step that does not
    conserve energy is refused.

    Ctrl-C (or worse) loses the run in progress only: the same command with --resume keeps the finished files and
    continues to the same trajectories.  Until all runs are there, the start states are kept in ref_starts.npz beside
    ref.h5.

    SYSTEM ase takes any ASE calculator; it must be installed in this Python:

        pip install 'ffmd-jax[xtb]'
        ffmd reference ase --calculator gfn2-xtb --start ethanol.xyz --runs 5 --out ref.h5
        --calculator mace.calculators:mace_mp --calculator-args model=small,default_dtype=float64
        --calculator sevenn.calculator:SevenNetCalculator --calculator-args model=7net-0
        --calculator chgnet.model.dynamics:CHGNetCalculator

    Args:
        system: quartz (BKS), water (SPC/Fw, Ewald), water-dsf, paracetamol (OPLS-AA), silicon (Stillinger-Weber), argon
            (Lennard-Jones), or ase.
        out: H5MD file to write.
        settings: What determines the trajectories.
        resume: Keep finished files of this set and continue with the first missing one.
        overwrite: Replace existing files.
    """
    from ffmd_jax.reference_md import sets

    sets.produce(system, out, settings, resume=resume, overwrite=overwrite, say=common.say)
