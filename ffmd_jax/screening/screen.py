"""`screen`: many molecules run by one model, over all cores, analysed into a folder."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core import files, processes
from ffmd_jax.core import progress as bars
from ffmd_jax.models import model_files
from ffmd_jax.models.model import Model
from ffmd_jax.screening import description, molecules, page, pools, runs, shares
from ffmd_jax.screening.molecules import Entry, Molecule, Partner
from ffmd_jax.screening.runs import Batch, Conditions, Frames

_SETTINGS, _RESULTS, _TABLE, _PAGE = "screen.json", "molecules", "molecules.csv", "index.html"
_BESIDE = "beside"  # folder, and table
_AT_ONCE = 64  # molecules side by side on an accelerator; a core has nothing to gain from more than one


class Screening(NamedTuple):
    """What came out.

    Attributes:
        table: a row for each molecule that ran, as in the CSV file.
        refused: why a molecule did not run, by name.
        folder: with table, page and the files of each molecule.
    """

    table: list[dict[str, Any]]
    refused: dict[str, str]
    folder: Path


def screen(
    given: str | Path | Sequence[str],
    out: str | Path,
    model: Model | str | Path = "organic",
    conditions: Conditions = Conditions(),  # noqa: B008  # a frozen record
    *,
    n_starts: int = 4,
    pair: Path | None = None,
    beside: Sequence[str] = (),
    beside_molecules: int = 3,
    trajectories: bool = False,
    most_atoms: int = 200,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Screening:
    """Runs molecules and says what they do; as ``ffmd screen``, whose help says more.

    Args:
        given: file with SMILES, or an SD file; or a sequence of SMILES.
        out: folder to write.
        conditions: temperature, lengths, friction.
        n_starts: starting structures of each molecule, run side by side.
        pair: a structure to put beside each molecule.
        beside: methods that run the first ``beside_molecules`` of the molecules, too, see `beside.check`.
        trajectories: keep the frames, too.
        workers: processes (default: one for each core; on an accelerator one); a script, not a notebook, then makes the
            call under ``if __name__ == "__main__":``.
        resume: go on where an earlier call stopped.
        progress: show bars.
        say: is called with each remark, such as why a molecule was left out.

    Raises:
        ValueError: what cannot be run at all; a molecule that cannot is named in ``refused``.
        ChildProcessError: one of the processes died.
        KeyboardInterrupt: Ctrl-C; what was finished is kept, and ``resume`` goes on.
    """
    used, out = model if isinstance(model, Model) else model_files.load(model), Path(out)
    _check(used, conditions, n_starts)
    _check_beside(beside, beside_molecules, pair)
    entries = molecules.read(Path(given)) if isinstance(given, Path | str) else _entries(given)
    partner = None if pair is None else molecules.read_partner(pair)
    settings = _settings(used, conditions, n_starts, pair, most_atoms)
    done = _done(out, settings, resume)
    if done is None:
        _check_folder(out, overwrite, (given, model, pair))
    processes.check_same(str(out), settings, [(entry.name, entry.smiles) for entry in entries])
    if processes.is_first():
        _make_folder(out, settings, done is None)
    processes.wait_for_all("the folder is made")
    done = done or set()
    _check_same_molecules(out, [entry for entry in entries if entry.name in done])
    first, missing = processes.is_first(), shares.own([entry for entry in entries if entry.name not in done])
    show = progress and first
    ready, refused = _prepare(missing, used, n_starts, most_atoms, conditions, partner, show)
    for molecule in ready:
        if molecule.isomer_chosen:
            say(f"{molecule.name}: its stereochemistry is not stated; it runs as {molecule.smiles}")
    for name, reason in refused.items():
        say(f"{name}: {reason}")
    _run_all(ready, used, conditions, out, trajectories, workers, show, len(done), say)
    if processes.count() > 1:
        shares.tell(out, refused)
        if not first:
            shares.wait(out)
            return Screening([page.row(one) for one in _found(out, entries)], refused, out)
        of_all = shares.collect(out)
        for name, reason in of_all.items():
            if name not in refused:
                say(f"{name}: {reason}")
        refused = of_all
    if beside:
        from ffmd_jax.screening import beside as methods

        have = [entry for entry in entries if (out / _RESULTS / f"{entry.name}.json").is_file()][:beside_molecules]
        names = [used.name, *beside]
        more = [e for e in have if [line["method"] for line in _beside_of(out, e.name)] != names]
        again, _ = _prepare(more, used, n_starts, most_atoms, conditions, None, False)
        methods.run_all(again, used, conditions, beside, out / _BESIDE, progress, say)
    found = _finish(out, entries, refused, settings)
    shares.clear(out)
    return found


def _check(model: Model, conditions: Conditions, n_starts: int) -> None:
    if model.kind != "propagator" or not model.config.isolated:
        raise ValueError(f"{model.name} is no propagator of isolated molecules: screening needs one")
    if n_starts < 1:
        raise ValueError(f"the number of starts must be at least 1, not {n_starts}")
    for name, value in conditions._asdict().items():
        least_is_zero = name in ("equilibrate_ps", "seed")
        if not (np.isfinite(value) and (value > 0 or (least_is_zero and value == 0))):
            raise ValueError(f"{name} must be positive, not {value}")


def _check_beside(methods: Sequence[str], n_molecules: int, pair: Path | None) -> None:
    if methods:
        if pair is not None or n_molecules < 1:
            raise ValueError("`beside` runs at least one of the molecules, alone: leave out `pair`")
        from ffmd_jax.screening import beside  # a second, for what few ask

        beside.check(methods)


def _beside_of(out: Path, name: str) -> list[dict[str, Any]]:
    """What other methods said of a molecule."""
    path = out / _BESIDE / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else []


def _entries(smiles: Sequence[str]) -> list[Entry]:
    return [Entry(f"molecule{i + 1}", text) for i, text in enumerate(smiles)]


def _settings(
    model: Model, conditions: Conditions, n_starts: int, pair: Path | None, most_atoms: int
) -> dict[str, Any]:
    from ffmd_jax.dynamics import restart

    return {
        "model": model.name, "weights": restart.fingerprint(model.config, model.params), **conditions._asdict(),
        "time_step_fs": model.config.time_step_fs, "n_starts": n_starts, "pair": None if pair is None else str(pair),
        "most_atoms": most_atoms,
    }  # fmt: skip


def _done(out: Path, settings: dict[str, Any], resume: bool) -> set[str] | None:
    """What is done in the folder of a screening that is resumed; None: it begins."""
    if not (resume and (out / _SETTINGS).is_file()):
        return None
    before = json.loads((out / _SETTINGS).read_text())
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(f"cannot resume with {name} = {value}: {out} has {before.get(name)}")
    return {path.stem for path in (out / _RESULTS).glob("*.json")}


def _check_folder(out: Path, overwrite: bool, inputs: Sequence[Any] = ()) -> None:
    """Raises what is wrong with a folder to begin in; one that holds an input is not replaced."""
    files.check_output(out, overwrite, *inputs)
    if out.exists() and not (out / _SETTINGS).is_file() and any(out.iterdir()):
        raise FileExistsError(f"{out} is no folder of a screening and will not be replaced; choose another `out`")


def _make_folder(out: Path, settings: dict[str, Any], anew: bool) -> None:
    """Makes the folder, or removes what does not belong to its results."""
    if anew:
        files.remove(out)
        out.mkdir(parents=True)
        files.write_into(out, {_SETTINGS: (json.dumps(settings, indent=2) + "\n").encode()})
    shares.clear(out)
    (out / _RESULTS).mkdir(parents=True, exist_ok=True)


def _check_same_molecules(out: Path, entries: list[Entry]) -> None:
    """Raises ValueError if a finished molecule has the name of another one: names of a list may have moved."""
    for entry in entries:
        before = json.loads((out / _RESULTS / f"{entry.name}.json").read_text()).get("given", entry.smiles)
        if before != entry.smiles:
            raise ValueError(
                f"cannot resume with {entry.name} = {entry.smiles}: in {out} it is {before}; give each molecule of the "
                f"list a name of its own, or choose another `out`"
            )


def _prepare(
    entries: list[Entry], model: Model, n_starts: int, most_atoms: int, given: Conditions, partner: Partner | None,
    show: bool,
) -> tuple[list[Molecule], dict[str, str]]:  # fmt: skip
    ready, refused = [], {}
    with bars.progress(len(entries), "structures", "molecules", hidden=not show) as bar:
        for entry in entries:
            try:
                ready.append(molecules.prepare(entry, model.config, n_starts, most_atoms, given.seed, partner))
            except ValueError as error:
                refused[entry.name] = str(error)
            bar.update(1)
    return ready, refused


def _run_all(
    ready: list[Molecule], model: Model, given: Conditions, out: Path, keep: bool, workers: int | None, show: bool,
    n_done: int, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Runs what is ready, in this process on an accelerator, else in one process for each core."""
    import jax

    on_cpu = jax.default_backend() == "cpu"
    batches = runs.batches(ready, model, 1 if on_cpu else _AT_ONCE) if ready else []
    n_workers = min(len(batches), workers or (os.cpu_count() or 1) if on_cpu else 1)
    jobs = [(batch, model, given, out, keep) for batch in batches]
    total, began = n_done + len(ready), time.perf_counter()
    with bars.progress(total, "force-free", "molecules", hidden=not show, begin=n_done, compiles=True) as bar:
        for names, failures in _results(jobs, n_workers):
            for text in failures:
                say(text)
            bar.update(len(names))
            rate = 3600 * (bar.n - n_done) / (time.perf_counter() - began)
            bar.set_postfix_str(f"{rate:.0f} molecules/hour", refresh=False)


def _results(jobs: list[Any], n_workers: int) -> Iterator[tuple[list[str], list[str]]]:
    if n_workers <= 1:
        yield from (_do(*job) for job in jobs)
        return
    with pools.pool(n_workers) as pool:
        for done in as_completed([pool.submit(_do, *job) for job in jobs]):
            yield done.result()


def _do(batch: Batch, model: Model, given: Conditions, out: Path, keep: bool) -> tuple[list[str], list[str]]:
    """Runs a batch and writes what its molecules did; returns their names, and what went wrong."""
    names, failures, began = [], [], time.perf_counter()
    for molecule, frames in runs.run(batch, model, given):
        wall_s = (time.perf_counter() - began) / len(batch.molecules)
        try:
            found, texts = description.describe(molecule, frames, model, given)
        except Exception as error:  # one molecule must not stop the others
            found, texts = {"name": molecule.name, "smiles": molecule.smiles, "failed": str(error)}, {}
            failures.append(f"{molecule.name}: {error}")
        folder = out / _RESULTS
        if keep:
            _write_trajectory(folder / f"{molecule.name}.h5", molecule, frames, model, given)
        found |= {"given": molecule.given, "wall_s": round(wall_s, 2)}
        texts[f"{molecule.name}.json"] = (json.dumps(found) + "\n").encode()
        for name, content in sorted(texts.items(), key=lambda item: item[0].endswith(".json")):  # last: it is done
            files.write_atomically(folder / name, content)
        names.append(molecule.name)
    return names, failures


def _write_trajectory(path: Path, molecule: Molecule, frames: Frames, model: Model, given: Conditions) -> None:
    """The frames of each start as a replica, which is a trajectory; of starts that have some."""
    from ffmd_jax.core.state import State
    from ffmd_jax.dynamics import ensemble as ensembles
    from ffmd_jax.formats import trajectory

    metadata = {
        "source": "force-free", "model": model.name, "molecule": molecule.name, **ensembles.metadata(given.ensemble),
        "time_step_fs": model.config.time_step_fs, "seed": given.seed,
        "of_replicas": {
            str(i): {"alarms": [alarm._asdict() for alarm in found]} for i, found in enumerate(frames.alarms)
        },
    }  # fmt: skip
    _, n_out, _ = given.steps(model.config.time_step_fs, len(molecule.starts))
    with trajectory.Writer(path, molecule.system, metadata, overwrite=True, replicas=len(frames.positions)) as writer:
        for i, (positions, velocities) in enumerate(zip(frames.positions, frames.velocities, strict=True)):
            if len(positions):
                cells = np.broadcast_to(np.eye(3), (len(positions), 3, 3))
                times = (n_out + 1 + np.arange(len(positions))) * frames.interval_fs
                writer.append(State(positions, velocities, cells), times, {}, replica=i)


def _finish(out: Path, entries: list[Entry], refused: dict[str, str], settings: dict[str, Any]) -> Screening:
    """Table and page of all that is done."""
    found = _found(out, entries)
    table = [page.row(one) for one in found]
    smiles = {entry.name: entry.smiles for entry in entries}
    not_run = [{"name": name, "smiles": smiles[name], "not_run": reason} for name, reason in refused.items()]
    beside = [line for entry in entries for line in _beside_of(out, entry.name)]
    contents = {
        _TABLE: page.csv_text([*table, *not_run]).encode(),
        _PAGE: page.html_page(found, table, refused, settings, beside).encode(),
    }
    if beside:
        contents[f"{_BESIDE}.csv"] = page.csv_text(beside, page.BESIDE).encode()
    for name, content in contents.items():
        files.write_atomically(out / name, content)
    return Screening(table, refused, out)


def _found(out: Path, entries: list[Entry]) -> list[dict[str, Any]]:
    """What is known of the molecules that are done."""
    paths = [out / _RESULTS / f"{entry.name}.json" for entry in entries]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]
