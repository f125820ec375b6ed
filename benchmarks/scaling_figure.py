"""Draws time per step against atoms from the JSON lines of rollout_speed.py.

python benchmarks/scaling_figure.py rollout.jsonl --out scaling.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "fast": "force-free, fast",
    "blocks": "force-free, XLA in blocks",
    "mlp": "force-free, radial networks in every step",
    "e3nn": "force-free, e3nn-jax",
    "potential": "potential of the same layers",
    "reference": "classical force field",
}


def draw(lines: list[dict], out: Path) -> None:
    """One curve for every formulation (colour) and kind of system (marker); memory on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    kinds = sorted({line["system"].rpartition("-")[0] for line in lines})
    for colour, (formulation, label) in enumerate(LABELS.items()):
        for marker, kind in zip("os^v", kinds, strict=False):
            mine = [x for x in lines if x["formulation"] == formulation and x["system"].startswith(kind + "-")]
            mine = sorted((x for x in mine if x["network"] in ("paper", None)), key=lambda x: x["n_atoms"])
            atoms = [x["n_atoms"] for x in mine]
            style = {"color": f"C{colour}", "marker": marker}
            name = f"{label}, {kind}" if mine else None
            left.plot(atoms, [x["ms_per_step"] for x in mine], label=name, **style)
            right.plot(atoms, [x["peak_MiB"] for x in mine], **style)
    for axes, label in ((left, "time per step / ms"), (right, "memory of the program / MiB")):
        axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        axes.grid(alpha=0.3)
    right.legend(*left.get_legend_handles_labels(), fontsize=6, loc="lower right")
    figure.suptitle(f"{lines[0]['device']}, {lines[0]['date']}, paper-size network", fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="file of JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    draw([json.loads(line) for line in options.lines.read_text().splitlines() if line.startswith("{")], options.out)


if __name__ == "__main__":
    main()
