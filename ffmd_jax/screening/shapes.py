"""What the frames of a molecule say of its shape, its surface, and its contacts with a partner.

Averages are of a canonical ensemble, to which frames contribute with their `rotational_weights`.
"""

from typing import NamedTuple

import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import System

_SURFACE_FRAMES = 20
_POLAR = (7, 8, 15, 16)  # elements; with the hydrogens on them
_CONTACT_A = 4.0  # between heavy atoms


def rotational_weights(system: System, positions: np.ndarray) -> np.ndarray:
    """What each frame of a run without rotation counts for in the canonical ensemble, over the mean; ``[n_frames]``.

    Runs have no angular momentum J.  At fixed positions, J is normally distributed with the covariance k_B T I, I the
    tensor of inertia, so that J = 0 has the density (2π k_B T)^(−3/2) det(I)^(−1/2): such runs visit a shape by this
    factor too often, compact ones above all.  The weights are √det I; of linear molecules and pairs of atoms, which
    have two rotations, without the moment about the axis.
    """
    masses = np.asarray(system.masses)
    relative = positions - (masses @ positions)[:, None] / masses.sum()
    squares = np.einsum("i,tia,tib->tab", masses, relative, relative)
    moments = np.linalg.eigvalsh(np.trace(squares, axis1=1, axis2=2)[:, None, None] * np.eye(3) - squares)
    if len(masses) == 1:
        return np.ones(len(positions))
    about = moments[:, 1:] if system.linear or len(masses) == 2 else moments
    weights = np.sqrt(np.prod(about, axis=1))
    return weights / weights.mean()


def radius_of_gyration(system: System, positions: np.ndarray) -> np.ndarray:
    """√(Σ m |r − R|²/M), Å, ``[n_frames]``."""
    masses = np.asarray(system.masses)
    relative = positions - (masses @ positions)[:, None] / masses.sum()
    return np.sqrt((masses * np.sum(relative**2, axis=-1)).sum(axis=1) / masses.sum())


def flexibility(system: System, positions: np.ndarray, weights: np.ndarray) -> float | None:
    """Root mean square fluctuation of the heavy atoms about their mean structure, Å, after superposition.

    None for fewer than three heavy atoms: with equivalent hydrogens alone, starts are each other's mirror images.
    """
    own = positions[:, np.asarray(system.species) > 1]
    if own.shape[1] < 3:
        return None
    own = own - own.mean(axis=1, keepdims=True)
    mean = own[0]
    for _ in range(3):
        left, _, right = np.linalg.svd(np.einsum("tia,ib->tab", own, mean))
        sign = np.ones((len(own), 3))
        sign[:, 2] = np.sign(np.linalg.det(left @ right))
        turned = np.einsum("tia,tab->tib", own, (left * sign[:, None]) @ right)
        mean = np.average(turned, axis=0, weights=weights)
    squares = np.mean(np.sum((turned - mean) ** 2, axis=-1), axis=1)
    return float(np.sqrt(np.average(squares, weights=weights)))


def polar_surface(block: str, positions: np.ndarray, weights: np.ndarray) -> float:
    """Mean solvent-accessible surface of N, O, P, S and the hydrogens on them, Å², probe 1.4 Å; by RDKit."""
    from rdkit import Chem
    from rdkit.Chem import rdFreeSASA
    from rdkit.Geometry import Point3D

    molecule = Chem.MolFromMolBlock(block, removeHs=False)
    radii = rdFreeSASA.classifyAtoms(molecule)
    if not all(radii):
        table = Chem.GetPeriodicTable()
        radii = [table.GetRvdw(atom.GetAtomicNum()) for atom in molecule.GetAtoms()]
    polar = [
        atom.GetAtomicNum() in _POLAR
        or (atom.GetAtomicNum() == 1 and any(n.GetAtomicNum() in _POLAR for n in atom.GetNeighbors()))
        for atom in molecule.GetAtoms()
    ]
    conformer, areas = molecule.GetConformer(), []
    chosen = np.linspace(0, len(positions) - 1, min(_SURFACE_FRAMES, len(positions))).astype(int)
    for frame in positions[chosen]:
        for i, place in enumerate(frame):
            conformer.SetAtomPosition(i, Point3D(*map(float, place)))
        rdFreeSASA.CalcSASA(molecule, radii)
        own = [float(atom.GetProp("SASA")) for atom in molecule.GetAtoms()]
        areas.append(sum(area for area, of in zip(own, polar, strict=True) if of))
    return float(np.average(areas, weights=weights[chosen]))


class Contacts(NamedTuple):
    """A molecule beside a partner: heavy atoms within 4 Å.

    Attributes:
        share: of the time in contact.
        lifetime_ps: mean length of a contact that ended; None: none did.
        ended: contacts that ended.
        closest_A: mean of the shortest distance between heavy atoms.
    """

    share: float
    lifetime_ps: float | None
    ended: int
    closest_A: float


def contacts(system: System, n_own: int, starts: list[np.ndarray], interval_fs: float) -> Contacts:
    """Contacts between the first ``n_own`` atoms and the others."""
    species = np.asarray(system.species)
    heavy = np.arange(len(species))[(species > 1) | (species[:n_own].max() == 1)]
    own, other = heavy[heavy < n_own], heavy[heavy >= n_own]
    if not len(other):
        other = np.arange(n_own, len(species))
    near, lengths = [], []
    for frames in starts:
        shortest = np.array([np.linalg.norm(x[own][:, None] - x[other], axis=-1).min() for x in frames])
        near.append(shortest)
        touching = np.concatenate([[False], shortest < _CONTACT_A, [True]])
        begins = np.flatnonzero(~touching[:-1] & touching[1:])
        ends = np.flatnonzero(touching[:-1] & ~touching[1:])
        lengths += [end - begins[begins < end].max() for end in ends if np.any(begins < end)]
    shortest = np.concatenate(near)
    mean = float(np.mean(lengths)) * interval_fs / units.PS if lengths else None
    return Contacts(float(np.mean(shortest < _CONTACT_A)), mean, len(lengths), float(shortest.mean()))
