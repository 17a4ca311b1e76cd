"""What must hold on a GPU: `python -m tests.gpu --out FOLDER`, in order of worth.

Results are JSON lines in FOLDER/gpu.jsonl, written at once; a table comes last. A check begins only
if its seconds are left. `--fake` runs all of it with tiny shapes on the fake GPU, so that time on a
real one is never spent on a mistake of this program; its speeds mean nothing. On a bare machine:

    sh tests/gpu/wheels.sh .whl                          # where the package index is reachable
    python3 -m pip install -q --no-index --no-deps --upgrade --target /tmp/site .whl/*.whl
    PYTHONPATH=/tmp/site:$PWD python3 -m tests.gpu --out out --seconds 540
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def _arguments() -> Any:
    parser = argparse.ArgumentParser("python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for gpu.jsonl; default: a temporary one")
    parser.add_argument("--seconds", type=float, default=100_000.0, help="time for all checks")
    parser.add_argument("--only", default="", help="names of checks, with commas between them")
    parser.add_argument("--fake", action="store_true", help="run on the fake GPU, with tiny shapes")
    parser.add_argument("--all", action="store_true", help="run every case of the matrix")
    return parser.parse_args()


def main() -> int:
    """Run the checks; return 1 if one of them failed."""
    began = time.monotonic()
    given = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ.setdefault("TUNER_CACHE", f"{folder}/cache")
        os.environ["TUNER_FAKE_BASES"] = f"{folder}/bases"
        fake = None
        if given.fake:
            from tests.gpu import child, guard
            from tests.gpu.fake import install

            if why := guard.unavailable():
                print(why)
                return 1
            fake = install()
            child.prepare(fake)
            stack.enter_context(fake.on())

        import torch

        from tests.gpu import program
        from tests.gpu.order import CHECKS

        if not torch.cuda.is_available():
            print("no GPU that torch can use; `--fake` runs this on a fake one")
            return 1
        out = given.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        bench = program.Bench(
            Path(folder), out / "gpu.jsonl", began + given.seconds, fake, given.all
        )
        # Results of a run before would look like ours.
        bench.lines.unlink(missing_ok=True)
        wanted = [name for name in given.only.split(",") if name]
        if unknown := set(wanted) - {check.name for check in CHECKS}:
            print(f"no check {sorted(unknown)}; there are {[c.name for c in CHECKS]}")
            return 2
        table = program.run(bench, [each for each in CHECKS if not wanted or each.name in wanted])
    print(program.show(table))
    print(f"{time.monotonic() - began:.0f} s")
    return int(any(row["status"].startswith("failed") for row in table))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
