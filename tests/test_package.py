"""The house: import order, a computing jax, no excluded versions."""

import ast
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ffmd_jax
from ffmd_jax import __main__ as entry

PACKAGE = Path(ffmd_jax.__file__).parent
# A room (a folder, or a module beside them) imports only from itself and from those before it.
ROOMS = [
    "core",
    "formats",
    "analysis",
    "models",
    "dynamics",
    "data",
    "training",
    "reference_md",
    "interop",
    "simulation",
    "screening",
    "api",
    "cli",
    "__main__",
]


def rooms_imported_by(path):
    """The rooms that a file imports from, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "ffmd_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ffmd_jax."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ffmd_jax."))


def test_rooms_import_only_those_before_them():
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue
        assert room in ROOMS, f"{room} has no place in the order of rooms"
        for imported in rooms_imported_by(path):
            if imported == "__version__":
                continue
            assert ROOMS.index(imported) <= ROOMS.index(room), f"{path} imports {imported}, which comes after {room}"
            checked += 1
    assert checked > 100


def test_jax_computes_right_numbers():
    # jax-ml/jax#39103: wrong from 32,769 rows on, silently, in jax 0.10.2 on CPU.
    with jax.enable_x64(False):
        rows = 40_000
        matrix = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
        vectors = jnp.asarray(np.random.default_rng(1).normal(size=(rows, 3)), jnp.float32)
        found = jax.jit(jax.vmap(lambda r: jnp.sum((matrix @ r) ** 2)))(vectors)
    expected = np.sum((np.asarray(vectors, float) @ np.asarray(matrix, float).T) ** 2, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.process
@pytest.mark.parametrize("version", ffmd_jax.MISCOMPUTING_JAX)
@pytest.mark.parametrize("start", [["-c", "import ffmd_jax.core.state"], ["-m", "ffmd_jax", "info", "quartz"]])
def test_an_excluded_jax_is_refused_before_it_is_imported(version, start, tmp_path):
    (tmp_path / f"jax-{version}.dist-info").mkdir()
    (tmp_path / f"jax-{version}.dist-info" / "METADATA").write_text(f"Name: jax\nVersion: {version}\n")
    (tmp_path / "jax.py").write_text("raise RuntimeError('imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([sys.executable, *start], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"ImportError: jax {version} ")


def test_excluded_versions_are_those_of_the_requirements():
    project = PACKAGE.parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not a source checkout")
    requirements = tomllib.loads(project.read_text())["project"]["dependencies"]
    (jax_line,) = [line for line in requirements if line.startswith("jax>=")]
    excluded = {part[2:] for part in jax_line.removeprefix("jax").split(",") if part.startswith("!=")}
    assert excluded == set(ffmd_jax.MISCOMPUTING_JAX)


@pytest.mark.process
def test_commands_keep_compiled_programs_and_leave_the_users_settings(tmp_path):
    script = (
        "import os; from ffmd_jax.core import caches; caches.keep_programs(); import jax; import jax.numpy as jnp;"
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


def python(script, **environment):
    """Runs a script in a process without settings of jax, other than those given."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "TF_CPP", "XLA_"))}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=plain | environment, capture_output=True, text=True)


@pytest.mark.process
def test_the_reason_of_an_abort_is_not_lost():
    script = "import os; from ffmd_jax.core import caches; caches.hide_false_alarms(); os.write(2, b'why'); os.abort()"
    for _ in range(8):
        ended = python(script)
        assert ended.returncode == -signal.SIGABRT and ended.stderr.startswith("why")
    ended = python(
        "from ffmd_jax.core import caches; caches.hide_false_alarms(); import jax; jax.devices()",
        JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_no_such_flag",
    )  # fmt: skip
    assert ended.returncode != 0 and "xla_no_such_flag" in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize("inherited", [{}, {"TF_CPP_MIN_LOG_LEVEL": "1"}], ids=["shell", "from a process with jax"])
def test_programs_are_loaded_from_the_cache_without_false_alarms(tmp_path, inherited):
    script = (
        "from ffmd_jax.core import caches; caches.hide_false_alarms(); caches.keep_programs(); import jax;"
        "jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((8, 8))).block_until_ready()"
    )
    settings = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for _ in range(2):
        ended = python(script, JAX_PLATFORMS="cpu", **settings, **inherited)
        assert ended.returncode == 0 and ended.stderr == ""


@pytest.mark.process
def test_stderr_stays_a_terminal():
    ours, theirs = pty.openpty()
    script = (
        "from ffmd_jax.core import caches; caches.hide_false_alarms();"
        "import os, sys; print(sys.stderr.isatty(), os.isatty(2))"
    )
    found = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs)
    os.close(ours)
    assert found.stdout.split() == ["True", "True"]


HEAVY = ["jax_md", "orbax", "optax", "matplotlib", "ase.build"]


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments, unused", [(["--help"], ["jax", "ase", "scipy", *HEAVY]), (["info", "quartz"], HEAVY)]
)
def test_commands_import_only_what_they_use(arguments, unused):
    script = (
        "import contextlib, io, sys; from ffmd_jax.__main__ import main\n"
        f"with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main({arguments})\n"
        f"print(*(name for name in {unused} if name in sys.modules))"
    )
    assert python(script, JAX_PLATFORMS="cpu").stdout.split() == []


def test_help_has_a_line_for_each_command_and_their_own_help_all_of_it(capsys):
    with pytest.raises(SystemExit):
        entry.main(["--help"])
    helped = capsys.readouterr().out.partition("(required)")[2]
    listed = [line for line in helped.splitlines() if re.search(r"\w", line)]
    assert len(listed) == 12 and all("•" in line for line in listed), helped
    with pytest.raises(SystemExit):
        entry.main(["rollout", "--help"])
    helped = capsys.readouterr().out
    assert "Monitors look at every step" in helped and "--temperature-end" in helped


def test_version(capsys):
    entry.main(["--version"])
    assert capsys.readouterr().out == f"ffmd {ffmd_jax.__version__}\n"
    assert (PACKAGE / "py.typed").is_file()
