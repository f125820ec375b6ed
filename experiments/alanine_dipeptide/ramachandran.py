"""Maps of φ and ψ: their distance, the populations of basins, how often basins are changed, and a figure.

Angles are rad, ``[n_runs, n_frames]``; runs do not depend on each other, so their spread gives the errors.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

BINS = 36
# φ and then ψ, from one angle, degrees, upwards to another.  Each point of the map is in one basin; cores are apart.
BASINS = {
    "beta": ((140, 360), (75, 240)),  # C5, P_II and C7eq
    "alpha_R": ((140, 360), (-120, 75)),
    "alpha_L": ((0, 140), (-30, 110)),
    "C7ax": ((0, 140), (110, 330)),
}
# From alpha_L to C7ax there is no barrier.
CORES = {
    "beta": ((180, 320), (110, 190)),
    "alpha_R": ((210, 320), (-75, 25)),
    "alpha_L or C7ax": ((30, 90), (-180, 180)),
}


def _within(angles: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    first, last = ends
    return np.mod(np.degrees(angles) - first, 360) < last - first


def distribution(phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Probabilities of bins of 10° × 10°, ``[BINS, BINS]``."""
    edges = np.linspace(-np.pi, np.pi, BINS + 1)
    counts = np.histogram2d(np.ravel(phi), np.ravel(psi), (edges, edges))[0]
    return counts / counts.sum()


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen–Shannon divergence of two distributions, bits: 0 where they are equal, 1 where they do not overlap."""
    middle = 0.5 * (p + q)

    def relative(one: np.ndarray) -> float:
        seen = one > 0
        return float(np.sum(one[seen] * np.log2(one[seen] / middle[seen])))

    return 0.5 * (relative(p) + relative(q))


def populations(phi: np.ndarray, psi: np.ndarray) -> dict[str, list[float]]:
    """Part of the time in each basin, and its standard error."""
    found = {}
    for name, (of_phi, of_psi) in BASINS.items():
        each = np.mean(_within(phi, of_phi) & _within(psi, of_psi), axis=1)
        error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
        found[name] = [round(float(each.mean()), 5), round(float(error), 5)]
    return found


def milestones(phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Number of the core visited last, −1 before the first; what turns back between two cores is no transition."""
    last = np.full(phi.shape, -1)
    for i, (of_phi, of_psi) in enumerate(CORES.values()):
        last[_within(phi, of_phi) & _within(psi, of_psi)] = i
    for frame in range(1, last.shape[1]):
        last[:, frame] = np.where(last[:, frame] < 0, last[:, frame - 1], last[:, frame])
    return last


def rates(phi: np.ndarray, psi: np.ndarray, frame_ps: float) -> dict[str, dict[str, float]]:
    """Transitions from core to core, and their rate a ns: their number over the time since the first core was visited.

    The error is the larger one of the square root of the number and of the spread between the runs.
    """
    last, names, found = milestones(phi, psi), list(CORES), {}
    for i, one in enumerate(names):
        ns = np.sum(last == i, axis=1) * frame_ps / 1000
        for j, other in enumerate(names):
            each = np.sum((last[:, :-1] == i) & (last[:, 1:] == j), axis=1)
            if i == j or not each.sum():
                continue
            rate = each.sum() / ns.sum()
            poisson = np.sqrt(each.sum()) / ns.sum()
            n_runs = len(each)
            spread = np.sqrt(n_runs / max(n_runs - 1, 1) * np.sum((each - rate * ns) ** 2)) / ns.sum()
            found[f"{one} to {other}"] = {
                "transitions": int(each.sum()),
                "per_ns": round(float(rate), 4),
                "error_per_ns": round(float(max(poisson, spread)), 4),
            }
    return found


def observed(phi: np.ndarray, psi: np.ndarray, frame_ps: float) -> dict[str, Any]:
    """Length, populations and rates of some runs of the same length."""
    return {
        "runs": len(phi),
        "length_ns": round(phi.size * frame_ps / 1000, 3),
        "populations": populations(phi, psi),
        "rates": rates(phi, psi, frame_ps),
    }


def compared(model: tuple[np.ndarray, np.ndarray], teacher: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Divergence of the maps of the model and of the teacher, and of halves of the runs of each.

    Also of the part of the maps with φ outside 0–140°: αL and C7ax are visited so rarely that a single visit decides.
    """

    def maps(angles: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        parts = (slice(None), slice(0, None, 2), slice(1, None, 2))
        return [distribution(angles[0][part], angles[1][part]) for part in parts]

    def divergences(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float]:
        return {
            "model_and_teacher": round(jensen_shannon(ours[0], theirs[0]), 5),
            "halves_of_the_teacher": round(jensen_shannon(*theirs[1:]), 5),
            "halves_of_the_model": round(jensen_shannon(*ours[1:]), 5),
        }

    ours, theirs = maps(model), maps(teacher)
    return {
        "jensen_shannon_bits": divergences(ours, theirs),
        "without_alpha_L_and_C7ax": divergences([*map(_of_negative_phi, ours)], [*map(_of_negative_phi, theirs)]),
        "bins": f"{BINS} x {BINS}",
    }


def _of_negative_phi(probabilities: np.ndarray) -> np.ndarray:
    """The part of a map that is in `BASINS` beta and alpha_R, normalized."""
    middles = np.radians(-180 + (np.arange(BINS) + 0.5) * 360 / BINS)
    part = np.where(_within(middles, BASINS["beta"][0])[:, None], probabilities, 0)
    return part / part.sum()


def figure(sides: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The free energy of each side over k_B T, zero at its lowest."""
    made = Figure(figsize=(3.6 * len(sides) + 0.6, 3.4), layout="constrained")
    panels = made.subplots(1, len(sides), squeeze=False)[0]
    for panel, (name, angles) in zip(panels, sides.items(), strict=True):
        with np.errstate(divide="ignore"):
            free = -np.log(distribution(*angles))
        free = np.where(np.isfinite(free), free - free.min(), np.nan)
        image = panel.imshow(free.T, origin="lower", extent=(-180, 180, -180, 180), vmin=0, vmax=8, cmap="viridis")
        panel.set(title=name, xlabel="φ / °", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
    panels[0].set_ylabel("ψ / °")
    made.colorbar(image, ax=panels, label="free energy / $k_\\mathrm{B}T$")
    return made
