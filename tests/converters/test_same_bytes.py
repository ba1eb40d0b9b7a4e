"""Programs and packages are the same bytes whoever makes them: another process, with other hashes, another time."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_exports
import tiny_packages
from made_once import share_in

from tofe_edge.io.files import Content, write_content
from tofe_edge.io.targets import Lowered

MODELS: dict[str, Callable[[], Lowered]] = {
    "program of two methods": tiny_exports.two_methods,
    "static int8": lambda: tiny_packages.made("static").lowered,
    "classifier of images": lambda: tiny_packages.made("weights,image").lowered,
    "palettes": lambda: tiny_packages.made("pal4").lowered,
    "two functions": lambda: tiny_packages.two_functions().lowered,
}


def make_all(folder: Path) -> None:
    """Each model under its name, none of them taken from another process."""
    assert share_in(None) is None
    for name, make in MODELS.items():
        write_content(folder / name, make().content)


@pytest.fixture(scope="module")
def of_another_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("another-process")
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
        "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, here.parents[1]))),
    }
    script = "import sys, pathlib, test_same_bytes; test_same_bytes.make_all(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_another_process_makes_the_same_bytes(name: str, of_another_process: Path) -> None:
    theirs: Content
    path, ours = of_another_process / name, MODELS[name]().content
    if path.is_file():
        theirs = path.read_bytes()
    else:
        theirs = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert theirs == ours
