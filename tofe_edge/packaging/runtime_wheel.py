"""The wheel of the package ``tofe``, which runs models on a board: ``libtofe``, ExecuTorch's libraries and a little Python.

python -m tofe_edge.packaging.runtime_wheel [--arch aarch64] [--out dist]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import tofe_edge
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.files import write_bytes
from tofe_edge.packaging.archive import zip_bytes
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.licences import EXECUTORCH, GLUE, legal_files
from tofe_edge.packaging.linux import ARCHES, LIBRARY, THIRD_PARTY, built_runner, read_programs
from tofe_edge.packaging.texts import render
from tofe_edge.runtimes.native_build import SOURCES

_DISTRIBUTION = "tofe_runtime"
_GLIBC = (2, 28)
"""What the tag promises; the libraries need 2.27 (JetPack 5, Raspberry Pi OS 11)."""

_METADATA = """\
Metadata-Version: 2.4
Name: tofe-runtime
Version: {version}
Summary: Run models of tofe-edge on boards: no PyTorch, for models made with ExecuTorch {executorch}
License-Expression: Apache-2.0
License-File: LICENSE
License-File: LICENSE-executorch
License-File: LICENSE-third-party
License-File: NOTICE
Requires-Python: >=3.9
Requires-Dist: numpy
Requires-Dist: pillow
"""


def wheel_name(arch: str) -> str:
    """Return ``tofe_runtime-VERSION-py3-none-manylinux_2_28_ARCH.whl``."""
    return f"{_DISTRIBUTION}-{tofe_edge.__version__}-{_tag(arch)}.whl"


def build(libraries: Path, arch: str) -> bytes:
    """Return the wheel of a folder with ``libtofe.so`` and the libraries that it needs. Equal files give equal bytes.

    Raises:
        InputError: a library is missing, for another machine, or needs a newer C library than the wheel's tag says.
    """
    native = {f"lib/{path.name}": BundleFile(path.read_bytes()) for path in sorted(libraries.glob("*.so"))}
    if LIBRARY not in native:
        raise InputError(f"{libraries}: has no libtofe.so")
    programs = read_programs(native)
    problems = programs.problems(arch)
    if programs.glibc > _GLIBC:
        needed, told = (".".join(map(str, version)) for version in (programs.glibc, _GLIBC))
        problems.append(f"they need glibc {needed}, the wheel's tag says {told}")
    if problems:
        raise InputError(f"{libraries}: {problems[0]}")
    files = {f"tofe/{name}": file for name, file in native.items()}
    files |= {f"tofe/{path.name}": BundleFile(path.read_bytes()) for path in (SOURCES / "python" / "tofe").glob("*.py")}
    return zip_bytes(files | _dist_info(files, arch))


def _dist_info(files: Mapping[str, BundleFile], arch: str) -> dict[str, BundleFile]:
    """The files by which an installer knows a wheel."""
    folder = f"{_DISTRIBUTION}-{tofe_edge.__version__}.dist-info"
    legal = legal_files("tofe, the runtime of tofe-edge", [GLUE, EXECUTORCH, THIRD_PARTY])
    legal["LICENSE-third-party"] = render("linux/third-party.txt", {})
    known = _METADATA.format(version=tofe_edge.__version__, executorch=metadata.version("executorch").split("+")[0])
    info = {
        f"{folder}/METADATA": BundleFile(known.encode()),
        f"{folder}/WHEEL": BundleFile(
            f"Wheel-Version: 1.0\nGenerator: tofe-edge\nRoot-Is-Purelib: false\nTag: {_tag(arch)}\n".encode()
        ),
        **{f"{folder}/licenses/{name}": file for name, file in legal.items()},
    }
    record = "".join(
        f"{name},{_digest(file.data)},{len(file.data)}\n" for name, file in sorted({**files, **info}.items())
    )
    return {**info, f"{folder}/RECORD": BundleFile(f"{record}{folder}/RECORD,,\n".encode())}


def _tag(arch: str) -> str:
    return f"py3-none-manylinux_{_GLIBC[0]}_{_GLIBC[1]}_{arch}"


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def main() -> int:
    """Build wheels. Exit code 0 done, 2 something to build with is missing, 3 the compiler failed."""
    parser = argparse.ArgumentParser(prog="python -m tofe_edge.packaging.runtime_wheel", description=main.__doc__)
    parser.add_argument("--arch", choices=ARCHES, action="append", help="default: both")
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="default: dist")
    arguments = parser.parse_args()
    try:
        for arch in arguments.arch or ARCHES:
            wheel = build(built_runner(arch) / "lib", arch)
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_bytes(arguments.out / wheel_name(arch), wheel)
            print(arguments.out / wheel_name(arch))
    except (InputError, DeviceError) as error:
        print(f"tofe-edge: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
