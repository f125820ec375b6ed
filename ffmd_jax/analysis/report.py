"""The report of a run, alone or beside a reference: verdict, numbers, figures, and files."""

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ffmd_jax.analysis import advice, checks, comparison, figures, movie, page, properties, text, verdict
from ffmd_jax.analysis.checks import Check, Outcome
from ffmd_jax.analysis.error_growth import ErrorGrowth
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import files, units
from ffmd_jax.formats.trajectory import Trajectory, frame_interval


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Report:
    """A run, alone or beside a reference; a notebook shows verdict, tables and figures.

        report = make(trajectory.read("run.h5"), trajectory.read("reference.h5"))
        print(report.text())
        report.save("report")

    Attributes:
        analysis: of the run.
        reference: what it is compared with.
        title: heading of the page.
        settings: further facts about the run, for the page and the summary, such as the speed; JSON-able.
        growth: errors of free steps from many starts.
    """

    analysis: Analysis
    reference: Analysis | None = None
    title: str = "Force-free molecular dynamics"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    growth: ErrorGrowth | None = None

    @cached_property
    def checks(self) -> list[Check]:
        """What was compared, with the smallest difference that could have been detected."""
        return checks.checks(self.analysis, self.reference)

    @property
    def outcome(self) -> Outcome:
        """``agrees``, ``differs`` or ``cannot tell``."""
        return verdict.outcome(self.checks)

    @cached_property
    def verdict(self) -> str:
        """What agrees, what differs and what cannot be told, in sentences."""
        return " ".join(self._verdict)

    @cached_property
    def _verdict(self) -> tuple[str, str]:
        """Headline and details."""
        return verdict.headline(self.checks), verdict.details(self.checks, self.analysis, self.reference)

    def text(self, width: int = 80) -> str:
        """Verdict and advice for a terminal: the headline, lists of what differs and agrees, notes, and what to do."""
        lines = text.wrap(verdict.headline(self.checks), width)
        notes = verdict.notes(self.checks, self.analysis, self.reference)
        for title, items in (*verdict.lists(self.checks).items(), ("Notes", notes), ("What to do", self.advice)):
            if items:
                lines += ["", f"{title}:", *(line for item in items for line in text.wrap(item, width, "- "))]
        return "\n".join(lines)

    @cached_property
    def advice(self) -> list[str]:
        """What to do; empty if all agrees."""
        return advice.advice(self.checks, self.analysis, self.reference)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All numbers, JSON-able: those of `comparison.compare`, or of `properties.summarize` without a reference."""
        if self.reference is None:
            numbers = properties.summarize(self.analysis)
        else:
            numbers = comparison.compare(self.analysis, self.reference)
        growth = {} if self.growth is None else {"error_growth": _plain(self.growth)}
        tried = [check._asdict() | {"outcome": check.outcome} for check in self.checks]
        result = {"outcome": self.outcome, "verdict": self.verdict, "advice": self.advice, "checks": tried}
        return properties.jsonable({**self.settings, **numbers, **growth, **result})

    def figures(self) -> dict[str, Figure]:
        """All figures that the data allow, by file stem."""
        step = self.analysis.metadata.get("time_step_fs")
        return figures.make(self.analysis, self.reference, self.growth, step)

    def movie(self) -> bytes | None:
        """The atoms as an animated GIF; None for large systems."""
        return movie.render(self.analysis, self.reference)

    def save(self, folder) -> Path:
        """Writes report.html, summary.json and the figures as PNG into the folder; returns the path of the page."""
        folder, summary, drawn = Path(folder), json.dumps(self.summary, indent=2) + "\n", self._drawn()
        shown = page.movie(self.movie(), movie.reason(self.analysis))
        html = page.page(self.title, self._verdict, self.outcome, self.advice, shown, self._content(drawn))
        images = {f"{name}.png": png for name, png in drawn.items()}
        files.write_into(folder, images | {"summary.json": summary.encode(), "report.html": html.encode()})
        return folder / "report.html"

    def _drawn(self) -> dict[str, bytes]:
        return {name: page.png(figure) for name, figure in self.figures().items()}

    def _content(self, drawn: dict[str, bytes]) -> str:
        return page.content(self.analysis, self.reference, self.checks, self.settings, drawn)

    def _repr_html_(self) -> str:
        return page.notebook(self.title, self._verdict, self.advice, self._content(self._drawn()))

    def __repr__(self) -> str:
        return f"<Report {self.title!r}: {self.outcome}. {verdict.headline(self.checks)}>"


def make(trajectory: Trajectory, reference: Trajectory | None = None, **options: Any) -> Report:
    """The report of a trajectory, alone or beside a reference; options as the attributes of `Report`.

    The spectra of both have the resolution that the shorter run allows: spectra of different resolution differ.
    """
    runs = [trajectory] if reference is None else [trajectory, reference]
    spans = [len(run.times) // 2 * frame_interval(run.times) / units.PS for run in runs]
    analyses = [properties.analyze(run, min(properties.SEGMENT_PS, *spans)) for run in runs]
    return Report(analyses[0], None if reference is None else analyses[1], **options)


def _plain(growth: ErrorGrowth) -> dict[str, list]:
    return {name: np.round(values, 6).tolist() for name, values in growth._asdict().items()}
