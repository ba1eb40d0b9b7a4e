"""Other packages may be called profiles, converters or runtimes: tofe_edge never imports them by accident."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FOREIGN = ("profiles", "converters", "runtimes", "benchmarks", "research")
PLACES = ("working directory", "first on sys.path", "site-packages")


def _foreign(folder: Path) -> Path:
    """Put packages that cannot be imported into ``folder``."""
    for name in FOREIGN:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('the other {name} was imported')\n")
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def _check(package: Path, place: str, model: Path, tmp_path: Path) -> None:
    """Import the library and run commands with the other packages in ``place``; ``package`` is the folder of tofe_edge."""
    work = tmp_path / "work"
    work.mkdir()
    if place == "working directory":
        _foreign(work)
        path = [package]
    elif place == "first on sys.path":
        path = [_foreign(tmp_path / "other"), package]
    else:
        # A wheel lies in the same folder as the others, a checkout on the path before it.
        path = [package] if package != ROOT else [package, tmp_path / "other"]
        _foreign(path[-1])
    Image.new("RGB", (96, 72), "teal").save(work / "photo.jpg")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    assert Path(run("-c", "import tofe_edge; print(tofe_edge.__file__)").strip()).is_relative_to(package)
    assert "tofe_deit_tiny" in run("-m", "tofe_edge", "select", "--profile", "jetson_orin")
    assert "photo.jpg" in run("-m", "tofe_edge", "run", str(model), "photo.jpg")


@pytest.mark.parametrize("place", PLACES)
def test_a_checkout_ignores_packages_of_the_same_names(place: str, tiny_model: object, tmp_path: Path) -> None:
    assert callable(tiny_model)
    _check(ROOT, place, tiny_model(), tmp_path)


@pytest.mark.slow
def test_a_wheel_ignores_packages_of_its_names(wheel: Path, tiny_model: object, tmp_path: Path) -> None:
    assert callable(tiny_model)
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"tofe_edge"}
    _check(site, "site-packages", tiny_model(), tmp_path)
