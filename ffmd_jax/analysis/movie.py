"""A short movie of the atoms, the run beside the reference, as an animated GIF."""

import io
import itertools

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from ase.utils import rotate
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from ffmd_jax.analysis import figures
from ffmd_jax.analysis.frames import LARGEST_SHOWN
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import units

LARGEST_BYTES = 1_500_000
_RESOLUTIONS = 90, 65, 45  # dpi; the first whose file is small enough
_PANEL = 3.6  # inches
_COLORS = 64
_FRAME_MS = 80
_RADIUS, _RADIUS_IN_CELL = 1.0, 0.6  # of the covalent radii
_VIEW = "-80x,-14y,4z"  # of a cell, as in ase.visualize


def render(analysis: Analysis, reference: Analysis | None = None) -> bytes | None:
    """The movie as a GIF of at most 1.5 MB, or None if the system has more than 2,000 atoms or the file is larger.

    A molecule is centred and shown along its shortest axis; a periodic system is wrapped into its cell by the mean
    positions of the atoms, so that no atom jumps.  Circles have the colours of Jmol.
    """
    runs = figures.runs_of(analysis, reference)
    if any(len(run.snapshots.times_fs) == 0 for run, _, _ in runs):
        return None
    for dpi in _RESOLUTIONS:
        found = _gif(runs, dpi)
        if len(found) <= LARGEST_BYTES:
            return found
    return None


def reason(analysis: Analysis) -> str:
    """Why there is no movie."""
    n_atoms = len(analysis.system.species)
    if n_atoms > LARGEST_SHOWN:
        return f"No movie is shown: the system has {n_atoms} atoms, more than {LARGEST_SHOWN}."
    return f"No movie is shown: it would take more than {LARGEST_BYTES / 1e6:g} MB."


def arrange(analysis: Analysis) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the snapshots, Å ``[n, n_atoms, 3]``, and edges of the cell ``[n, n_edges, 2, 3]``, as shown.

    The last axis holds right, up, and towards the viewer.
    """
    _, positions, cells = analysis.snapshots
    pbc = np.asarray(analysis.system.pbc)
    if not pbc.any():
        centred = positions - positions.mean(axis=1, keepdims=True)
        # Right singular vectors: the longest extension of the first snapshot to the right, the shortest to the viewer.
        axes = np.linalg.svd(centred[0], full_matrices=False)[2]
        axes = axes if len(axes) == 3 else np.eye(3)
        return centred @ axes.T, np.zeros((len(positions), 0, 2, 3))
    fractional = positions @ np.linalg.inv(cells)
    fractional -= np.floor(fractional.mean(axis=0)) * pbc
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    edges = [pair for pair in itertools.combinations(corners, 2) if abs(pair[0] - pair[1]).sum() == 1]
    view = rotate(_VIEW)
    middle = 0.5 * cells.sum(axis=1)[:, None]
    return (fractional @ cells - middle) @ view, (np.array(edges) @ cells[:, None] - middle[:, None]) @ view


def _gif(runs: list[tuple[Analysis, str, str]], dpi: int) -> bytes:
    """The movie of analyses with their names at a resolution."""
    shown = [arrange(run) for run, _, _ in runs]
    # The reference comes first and decides the scale: a run that diverges leaves the panel.
    atoms, edges = shown[0]
    right, up = (1.0 + max(abs(atoms[..., i]).max(), abs(edges[..., i]).max(initial=0)) for i in (0, 1))
    height = _PANEL * np.clip(up / right, 0.4, 1.3) + 0.6  # with title and legend
    figure = Figure(figsize=(_PANEL * len(runs), height), dpi=dpi, layout="constrained")
    canvas, images = FigureCanvasAgg(figure), []
    panels = [
        _Panel(axes, run, name, right, up)
        for axes, (run, name, _) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True)
    ]
    _legend(figure, runs[0][0])
    for frame in range(max(len(positions) for positions, _ in shown)):
        for panel, (positions, cell) in zip(panels, shown, strict=True):
            now = min(frame, len(positions) - 1)
            panel.show(now, positions[now], cell[now])
        canvas.draw()
        figure.set_layout_engine("none")  # all frames as the first
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = images[0].quantize(_COLORS, dither=Image.Dither.NONE)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    indexed[0].save(buffer, "GIF", save_all=True, append_images=indexed[1:], duration=_FRAME_MS, loop=0)
    return buffer.getvalue()


class _Panel:
    """Atoms as circles, the nearest on top, and the cell behind them.  What a frame changes is moved, not made anew."""

    def __init__(self, axes: Axes, run: Analysis, name: str, right: float, up: float):
        self.axes, self.run, self.name = axes, run, name
        self.species = np.asarray(run.system.species)
        radius = _RADIUS_IN_CELL if np.any(run.system.pbc) else _RADIUS
        self.widths = 2 * radius * covalent_radii[self.species]
        self.cell = LineCollection([], colors="0.6", linewidths=0.8)
        self.circles = EllipseCollection(
            self.widths, self.widths, np.zeros(len(self.widths)), units="xy",
            offsets=np.zeros((len(self.widths), 2)), offset_transform=axes.transData,
            edgecolors="0.25", linewidths=0.5,
        )  # fmt: skip
        axes.add_collection(self.cell)
        axes.add_collection(self.circles)
        axes.set(xlim=(-right, right), ylim=(-up, up), aspect="equal")
        axes.set_axis_off()

    def show(self, frame: int, positions: np.ndarray, edges: np.ndarray) -> None:
        """Moves everything to where it is in a snapshot, in the order of depth."""
        order, times = np.argsort(positions[:, 2]), self.run.snapshots.times_fs
        self.cell.set_segments(list(edges[..., :2]))
        self.circles.set(
            offsets=positions[order, :2], widths=self.widths[order], heights=self.widths[order],
            facecolor=jmol_colors[self.species[order]],
        )  # fmt: skip
        since_ps = (times[frame] - self.run.times_fs[0]) / units.PS
        self.axes.set_title(f"{self.name}, {since_ps:.2f} ps", fontsize=11, y=1.0)


def _legend(figure: Figure, run: Analysis) -> None:
    """The colours of the elements, below the panels."""
    style = {"marker": "o", "ls": "", "ms": 8, "mec": "0.25", "mew": 0.5}
    handles = [
        Line2D([], [], color=tuple(jmol_colors[number]), label=chemical_symbols[number], **style)
        for number in np.unique(run.system.species)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
