"""``python -m tofe``: classify images, check a model on this machine, time it."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from . import Error, Model, SelfTestError, default_threads
from . import open as open_model


def main() -> int:
    """Run a command; exit code 0 done, 1 self-test failed, 2 wrong input."""
    parser = argparse.ArgumentParser(prog="python -m tofe", description="Run a model of tofe-edge on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("classify", "name the likeliest classes of images"),
        ("self-test", "replay the golden vectors beside the model"),
        ("bench", "time the model on an image of noise"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("model", metavar="MODEL.pte")
        command.add_argument("--threads", type=int, help="default: the cores of this machine, at most 4")
        command.add_argument("--method", help="one of the model's budgets (default: the first one)")
        if name == "classify":
            command.add_argument("images", nargs="+", metavar="IMAGE")
            command.add_argument("--top", type=int, default=5, help="classes per image (default: 5)")
        if name == "bench":
            command.add_argument(
                "--runs",
                type=int,
                default=50,
                choices=range(1, 100_000),
                metavar="N",
                help="timed runs after five others (default: 50)",
            )
    arguments = parser.parse_args()
    try:
        with open_model(arguments.model, method=arguments.method, threads=arguments.threads) as model:
            return {"classify": _classify, "self-test": _self_test, "bench": _bench}[arguments.command](
                model, arguments
            )
    except SelfTestError as error:
        print(f"tofe: {error}", file=sys.stderr)
        return 1
    except (Error, OSError, ValueError) as error:
        print(f"tofe: error: {error}", file=sys.stderr)
        return 2


def _classify(model: Model, arguments: argparse.Namespace) -> int:
    for image in arguments.images:
        print(image)
        for prediction in model.classify(image, arguments.top):
            print(f"  {100 * prediction.probability:5.1f} %  {prediction.label}")
    return 0


def _self_test(model: Model, arguments: argparse.Namespace) -> int:
    model.self_test()
    print(f"{arguments.model}: computes here what it should")
    return 0


def _bench(model: Model, arguments: argparse.Namespace) -> int:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    times = []
    for _ in range(arguments.runs + 5):
        start = time.perf_counter()
        model.values(image)
        times.append(1e3 * (time.perf_counter() - start))
    median, p90 = np.percentile(times[5:], (50, 90))
    threads = arguments.threads or default_threads()
    print(
        f"{arguments.model}, {model.method}: median {median:.2f} ms, p90 {p90:.2f} ms ({threads} threads, with preprocessing)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
