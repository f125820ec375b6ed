"""The house: import order, a computing jax, no excluded versions."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax import __main__ as entry

PACKAGE = Path(entry.__file__).parent
# A module imports only those before it.
ORDER = [
    "units",
    "state",
    "mechanics",
    "neighbors",
    "formats",
    "formats.common",
    "formats.journal",
    "formats.h5md",
    "formats.h5md_writer",
    "formats.ase_files",
    "formats.lammps",
    "formats.mdanalysis",
    "formats.trajcast_pairs",
    "trajectory",
    "distributions",
    "diffusion",
    "torsions",
    "analysis",
    "growth",
    "conservation",
    "thermostat",
    "stepping",
    "rollout",
    "alarms",
    "reference.teacher",
    "reference.sampling",
    "reference.drift",
    "reference.ase_teacher",
    "reference.energies",
    "reference.coulomb",
    "reference.molecular",
    "reference.images",
    "reference.opls",
    "reference.silica",
    "reference.silicon",
    "reference.water",
    "reference.integrator",
    "reference.systems",
    "reference.production",
    "reference.jax_md_door",
    "reference.fallback",
    "config",
    "nve",
    "dataset_file",
    "dataset",
    "splines",
    "layers",
    "caches",
    "cpu_kernel",
    "products",
    "model",
    "tables",
    "monitors",
    "parallel",
    "examples",
    "objective",
    "optimizer",
    "train",
    "checkpoint",
    "restart",
    "figures",
    "training_log",
    "report",
    "interop",
    "interop.trajcast_config",
    "interop.trajcast_weights",
    "interop.trajcast",
    "interop.ase",
    "cli.common",
    "cli.production",
    "cli.reference",
    "cli.driver",
    "cli.rollout",
    "cli.simulate",
    "cli.learn",
    "cli.training",
    "cli.convert",
    "cli.free_runs",
    "cli.demo",
    "cli.inspect",
    "cli",
    "__main__",
]


def imports_of(path):
    """Names of the package's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ffmd_jax"):
            base = node.module.removeprefix("ffmd_jax").lstrip(".")
            for alias in node.names:
                inside = f"{base}.{alias.name}".lstrip(".")
                yield inside if inside in ORDER else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("ffmd_jax.") for a in node.names if a.name.startswith("ffmd_jax."))


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_modules_import_only_those_above_them():
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        name = module_name(path)
        if name in ("", "reference"):
            continue
        assert name in ORDER, f"{name} has no place in the import order"
        for imported in imports_of(path):
            if imported in ("", name):
                continue
            assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}, which stands below it"
            checked += 1
    assert checked > 40


def test_jax_computes_right_numbers():
    # jax-ml/jax#39103: wrong from 32,769 rows on, silently, in jax 0.10.2 on CPU.
    with jax.enable_x64(False):
        rows = 40_000
        matrix = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
        vectors = jnp.asarray(np.random.default_rng(1).normal(size=(rows, 3)), jnp.float32)
        found = jax.jit(jax.vmap(lambda r: jnp.sum((matrix @ r) ** 2)))(vectors)
    expected = np.sum((np.asarray(vectors, float) @ np.asarray(matrix, float).T) ** 2, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("version", entry.MISCOMPUTING_JAX)
def test_an_excluded_jax_is_refused_in_one_line(version, monkeypatch, capsys):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    with pytest.raises(SystemExit) as stop:
        entry.main(["info"])
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert version in message


def test_excluded_versions_are_those_of_the_requirements():
    project = PACKAGE.parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not a source checkout")
    requirements = tomllib.loads(project.read_text())["project"]["dependencies"]
    (jax_line,) = [line for line in requirements if line.startswith("jax>=")]
    excluded = {part[2:] for part in jax_line.removeprefix("jax").split(",") if part.startswith("!=")}
    assert excluded == set(entry.MISCOMPUTING_JAX)


def test_commands_keep_compiled_programs_and_leave_the_users_settings(tmp_path):
    script = (
        "import os; from ffmd_jax import caches; caches.keep_programs(); import jax; import jax.numpy as jnp;"
        "jax.jit(lambda x: jax.lax.sort(jnp.sin(x)))(jnp.ones(8)).block_until_ready();"
        "print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    folder, seconds = found.stdout.split()
    assert Path(folder).is_relative_to(tmp_path / "ffmd_jax")
    assert float(seconds) == 0
    assert list(Path(folder).iterdir())
