"""A wheel, without the clone that it was built from: what is in it, and what it can do."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel, which a copy of package and assets has built without the network."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    for name in ("minexaone", "assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", "from setuptools.build_meta import build_wheel; build_wheel('..')"],
                   cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    shutil.rmtree(source)
    return site


def run(installed, cwd, code, *argv):
    """Runs code in another folder, with the unpacked wheel in front of any other installation."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code, *argv], cwd=cwd, capture_output=True, text=True,
                          encoding="utf-8")


def test_a_wheel_has_every_file_of_the_package_and_of_the_assets(installed):
    def files(folder):
        return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()
                and "__pycache__" not in path.parts}

    assets = {Path("assets") / path: size for path, size in files(ROOT / "assets").items()}
    assert files(installed / "minexaone") == files(ROOT / "minexaone") | assets
    expected = {"chat_template.jinja", "hangul.otf", "hangul-OFL.txt", "lesson.mplstyle", "assets/golden/chat.json",
                "assets/model/model.safetensors"}
    assert {Path(name) for name in expected} <= files(installed / "minexaone").keys()


def test_its_command_answers_help_and_the_shipped_model_a_prompt(installed, tmp_path):
    (distribution,) = distributions(name="minexaone", path=[str(installed)])
    (command,) = distribution.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("minexaone", "minexaone.__main__:main")
    # As the installed script does, twice.
    done = run(installed, tmp_path, f"import contextlib; from {command.module} import {command.attr} as main\n"
               "with contextlib.suppress(SystemExit): main(['--help'])\nsys.exit(main(['hi', '--max-new-tokens=8']))")
    assert done.returncode == 0, done.stderr
    assert "Answer a prompt" in done.stdout and len(done.stdout.splitlines()[-1]) > 3


def test_without_the_assets_it_says_how_to_get_a_model(installed, tmp_path):
    done = run(installed, tmp_path, "from pathlib import Path; from minexaone import __main__, files\n"
               "files.SHIPPED = Path('nowhere'); sys.exit(__main__.main(['hi']))")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "there is no shipped model" in done.stderr and "in a clone of the repository, or name a" in done.stderr


def test_its_template_and_its_style_are_found_from_anywhere(installed, toy_folder, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(installed, tmp_path, "import minexaone, matplotlib.pyplot as plt; plt.style.use('minexaone.lesson')\n"
               "print(minexaone.__file__)\ntokenizer = minexaone.Tokenizer.from_pretrained(sys.argv[1])\n"
               "print(tokenizer.apply_chat_template([{'role': 'user', 'content': 'hi'}], tokenize=False))",
               str(toy_folder))
    file, _, text = done.stdout.partition("\n")
    assert Path(file).is_relative_to(installed), done.stderr
    assert text == "[|user|]\nhi[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n\n"
