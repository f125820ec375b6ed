"""What the experiments of the paper's table have in common: reference MD, training, roll-outs, analyses, numbers.

Every stage is a list of `ffmd` commands, printed before they run.  A stopped stage goes on when it is started again; a
roll-out that a monitor has ended stays as it is, and one of another model is made anew.
"""

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from ase.io import write

from ffmd_jax.core import files as files_module
from ffmd_jax.core import units
from ffmd_jax.dynamics import restart
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.models import model_files
from ffmd_jax.training import training_log
from ffmd_jax.training.training_log import METRICS

ALARM = 3  # exit code of a roll-out that a monitor has stopped
ANALYZABLE = 8  # frames that `ffmd analyze` needs


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One system.

    Attributes:
        system: prepared system, and name of the shipped model.
        time_step: Δt, fs.
        network: options of `ffmd train` for the network.
        trainings: options of `ffmd train` for each training; one begins with the weights of the one before.
        tau: the paper's relaxation time of the thermostat, fs.
        friction_tau: relaxation time 1/γ of Langevin friction and noise besides, fs.
        fast_friction: relaxation time, fs, of friction on fast motions, and the wavenumber, cm⁻¹, of half of it.
        reversible: roll-outs whose steps are made reversible in time, at three times the cost.
        length_ps: of each of the reference runs.
        frame: interval of their frames, fs.
        n_train: training pairs.
        n_runs: reference runs; the last two validate and test.
        other_runs: options of `ffmd reference` of more runs that train: other cells, other temperatures.
        other_length_ps: of each of these.
        large_reference: options of `ffmd reference` of the NVT run for 2 × 2 × 2 cells to compare with; none: that of
            the small cell.
        n_steps: of the long roll-out.
        n_spectrum: steps of the roll-outs and the reference run whose spectra are compared; every frame is kept.  One
            molecule needs many, and then the run with friction is the long one, too.
    """

    system: str
    time_step: float
    network: str
    trainings: tuple[str, ...]
    tau: float
    friction_tau: float
    length_ps: float
    frame: float
    n_train: int
    n_runs: int = 5
    other_runs: tuple[str, ...] = ()
    other_length_ps: float = 8.0
    large_reference: str = ""
    fast_friction: tuple[float, float] | None = None
    reversible: tuple[str, ...] = ()
    n_steps: int = 100_000
    n_spectrum: int = 10_000


# For --smoke: one command of each kind, too short for its numbers to mean anything.
_SMOKE_NETWORK = "--config.lmax 1 --config.channels 4 --config.layers 1 --config.radial-hidden 4"
_SMOKE_TRAINING = "--epochs 4 --batch-size 4"


class Stages:
    """The stages of one experiment.

    Args:
        folder: holds data/, runs/ and results.json.
        model: folder or name of the model to roll out; None: the trained one.
    """

    def __init__(self, experiment: Experiment, folder: Path, smoke: bool, model: str | None = None):
        self.experiment, self.folder, self.smoke = experiment, folder, smoke
        self.data, self.runs = folder / "data", folder / "runs"
        self.model = model or str(self.runs / "model")
        for path in (self.data, self.runs):
            path.mkdir(parents=True, exist_ok=True)
        self.pairs = self.data / f"pairs_{experiment.time_step:g}fs.h5"

    def reference(self) -> None:
        """NVE runs to train, validate and test on, their pairs, and an NVT run to compare roll-outs with."""
        of = self.experiment
        frame_fs = of.time_step if self.smoke else of.frame
        short = ["--equilibrate-ps", 0.1, "--spacing-ps", 0.1] if self.smoke else []
        others = []
        for i, options in enumerate(of.other_runs[:1] if self.smoke else of.other_runs):
            others.append(self.data / f"other_{i}.h5")
            length_ps = 0.03 * of.time_step if self.smoke else of.other_length_ps
            run = [*options.split(), "--length-ps", length_ps, "--frame-fs", frame_fs, "--seed", 200 + i, *short]
            _ffmd("reference", of.system, *run, "--out", others[-1], "--resume")
        length_ps = 0.03 * of.time_step if self.smoke else of.length_ps
        runs = ["--runs", of.n_runs, "--length-ps", length_ps, "--frame-fs", frame_fs]
        _ffmd("reference", of.system, *runs, *short, "--out", self.data / "nve.h5", "--resume")
        if not self.pairs.exists():
            own = [self.data / f"nve_{i}.h5" for i in range(of.n_runs)]
            files = [*own[:-2], *others, *own[-2:]]
            sizes = ["--train-pairs", of.n_train, "--test-pairs", 1000]
            _ffmd("dataset", *files, "--time-step", of.time_step, *sizes, "--out", self.pairs)
        n_frames = 20 if self.smoke else of.n_spectrum
        run = ["--ensemble", "nvt", "--tau-fs", of.tau, "--seed", 100, "--frame-fs", of.time_step]
        run += ["--length-ps", n_frames * of.time_step / 1000, *short]
        _ffmd("reference", of.system, *run, "--out", self.data / "nvt.h5", "--resume")

    def train(self) -> None:
        """The model; hours of its steps at their mean speed, and how many cores it could use."""
        network, trainings = self.experiment.network, self.experiment.trainings
        if self.smoke:
            network, trainings = _SMOKE_NETWORK, (_SMOKE_TRAINING,) * min(2, len(trainings))
        n_before = len(trainings) - 1
        folders = [*(self.runs / f"model_before_{i}" for i in range(n_before, 0, -1)), self.runs / "model"]
        begin, n_lines = network.split(), [len(training_log.read(out / METRICS)) for out in folders]
        for out, training in zip(folders, trainings, strict=True):
            go_on = ["--resume"] if (out / "training.json").exists() else []
            _ffmd("train", self.pairs, "--out", out, *training.split(), *begin, *go_on)
            begin = ["--init", out]
        if n_lines != [len(training_log.read(out / METRICS)) for out in folders]:  # else all had finished before
            found = {"hours": sum(map(_hours, folders)), "cores": len(os.sched_getaffinity(0))}
            self._note("training", found)

    def evaluate(self) -> None:
        """One step, on the test pairs."""
        self._note("one_step", _ffmd("evaluate", self.model, self.pairs, "--json", json_line=True))
        reversible = _ffmd("evaluate", self.model, self.pairs, "--reversible", "--json", json_line=True)
        self._note("one_reversible_step", reversible)

    def rollout(self) -> None:
        """NVT, with every frame for spectra and energies, without and with friction, and long; weak NVT; NVE."""
        of, nvt = self.experiment, self.data / "nvt.h5"
        self._run("spectrum", nvt, n_steps=of.n_spectrum, every=1, tau=of.tau)
        if self.smoke:
            return
        self._run("friction", nvt, n_steps=of.n_spectrum, every=1, tau=of.tau, more=self._friction)
        if of.n_spectrum < of.n_steps:
            self._run("long", nvt, n_steps=of.n_steps, every=20, tau=of.tau, more=self._friction)
        self._run("weak", nvt, n_steps=of.n_steps // 4, every=20, tau=100 * of.time_step)
        self._run("free", self.data / f"nve_{of.n_runs - 1}.h5", n_steps=of.n_steps // 10, every=20, tau=None)

    def transfer(self) -> None:
        """NVT of 2 × 2 × 2 cells with friction, from eight copies of a state of the small one with other velocities."""
        of, start = self.experiment, self.runs / "start_222.extxyz"
        small = ase_files.to_atoms(*trajectory.read_start(self.data / "nvt.h5", need_velocities=False))
        write(start, small.repeat((2, 2, 2)))
        reference = self.data / "nvt.h5"
        if of.large_reference and not self.smoke:
            reference = self.data / "nvt_222.h5"
            run = ["--ensemble", "nvt", "--tau-fs", of.tau, "--seed", 300, "--frame-fs", of.time_step]
            _ffmd("reference", of.system, *run, *of.large_reference.split(), "--out", reference, "--resume")
        more, n_steps = (*self._friction, "--draw-velocities"), of.n_spectrum // 2
        self._run("supercell", start, n_steps=n_steps, every=1, tau=of.tau, more=more, reference=reference)

    @property
    def _friction(self) -> tuple[str, ...]:
        return "--friction-tau-fs", f"{self.experiment.friction_tau:g}"

    def fast_friction(self) -> None:
        """NVT with friction on fast motions only; what that does to reference MD, beside CSVR alone."""
        of = self.experiment
        assert of.fast_friction is not None
        tau, above = of.fast_friction
        friction = ("--friction-tau-fs", f"{tau:g}", "--friction-above-per-cm", f"{above:g}")
        nvt, n_steps = self.data / "nvt.h5", 20 if self.smoke else 2 * of.n_spectrum
        self._run("fast_friction", nvt, n_steps=n_steps, every=1, tau=of.tau, more=friction)
        for name, more in (("csvr", ()), ("fast", friction)):
            run = ["--ensemble", "nvt", "--tau-fs", of.tau, "--seed", 300, "--frame-fs", of.time_step]
            run += ["--length-ps", 1.5 * n_steps * of.time_step / 1000, *more]
            _ffmd("reference", of.system, *run, "--out", self.data / f"nvt_{name}.h5", "--resume")
        options = ["--reference", self.data / "nvt_csvr.h5", "--out", self.runs / "reference_report", "--overwrite"]
        found = _ffmd("analyze", self.data / "nvt_fast.h5", *options, "--json", json_line=True)
        self._note("fast_friction_reference", found)

    def demo(self) -> None:
        """Speeds of the shipped model and of the reference, side by side in one process."""
        if self.smoke:  # takes minutes
            return
        if _digest(self.experiment.system) != _digest(self.model):
            print("no demo: it would be of the shipped model, which is another one")
            return
        out = self.runs / "demo"
        _ffmd("demo", "--system", self.experiment.system, "--out", out, "--overwrite")
        summary = json.loads((out / "summary.json").read_text())
        names = ("ns_per_day", "reference_ns_per_day", "free_runs", "free_runs_exploded")
        self._note("demo", {"cores": len(os.sched_getaffinity(0)), **{name: summary[name] for name in names}})

    def _run(
        self,
        name: str,
        start: Path,
        n_steps: int,
        every: int,
        tau: float | None,
        more: tuple[str, ...] = (),
        reference: Path | None = None,
    ) -> None:
        """A roll-out and its analysis beside a reference run (None: NVT); alarms end it, and are noted."""
        steps = 20 if self.smoke else n_steps
        path, report = self.runs / f"{name}.h5", self.runs / f"{name}_report"
        bath = ["--ensemble", "nve"] if tau is None else ["--temperature", 300, "--tau-fs", tau]
        untrained = ["--no-monitors"] if self.smoke else []  # would stop it before the first frame
        reversible = ["--reversible"] if name in self.experiment.reversible else []
        bath += ["--steps", steps, "--every", every, *more, *reversible, *untrained]
        ended = bool(self._facts(path).get("alarms"))
        if not ended and _n_frames(path) * every < steps:
            command = ["rollout", self.model, "--start", start, *bath, "--out", path, "--resume"]
            ended = _ffmd(*command, may_alarm=True) == ALARM
        n_frames = _n_frames(path)
        if not ended and path.exists() and n_frames * every < steps:  # a signal ends a roll-out with exit code 0, too
            sys.exit(f"{path} was stopped before its end; the same command goes on")
        if ended and n_frames < ANALYZABLE:
            length_ps = n_frames * every * self.experiment.time_step / units.PS
            self._note(name, {"stopped_by_alarm": True, "length_ps": length_ps})
            return
        # Energies of the frames of long runs would take longer than the runs.
        energies = ["--force-field", self.experiment.system] if every == 1 and name != "supercell" else []
        options = ["--reference", reference or self.data / "nvt.h5", *energies]
        options += ["--out", report, "--overwrite", "--json"]
        found = _ffmd("analyze", path, *options, json_line=True)
        # A run that was let go on after an alarm is whole; its alarms are among what was found.
        facts = {
            "stopped_by_alarm": ended and n_frames * every < steps,
            "reversible": bool(self._facts(path).get("reversible")),
        }
        self._note(name, {**facts, **found})

    def _facts(self, path: Path) -> dict:
        """What a roll-out's file says of it; {} if there is none of this model: that of another is removed."""
        if not path.exists():
            return {}
        metadata = trajectory.read_metadata(path)
        if metadata["settings"]["model"] != _digest(self.model):
            path.unlink()
            restart.path_of(path).unlink(missing_ok=True)
            return {}
        return metadata

    def _note(self, name: str, found: dict) -> None:
        """Adds to results.json, which holds results of one model only."""
        path, model = self.folder / "results.json", _digest(self.model)
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("model") != model:
            known = {"model": model}
        found = {key: value for key, value in found.items() if key != "advice"}  # commands with paths of this machine
        files_module.write_atomically(path, (json.dumps({**known, name: found}, indent=1) + "\n").encode())


def _n_frames(path: Path) -> int:
    return len(trajectory.read(path).times) if path.exists() else 0


def _hours(training: Path) -> float:
    """What the steps of a training took, at their mean speed."""
    lines = training_log.read(training / METRICS)
    speeds = [line["configurations_per_s"] for line in lines if line["configurations_per_s"]]
    batch_size = json.loads((training / "training.json").read_text())["batch_size"]
    return lines[-1]["step"] * batch_size / statistics.harmonic_mean(speeds) / 3600


def _digest(model: str) -> str:
    """What tells a model (folder, or a shipped name) from others."""
    found = model_files.load(model)
    return restart.fingerprint(found.config, found.params)


def _ffmd(*arguments, json_line: bool = False, may_alarm: bool = False):
    """Runs a command; returns the JSON object of its last line, or its exit code.  Stops the script if it fails."""
    words = [str(argument) for argument in arguments]
    print("\n$ ffmd", shlex.join(words), flush=True)
    command = [sys.executable, "-m", "ffmd_jax", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE if json_line else None, text=True)
    if done.returncode not in ((0, ALARM) if may_alarm else (0,)):
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1]) if json_line else done.returncode


def main(experiment: Experiment, folder: Path, description: str, stages: list[str]) -> None:
    """Runs the stages that the command line names, all by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"of {', '.join(stages)} (default: all, in this order)"
    )
    parser.add_argument("--model", help="roll this model out instead of the trained one (folder, or a shipped name)")
    parser.add_argument("--smoke", type=Path, metavar="DIR", help="run the smallest sizes, in DIR")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(stages):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; choose from {', '.join(stages)}")
    run = Stages(experiment, options.smoke or folder, options.smoke is not None, options.model)
    for stage in options.stages or stages:
        getattr(run, stage)()
