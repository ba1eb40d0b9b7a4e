"""``tofe-edge run``: the five likeliest classes of images or their vectors, or a self-test on the artifact's golden vectors."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tofe_edge.cli.options import add_method, add_model, add_provider, add_threads, positive_float
from tofe_edge.cli.output import emit, facts, json_list, paragraph, table
from tofe_edge.errors import InputError, require, visible
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.files import check_place, write_atomically
from tofe_edge.workflows.run import ImageOutput, Model, SelfTest, Unreadable, load

_SHOWN = 8
"""Numbers of a vector that are printed."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser)
    parser.add_argument(
        "images", type=Path, nargs="*", default=[], metavar="IMAGE", help="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
    )
    add_threads(parser)
    add_provider(parser)
    add_method(parser)
    # A self-test takes every method unless one is named.
    parser.set_defaults(method=None)
    parser.add_argument(
        "--deadline-ms",
        type=positive_float,
        metavar="T",
        help="let the measured latency choose the budget of an elastic model, image by image",
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE.npy",
        help="write what the model gives, float32: (images, classes), (images, D) of an embedding, (images, N, D) of features",
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="no IMAGE: does every method (or --method) compute here what it computed where it was converted?",
    )


def run(args: argparse.Namespace) -> int:
    """Run on every image, with exit code 2 if one cannot be read; or test, with exit code 1 if a gate fails."""
    require(not (args.images and args.self_test), "--self-test takes the model's own images; leave IMAGE out")
    require(args.images or args.self_test, "run needs an IMAGE, or --self-test")
    require(
        args.deadline_ms is None or args.method in (None, DEFAULT_METHOD),
        "--deadline-ms chooses the method itself; leave --method out",
    )
    require(args.deadline_ms is None or not args.self_test, "--self-test measures no time; leave --deadline-ms out")
    require(args.save is None or not args.self_test, "--self-test gives a verdict; leave --save out")
    model = load(args.model)
    if args.self_test:
        result = model.self_test(threads=args.threads, methods=args.method and [args.method], provider=args.provider)
        document = {
            "passed": result.passed,
            "methods": {name: parity.to_json() for name, parity in result.methods.items()},
        }
        emit(args.json, document, _self_test_text(args.model, model.manifest.output, result))
        return 0 if result.passed else 1
    if args.save is not None:
        check_place(args.save, folder=False)
    stream = model.stream(
        args.images,
        threads=args.threads,
        method=args.method,
        deadline_ms=args.deadline_ms,
        provider=args.provider,
    )
    with nullcontext() if args.save is None else _Rows(args.save) as rows:
        unreadable = _print_all(args, model, stream, rows)
        if rows is not None and rows.count:
            write_atomically(args.save, rows.write)
            if not args.json:
                partly = f": {rows.count} of {len(args.images)} images, in their order" if unreadable else ""
                emit(False, None, f"\nWrote {args.save}{partly}")
    if unreadable and len(args.images) > 1:
        raise InputError(f"{unreadable} of {len(args.images)} images cannot be read, see above; the others are done")
    return 2 if unreadable else 0


def _print_all(
    args: argparse.Namespace, model: Model, stream: Iterator[ImageOutput | Unreadable], rows: _Rows | None
) -> int:
    """Print every result as it comes and name the images that cannot be read; return how many those are."""
    unreadable = 0
    describe = _classes if model.manifest.classifies else _vectors
    with json_list() if args.json else nullcontext() as document:
        for number, one in enumerate(stream):
            if isinstance(one, Unreadable):
                unreadable += 1
                print(f"tofe-edge: error: {visible(one.reason)}", file=sys.stderr)
                entry: dict[str, Any] = {"image": str(one.image), "error": one.reason}
            else:
                entry = _document(model, one) if document else {}
                if rows is not None:
                    rows.add(one.values)
            if document is not None:
                document.add(entry)
            elif isinstance(one, ImageOutput):
                emit(False, None, f"{'' if number == unreadable else chr(10)}{describe(model, one)}")
    return unreadable


class _Rows:
    """Arrays of one shape for a .npy file; until it is written they lie in a file without a name beside it."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._shape: tuple[int, ...] = ()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._raw = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  # closed with the context
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another --save") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def add(self, values: npt.NDArray[np.float32]) -> None:
        self._shape, self.count = values.shape, self.count + 1
        self._raw.write(values.astype("<f4", copy=False).tobytes())

    def write(self, path: Path) -> None:
        self._raw.seek(0)
        with path.open("wb") as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, *self._shape)}
            np.lib.format.write_array_header_1_0(out, header)
            shutil.copyfileobj(self._raw, out)


def _document(model: Model, one: ImageOutput) -> dict[str, Any]:
    """An image in the document of ``--json``. Features are not in it: ``--save`` writes them."""
    if model.manifest.classifies:
        return {**asdict(model.classify(one)), "image": str(one.image)}
    document = {
        "image": str(one.image),
        "output": model.manifest.output,
        "shape": list(one.values.shape),
        "length": one.length,
        "first": one.values.ravel()[:_SHOWN].tolist(),
        "kept": one.kept,
        "method": one.method,
        "latency_ms": one.latency_ms,
    }
    return {**document, "values": one.values.tolist()} if one.values.ndim == 1 else document


def _classes(model: Model, one: ImageOutput) -> str:
    """An image and its likeliest classes."""
    rows = [[f"{100 * best.probability:5.1f} %", best.name] for best in model.classify(one).top5]
    return f"{one.image}{_budget(model, one)}\n{table(rows, ['', 'class'])}"


def _vectors(model: Model, one: ImageOutput) -> str:
    """An image, what its vectors are like, and their first numbers."""
    numbers = " ".join(f"{value:.4f}" for value in one.values.ravel()[:_SHOWN])
    if one.values.ndim == 1:
        words = f"embedding of {len(one.values)} numbers, length {one.length:.4f}"
    else:
        words = f"features of {one.values.shape[0]} patches, {one.values.shape[1]} numbers each, mean length {one.length:.4f}"
    return f"{one.image}{_budget(model, one)}\n{words}\n{paragraph(numbers)} ..."


def _budget(model: Model, one: ImageOutput) -> str:
    """Which budget of an elastic model an image got, and what it took."""
    if not model.manifest.further_methods:
        return ""
    return f"  {model.manifest.method(one.method).gmacs:.3f} GMACs ({one.method}), {one.latency_ms:.1f} ms"


def _self_test_text(model: Path, output: str, result: SelfTest) -> str:
    """One line per method, the verdict last."""
    rows, reasons = [], []
    for name, parity in result.methods.items():
        given = "the same to the bit" if parity.snr_db == math.inf else f"SNR {parity.snr_db:.1f} dB"
        kept = ", ".join(f"{share:.1%}" for share in parity.kept_overlap) or "all (dense)"
        rows.append([name, str(parity.images), given, kept, "passed" if parity.passed else "FAILED"])
        reasons += [(name, failure) for failure in parity.failures]
    conclusion = (
        f"self-test passed: {model} computes here what it computed where it was converted"
        if result.passed
        else f"self-test FAILED: {model} computes something else here; convert it again or do not use it"
    )
    why = f"\n\n{facts(reasons)}" if reasons else ""
    return f"{table(rows, ['method', 'inputs', output, 'kept tokens in common', ''])}{why}\n\n{paragraph(conclusion)}"
