"""Latency of our artifacts against stock ExecuTorch exports of the same backbone, interleaved in one process.

    taskset -c 0 python -m benchmarks.latency --dense deit_tiny.safetensors --out benchmarks/results

Without ``--dense`` the dense models have random weights, which changes no latency. One thread; pin the
process to one core, or the runs of different models land on different ones.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from converters import executorch
from converters.static_graph import build_static_graph
from runtimes.executorch import set_threads
from runtimes.latency import measure_interleaved
from runtimes.native_output import swallow_native_stderr
from tofe_edge.backbones import create_host
from tofe_edge.checkpoint import load_model, read_tensors
from tofe_edge.files import write_bytes
from tofe_edge.inputs import load_photographs
from tofe_edge.quiet import quiet
from tofe_edge.tofe import ToFe
from tofe_edge.zoo import find_checkpoint


@dataclass(frozen=True)
class Contender:
    """A named program."""

    name: str
    program: bytes
    delegates: int


def stock_export(model: torch.nn.Module, size: int, int8: bool) -> tuple[bytes, int]:
    """ExecuTorch's own recipe: export, (static int8 of everything XNNPACK quantizes,) partition, lower."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        example = (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)),)
        program = torch.export.export(model, example)
        if int8:
            quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            prepared = prepare_pt2e(program.module(), quantizer)
            prepared(*example)
            program = torch.export.export(convert_pt2e(prepared), example)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        delegates = get_delegation_info(edge.exported_program().graph_module).num_delegated_subgraphs
        return bytes(edge.to_executorch().buffer), delegates


def build(dense_weights: Path | None, checkpoint_name: str) -> list[Contender]:
    """Every program of the comparison, the stock fp32 export first."""
    checkpoint = find_checkpoint(checkpoint_name)
    host = create_host(checkpoint.backbone_name, checkpoint.overrides)
    if dense_weights is not None:
        host.load_dense(read_tensors(dense_weights))
    size = host.spec.image_size
    calibration = [torch.from_numpy(pixels) for pixels in load_photographs(host.preprocessing).pixels]
    contenders = []

    def add(name: str, make: Callable[[], tuple[bytes, int]]) -> None:
        print(f"building {name}", file=sys.stderr, flush=True)
        program, delegates = make()
        contenders.append(Contender(name, program, delegates))

    def ours(model: ToFe, counts: Any, precision: executorch.Precision) -> tuple[bytes, int]:
        lowered = executorch.lower(build_static_graph(model, counts), size, precision, calibration)
        return lowered.program, lowered.delegates

    vit = getattr(host, "vit", host)
    add("dense, stock fp32", lambda: stock_export(vit, size, int8=False))
    add("dense, stock int8", lambda: stock_export(vit, size, int8=True))
    dense, tofe = ToFe(host).eval(), load_model(checkpoint)
    precisions: Sequence[executorch.Precision] = ("fp32", "int8-dynamic", "int8-static")
    for label, model, counts in (("dense", dense, None), ("ToFe", tofe, checkpoint.token_counts)):
        for precision in precisions:
            add(f"{label}, tofe-edge {precision}", lambda m=model, c=counts, p=precision: ours(m, c, p))  # type: ignore[misc]
    return contenders


def measure(contenders: Sequence[Contender], size: int, runs: int) -> list[dict[str, Any]]:
    """Interleaved latencies with one thread; ratios are to the first contender's median."""
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder, swallow_native_stderr():
        from executorch.runtime import Runtime

        set_threads(1)
        pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        calls: list[Callable[[], Any]] = []
        programs = []
        for number, contender in enumerate(contenders):
            path = Path(folder) / f"{number}.pte"
            write_bytes(path, contender.program)
            program = Runtime.get().load_program(path)
            programs.append(program)
            method = program.load_method("forward")
            assert method is not None
            calls.append(lambda method=method: method.execute([pixels]))  # type: ignore[misc]
        latencies = measure_interleaved(calls, runs)
    baseline = latencies[0].percentile(50)
    return [
        {
            "name": contender.name,
            "p50_ms": round(latency.percentile(50), 3),
            "p90_ms": round(latency.percentile(90), 3),
            "min_ms": round(min(latency.samples_ms), 3),
            "cpu_ms": round(latency.cpu_ms, 3),
            "speedup": round(baseline / latency.percentile(50), 2),
            "delegates": contender.delegates,
            "size_mb": round(len(contender.program) / 1e6, 2),
        }
        for contender, latency in zip(contenders, latencies)
    ]


def main() -> None:
    """Build, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, metavar="FILE", help="dense weights (default: random)")
    parser.add_argument("--checkpoint", default="tofe_deit_tiny_063", metavar="NAME")
    parser.add_argument("--runs", type=int, default=60, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args()
    checkpoint = find_checkpoint(args.checkpoint)
    results = measure(build(args.dense, args.checkpoint), checkpoint.preprocessing.image_size, args.runs)
    today = datetime.date.today().isoformat()
    document = {
        "date": today,
        "command": shlex.join(
            ["python", "-m", "benchmarks.latency", "--checkpoint", args.checkpoint, "--runs", str(args.runs)]
        ),
        "pinned_to": sorted(os.sched_getaffinity(0)),
        "host": {"processor": processor(), "system": platform.system(), "python": platform.python_version()},
        "versions": {"torch": str(torch.__version__), "executorch": version("executorch")},
        "threads": 1,
        "runs": args.runs,
        "checkpoint": {
            "name": checkpoint.name,
            "gmacs": round(checkpoint.gmacs, 4),
            "tokens": str(checkpoint.token_counts),
        },
        "results": results,
    }
    path = args.out / f"latency-{today}.yaml"
    write_bytes(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    for row in results:
        print(f"{row['name']:<32} {row['p50_ms']:8.2f} ms {row['speedup']:6.2f}x  {row['delegates']:3d} delegates")
    print(f"wrote {path}")


def processor() -> str:
    """The CPU's name and the vector extensions that matter to int8, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    flags = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
        if flag in values.get("flags", values.get("Features", ""))
    ]
    return f"{values.get('model name', platform.machine())} ({', '.join(flags)})"


def version(package: str) -> str:
    """Installed version of a package."""
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    main()
