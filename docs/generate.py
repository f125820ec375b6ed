"""Writes what README.md, docs/results.md and docs/models.md show of other files.

Tables come from experiments/*/results.json and benchmarks/break_even.jsonl, cards from the folders of the models.

    python docs/generate.py            # writes
    python docs/generate.py --check    # exit code 1 if a file does not hold what would be written

A table stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; the text around it is written by hand.
"""

import json
import re
import runpy
import sys
from pathlib import Path

from ffmd_jax.models import model_files

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "models.md")
NAMES = {"paracetamol": "paracetamol", "quartz": "α-quartz", "water": "water"}
OTHERS = {"silicon": ("silicon", "25")}  # not in the paper: name and Δt, fs
TARGET_K = 300.0

_EXPERIMENTS = runpy.run_path(str(ROOT / "experiments" / "table.py"))
PAPER, ours = _EXPERIMENTS["PAPER"], _EXPERIMENTS["ours"]


def results() -> dict[str, dict]:
    """The numbers of each of the paper's systems."""
    return {name: _results(name) for name in NAMES}


def _results(name: str) -> dict:
    return json.loads((ROOT / "experiments" / name / "results.json").read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def longest(found: dict) -> dict:
    """The longest run at the target temperature that no monitor ended: CSVR and friction."""
    run = found.get("long", found["friction"])
    if run["stopped_by_alarm"]:
        raise ValueError("the longest run was ended by an alarm: the summary has no row for that")
    return run


def deviation(run: dict) -> str:
    """The largest deviation of an element from the target, with its standard error, K."""
    kelvins, errors = run["temperature_by_species_K"], run["temperature_error_by_species_K"]
    element = max(kelvins, key=lambda name: abs(kelvins[name] - TARGET_K))
    signed = f"{kelvins[element] - TARGET_K:+.1f}".replace("-", "−")
    return f"{element} {signed} ± {errors[element]:.1f} K"


def summary() -> str:
    """The table of the README: one row a system."""
    rows = []
    for name in (*NAMES, *OTHERS):
        found = _results(name)
        run, demo = longest(found), found["demo"]
        own = f"{found['one_step']['velocity_mae_relative_percent']:.2f} %"
        title, step_fs = OTHERS.get(name) or (NAMES[name], PAPER[name]["Δt, fs"])
        theirs = re.search(r"\((.*)\)", PAPER.get(name, {}).get("MAE v, 1e-5 Å/fs", "(–)"))
        assert theirs is not None
        rows.append([
            f"{title}, {step_fs} fs",
            f"{own} / {theirs[1]}",
            f"{run['length_ps'] / 1000:.1f} ns" + (" ¹" if run.get("reversible") else ""),
            deviation(run),
            f"{demo['ns_per_day']:.0f} / {demo['reference_ns_per_day']:.0f} ns/day",
        ])  # fmt: skip
    header = ["system, Δt", "velocity error, ours / paper", "longest sound run", "largest deviation of an element"]
    return table([*header, "speed / its reference"], rows)


def pays() -> str:
    """Where training pays, from the lines of benchmarks/break_even.py."""
    rows = []
    for line in (ROOT / "benchmarks" / "break_even.jsonl").read_text().splitlines():
        found = json.loads(line)
        speeds, faster, since = found["ns_per_day"], found["times_faster"], found["pays_from_ns"]["plain"]
        rows.append([
            f"`{found['model']}` ({found['what']}), {found['teacher']}",
            " / ".join(f"{speeds[name]:,.3g}" if speeds[name] < 100 else f"{speeds[name]:,.0f}"
                       for name in ("teacher", "plain", "reversible")),
            f"{faster['plain']:.2g} / {faster['reversible']:.2g}" if faster["plain"] < 100
            else f"{faster['plain']:.0f} / {faster['reversible']:.0f}",
            f"{found['teacher_core_hours']:.1f} + {found['training_core_hours']:.1f}",
            "never" if since is None else f"{since:.2g} ns",
        ])  # fmt: skip
    header = ["model, teacher", "ns/day: teacher / plain / reversible", "times faster: plain / reversible",
              "core-hours: teacher + training", "pays from"]  # fmt: skip
    return table(header, rows)


def cards() -> str:
    """The cards of the shipped models, a section each."""
    sections = []
    for name in model_files.pretrained():
        title, text = (model_files.card(name) or "").split("\n", 1)
        sections.append(f"## `{name}`: {title.removeprefix('# ')}\n{text}")
    return "\n" + "\n\n".join(sections)


def _rows(choose, cut=lambda row: row) -> str:
    """The rows of experiments/table.py that ``choose`` takes; a row of the paper's below ours where there is one."""
    found = {name: {"Δt, fs": PAPER[name]["Δt, fs"], **ours(numbers)} for name, numbers in results().items()}
    rows = []
    for row in dict.fromkeys(row for name in NAMES for row in found[name]):
        if choose(row):
            rows.append([cut(row), *(found[name].get(row) or "–" for name in NAMES)])
            theirs = [PAPER[name].get(row, "") for name in NAMES]
            if any(theirs) and row != "Δt, fs":
                rows.append(["… paper", *(cell or "–" for cell in theirs)])
    return table(["", *NAMES.values()], rows)


def _titled(title: str):
    """Rows of one kind of run, without its name."""
    return _rows(lambda row: row.startswith(f"{title}: "), lambda row: row.removeprefix(f"{title}: "))


def blocks() -> dict[str, str]:
    """Every table, by name."""
    long = {"long run, ns (ours with friction)": "length, ns", "… temperature, K": "temperature, K",
            "… by element, K": "by element, K", "… D of O, 1e-9 m²/s": "D of O, 1e-9 m²/s"}  # fmt: skip
    other = ("CSVR, τ = 100 Δt: temperature, K", "NVE: temperature, K")
    speed = ("training", "speed, ns/day (reference, same process)", "exploded, of free runs of 128 steps")
    return {
        "summary": summary(),
        "pays": pays(),
        "cards": cards(),
        "one-step": _rows(lambda row: row.startswith(("Δt", "MAE"))),
        "long": _rows(lambda row: row in long, long.get),
        "friction": _titled("CSVR and friction"),
        "csvr": _titled("CSVR"),
        "supercell": _titled("2 × 2 × 2 cells with friction"),
        "weak": _rows(lambda row: row in other),
        "speed": _rows(lambda row: row in speed),
    }


def filled(text: str) -> str:
    """The text with every block that it names as it must be."""
    for name, block in blocks().items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(pattern, lambda found, block=block: f"{found[1]}\n{block}\n\n{found[2]}", text, flags=re.S)
    return text


def main() -> None:
    stale = [path for path in FILES if path.read_text() != filled(path.read_text())]
    for path in stale:
        if "--check" not in sys.argv:
            path.write_text(filled(path.read_text()))
        print(f"{path.relative_to(ROOT)}: {'stale' if '--check' in sys.argv else 'written'}")
    sys.exit(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
