"""Text files of a bundle: templates in the folder of their platform, with ``@KEY@`` where something is filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tofe_edge.packaging.bundle import BundleFile

_FOLDER = Path(__file__).parent / "templates"
_KEY = re.compile(r"@([A-Z][A-Z0-9_]*)@")


def render(name: str, values: Mapping[str, object]) -> BundleFile:
    """The template ``templates/NAME`` with its keys filled in once; what is filled in is taken as it is.

    Raises:
        KeyError: the template has a key that is not among ``values``, a defect of this program.
    """
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return BundleFile(_KEY.sub(lambda found: str(values[found[1]]), text).encode())


def template_folder(name: str) -> Path:
    """A folder of templates on the disk, for programs that read it."""
    return _FOLDER / name


def template_names(folder: str) -> list[str]:
    """The templates below a folder, as :func:`render` takes them, in the order of their names."""
    return sorted(path.relative_to(_FOLDER).as_posix() for path in (_FOLDER / folder).rglob("*") if path.is_file())
