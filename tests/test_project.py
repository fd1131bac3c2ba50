"""The project's promises about itself: versions, commands and sizes agree wherever they are written."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED = dict(line.split("==") for line in (ROOT / "tested-versions.txt").read_text().splitlines() if "==" in line)
SITE = {Requirement(r).name for r in PROJECT["optional-dependencies"]["site"]}  # not installed to run the tests
REQUIRED = [Requirement(r) for r in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])]


def test_every_dependency_has_one_tested_version_that_is_the_installed_one():
    assert {r.name.lower() for r in REQUIRED} == set(TESTED)
    for requirement in REQUIRED:
        tested = TESTED[requirement.name.lower()]
        assert requirement.specifier.contains(tested), f"{requirement} excludes the tested {tested}"
        # Elsewhere the package may have been installed by other means.
        if sys.version_info[:2] == (3, 11) and requirement.name not in SITE:
            assert version(requirement.name).split("+")[0] == tested, requirement.name


def test_conda_environment_uses_the_same_list():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pip == ["-c tested-versions.txt", "-e .[notebooks,test]"]


def test_ci_runs_the_readmes_test_command():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.M)
    setup, test = commands  # one answers, one tests
    assert setup.endswith('python -m minexaone "Explain how wonderful you are"') and test.endswith("python -m pytest")
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == test
    assert all(command.count("-c tested-versions.txt") == 1 for command in commands)


# The floors of the house, from the ground: a file imports from floors below its own, and from its own room.
FLOORS = ["files", "hangul", "gguf_file", "config_json", "checks", "habits", "threads", "linear", "tools", "reply",
          "tokenizer", "generation", "speculation", "model", "heads", "fast", "chat", "tasks", "scoring", "training",
          "bench", "bench_lora", "doctor", "quantize", "quantize_report", "export", "serve_check", "touch",
          "__init__",
          "__main__"]
FILES = sorted((ROOT / "minexaone").rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT / "minexaone"))


def room(path):
    return path.relative_to(ROOT / "minexaone").with_suffix("").parts[0]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_imports_upwards_or_takes_what_is_private(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write the whole name"
            private = [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
            assert not (node.module.startswith("minexaone") and private), f"{node.module} keeps {private} to itself"
            inside = node.module == "minexaone" and room(file) not in ("__main__",)
            modules = [f"minexaone.{a.name}" if inside and a.name in FLOORS else node.module for a in node.names]
        for module in (m for m in modules if m.split(".")[0] == "minexaone"):
            below = (module.split(".") + ["__init__"])[1]
            assert below == room(file) or FLOORS.index(below) < FLOORS.index(room(file)), f"imports {module}"


def test_no_file_uses_what_another_keeps_private():
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    defined = {file: {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
               | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                  and isinstance(node.ctx, ast.Store)} for file, tree in trees.items()}
    for file, tree in trees.items():
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                and node.attr.startswith("_") and not node.attr.startswith("__")} - defined[file]
        theirs = {name: other.name for other, names in defined.items() for name in used & names}
        assert not theirs, f"{file.name} uses {theirs}"


# What is not on Windows, or not on macOS.
POSIX = {"fcntl", "grp", "pwd", "resource", "termios", "fork", "getuid", "geteuid", "killpg", "setsid", "mkfifo",
         "sysconf", "sched_getaffinity", "SIGKILL", "SIGALRM"}
GUARDED = {"getloadavg": "doctor.py", "fcntl": "files.py"}  # asked for with hasattr or os.name there


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_run_on_every_system(file):
    """Text is read and written as UTF-8, wherever Python's default is another; nothing is called that Windows lacks."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = {getattr(node, "attr", None), getattr(node, "id", None)} | {
            alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)}
        assert not {name for name in names & (POSIX | GUARDED.keys()) if GUARDED.get(name) != file.name}, names
        if isinstance(node, ast.Call):
            assert not opens_text(node) or "encoding" in {word.arg for word in node.keywords}, \
                f"line {node.lineno} opens text without encoding=\"utf-8\""


def opens_text(call):
    """Whether a call opens a file as text: open, Path.open, read_text, write_text."""
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    if name in ("read_text", "write_text"):
        return True
    mode = next((word.value for word in call.keywords if word.arg == "mode"), None) or next(
        iter(call.args[isinstance(call.func, ast.Name):]), None)
    return name == "open" and not (isinstance(mode, ast.Constant) and "b" in mode.value)


def test_the_lint_of_open_files_can_fail():
    lines = {'open("a")': True, 'Path("a").open()': True, 'p.open("w", encoding="utf-8")': True, 'p.open("rb")': False,
             'open("a", "rb")': False, 'p.read_text()': True, 'p.read_bytes()': False, 'open("a", mode="wb")': False}
    assert {line: opens_text(ast.parse(line).body[0].value) for line in lines} == lines


def test_ruff():
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_public_definition_has_a_docstring(file):
    module = ast.parse(file.read_text(encoding="utf-8"))
    definitions = [node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    methods = [node for cls in definitions if isinstance(cls, ast.ClassDef) and not cls.name.startswith("_")
               for node in cls.body if isinstance(node, ast.FunctionDef) and node.name != "forward"]
    for node in [module, *definitions, *methods]:
        assert getattr(node, "name", "").startswith("_") or ast.get_docstring(node), f"{file.name}: {node.name}"


def test_import_is_quick_and_imports_no_heavy_extras():
    code = ("import sys, minexaone; "
            "print(sorted({'jinja2', 'transformers', 'matplotlib', 'huggingface_hub'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
