"""The Python API: the examples in its docstrings run, and importing it loads nothing heavy."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TinyModel
from PIL import Image

import tofe_edge as te

EXAMPLES = [name for name in te.__all__ if ">>>" in (getattr(te, name).__doc__ or "")]


def test_every_function_has_an_example() -> None:
    functions = {name for name in te.__all__ if name.islower()}
    # Training and reducing need dense weights; tests/training and tests/reduction have runs.
    assert functions - {"load_profile", "reduce", "train"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(
    name: str,
    tiny_model: TinyModel,
    weights: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder with ``val/`` and ``photo.jpg``; ``artifact`` and ``checkpoint`` are paths of the tiny net's files."""
    monkeypatch.chdir(tmp_path)
    image_folder.rename("val")
    Image.open("val/0/0.png").save("photo.jpg")
    values = {"artifact": str(tiny_model()), "checkpoint": weights}
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(te, name), name, globs=values)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.attempted and not result.failed


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, tofe_edge\nsys.exit(bool({'torch', 'numpy', 'yaml', 'executorch', 'coremltools'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0
    assert set(te.__all__) <= set(dir(te))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = te.nonsense


def test_models_are_taken_as_values_or_by_path(tiny_model: TinyModel, image_folder: Path) -> None:
    path, image = tiny_model(), image_folder / "1" / "2.png"
    model = te.load(path)
    assert model.run(image, str(image)) == te.load(str(path)).run(image) * 2
    assert model.self_test().passed
