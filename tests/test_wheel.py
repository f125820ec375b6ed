"""What users install: the wheel holds everything, and works without the checkout."""

import ast
import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
HIDDEN = ("PYTHONPATH", "PYTEST_XDIST_WORKER", "XLA_FLAGS")


_NAMED = {"yaml": "pyyaml"}  # distributions of modules that may not be installed here


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command, cwd, **environment):
    """Runs a command that sees no other copy of the package and compiles as it does for users."""
    variables = {k: v for k, v in os.environ.items() if k not in HIDDEN}
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made of the source distribution as for an upload, from a copy of the checkout."""
    if importlib.metadata.packages_distributions().get("build") is None or not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("needs a checkout and the package build")
    folder = tmp_path_factory.mktemp("wheel")
    if run(sys.executable, "-m", "pip", "download", "--no-deps", "setuptools>=69", cwd=folder).returncode:
        pytest.skip("pip has no network")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    shutil.copytree(CHECKOUT / "ffmd_jax", source / "ffmd_jax", ignore=shutil.ignore_patterns("__pycache__"))
    path = os.environ.get("PYTHONPATH", "")  # of build
    made = run(sys.executable, "-m", "build", "--outdir", "made", "source", cwd=folder, PYTHONPATH=path)
    assert made.returncode == 0, made.stderr + made.stdout
    (found,) = (folder / "made").glob("*.whl")
    return found


@pytest.mark.process
def test_the_wheel_holds_code_kernel_models_and_force_fields(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ffmd_jax/")}
    ours = [path for path in (CHECKOUT / "ffmd_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert inside == {path.relative_to(CHECKOUT).as_posix() for path in ours}
    assert {"ffmd_jax/py.typed", "ffmd_jax/models/cpu_kernel.cc", "ffmd_jax/pretrained/quartz/weights.npz",
            "ffmd_jax/reference_md/data/opls_paracetamol.json", "ffmd_jax/simulation/simulate.py"} < inside  # fmt: skip
    rooms = "core formats models dynamics data training analysis reference_md simulation interop cli"
    assert {f"ffmd_jax/{room}/__init__.py" for room in rooms.split()} < inside


def test_what_is_imported_is_declared():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in ("dev", "docs")}
    lines = [*project["dependencies"], *(line for needs in extras.values() for line in needs)]
    declared = {_normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
    distributions = importlib.metadata.packages_distributions()
    for path in (CHECKOUT / "ffmd_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            for top in {str(module).split(".")[0] for module in modules}:
                if top != "ffmd_jax" and top not in sys.stdlib_module_names:
                    known = distributions.get(top, [_NAMED.get(top, top)])
                    assert declared & {_normal(name) for name in known}, f"{path}: {top} is no dependency"


@pytest.mark.slow
@pytest.mark.process
def test_the_installed_wheel_runs_the_demo(wheel, tmp_path):
    venv.create(tmp_path / "bare")
    binaries = tmp_path / "bare" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python")
    installed = run(*pip, "install", "--quiet", "--no-deps", "--no-compile", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    # What it depends on is taken from here, without the links to checkouts that are among it.
    (own,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    demo = ("demo", "--system", "silicon", "--length-ps", "1")  # the fastest to compile
    done = run(binaries / "ffmd", *demo, cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    where = run(binaries / "python", "-c", "import ffmd_jax; print(ffmd_jax.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert (tmp_path / "ffmd_demo" / "report.html").is_file()
