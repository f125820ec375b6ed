"""The documentation holds what the package does: tables, command lines, and the Python code of the README."""

import ast
import functools
import inspect
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
from conftest import ffmd

import ffmd_jax

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(r"\bffmd ([a-z][a-z-]+)((?:[^`\n\\]|\\\n)*)")

pytestmark = pytest.mark.usefixtures("restore_precision")


def code(text):
    """Fenced, indented and inline code of a page."""
    fenced = re.findall(r"```.*?\n(.*?)```", text, flags=re.S)
    rest = re.sub(r"```.*?```", "", text, flags=re.S)
    return [*fenced, *re.findall(r"(?:^ {4,}.*\n)+", rest, flags=re.M), *re.findall(r"`([^`\n]+)`", rest)]


def command_lines(path):
    """Commands and their words on a page."""
    for block in code(path.read_text()):
        for name, words in COMMAND.findall(block):
            yield name, words.replace("\\\n", " ")


@cache
def help_of(command):
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as stop:
        ffmd(command, "--help")
    assert stop.value.code == 0
    return set(re.findall(r"--[a-z0-9.-]+", said.getvalue()))


def test_tables_are_generated():
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert set(generate["FILES"]) == {README, ROOT / "docs" / "results.md", ROOT / "docs" / "models.md"}
    for path in generate["FILES"]:
        text = path.read_text()
        assert generate["filled"](text) == text, f"{path.name}: run python docs/generate.py"
    named = re.findall(r"<!-- begin (\S+) -->", "".join(path.read_text() for path in generate["FILES"]))
    assert sorted(named) == sorted(generate["blocks"]())


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_tables_have_at_most_five_columns():
    for path in PAGES:
        for line in path.read_text().splitlines():
            assert not re.match(r"\|(-+:?\|){6,}$", line), (
                f"{path.relative_to(ROOT)}: a table of more than five columns"
            )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_in_command_lines_exist(path):
    for name, words in command_lines(path):
        known = help_of(name) | {"--debug", "--help"}
        for option in re.findall(r"(?<![\w-])--[a-z0-9.-]+", words.split("#")[0]):
            assert option in known, f"{path.relative_to(ROOT)}: ffmd {name} has no {option}"


def test_the_options_of_a_command_are_found():
    assert "--time-step" in help_of("train") and "--noise" not in help_of("train")
    names = {name for path in PAGES for name, _ in command_lines(path)}
    assert {"demo", "reference", "dataset", "train", "rollout", "analyze"} <= names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not re.match(r"\w+:", target):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def calls_of_the_package(text):
    """Names of functions and classes that Python code takes from ``ffmd``, with the keywords that it gives them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ffmd."):
            yield ast.unparse(node.func).split(".")[1:], [each.arg for each in node.keywords if each.arg]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keywords_in_python_code_exist(path):
    for text in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.S):
        for names, keywords in calls_of_the_package(text):
            if names[0] in ffmd_jax.__all__:
                taken = inspect.signature(functools.reduce(getattr, names, ffmd_jax)).parameters
                for keyword in keywords if not any(one.kind is one.VAR_KEYWORD for one in taken.values()) else ():
                    assert keyword in taken, f"{path.relative_to(ROOT)}: ffmd.{'.'.join(names)} has no {keyword}"


@pytest.mark.slow
def test_python_code_of_the_readme_runs(tmp_path, monkeypatch):
    (text,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    for given, small in (
        ("length_ps=15", "length_ps=0.6, equilibrate_ps=0.2, spacing_ps=0.1"),
        ("steps=500", "steps=20"),
    ):
        assert given in text
        text = text.replace(given, small)
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "README.md", "exec"), {})
    assert (tmp_path / "report" / "report.html").exists()


def test_messages_in_troubleshooting_are_those_of_the_code():
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "ffmd_jax").rglob("*.py")))
    joined = re.sub(r'"\s*\n?\s*f?"', "", sources)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    for row in re.findall(r"^\| (`.*?) \|", page, flags=re.M):
        for message in re.findall(r"`([^`]+)`", row):
            for part in re.split(r"\s*…\s*", message):
                assert part in joined, f"no message holds: {part}"


def test_pages_are_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))
