"""Sources of forces that are known by name, each from a package of its own: semi-empirical and learned potentials."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from importlib import util
from typing import Any, NamedTuple

from ffmd_jax.formats import common


class Teacher(NamedTuple):
    """What makes an ASE calculator.

    Attributes:
        title: what it is, in a few words.
        package: module that must be there.
        install: command that installs it.
        make: the calculator, after the import of the package.
    """

    title: str
    package: str
    install: str
    make: Callable[[], Any]


def _gfn2_xtb() -> Any:
    return importlib.import_module("tblite.ase").TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def _ani_1ccx() -> Any:
    return importlib.import_module("torchani").models.ANI1ccx().ase()


def _sevennet_0() -> Any:
    return importlib.import_module("sevenn.calculator").SevenNetCalculator("7net-0", device="cpu")


def _chgnet() -> Any:
    made = importlib.import_module("chgnet.model.dynamics").CHGNetCalculator

    class Lean(made):
        """Without magnetic moments, and with the stress where it is asked for: it takes as long as the forces."""

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            task = "efs" if "stress" in (properties or ()) else "ef"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of constraints, which its crystals do not have
                super().calculate(atoms, properties, system_changes, task)

    return Lean(use_device="cpu")


def _amber_obc() -> Any:
    return importlib.import_module("ffmd_jax.reference_md.amber").Amber()


def _mmff94() -> Any:
    return importlib.import_module("ffmd_jax.reference_md.mmff").Mmff94()


_ANI = "pip install torch lark-parser 'setuptools<80' && pip install --no-deps torchani==2.0"

TEACHERS = {
    "gfn2-xtb": Teacher("semi-empirical quantum chemistry", "tblite", "pip install 'ffmd-jax[xtb]'", _gfn2_xtb),
    "ani-1ccx": Teacher("potential of coupled-cluster quality, H C N O", "torchani", _ANI, _ani_1ccx),
    "sevennet-0": Teacher("potential of 89 elements", "sevenn", "pip install sevenn", _sevennet_0),
    "chgnet": Teacher("potential of 89 elements, of crystals", "chgnet", "pip install chgnet", _chgnet),
    "mmff94": Teacher("force field of organic molecules", "rdkit", "pip install 'ffmd-jax[screen]'", _mmff94),
    "amber-obc": Teacher("force field of peptides in implicit water", "openmm", "pip install openmm", _amber_obc),
}


def check(name: str) -> None:
    """Raises ValueError, which says what to install, if the package of a teacher is not there."""
    teacher = TEACHERS[name]
    if util.find_spec(teacher.package) is None:
        raise ValueError(f"{name} needs the package {teacher.package}: {teacher.install}")


def make(name: str) -> Any:
    """The ASE calculator of that name.

    Raises:
        ValueError: its package is not there, or fails; the message says what to install.
    """
    check(name)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # some greet
            warnings.simplefilter("ignore")
            return TEACHERS[name].make()
    except Exception as error:  # a broken installation raises anything
        reason = f"{type(error).__name__}: {common.first_line(error)}"
        raise ValueError(f"{name} fails ({reason}); {TEACHERS[name].install}") from error
