"""Whether two checkouts leave the same bytes, for a change that must change nothing.

    python -m tests.tools.same_bytes OLD NEW [--kept FOLDER] [--only NAME ...] [--again]

Runs the commands of `same_bytes_cases` in both, two cases at a time, with the same bases, places
and hash seed, and compares exit codes, what was printed, and the sha256 of every file that a case
left. Times, process ids and memory that was measured are taken out of texts and JSON before.

What a commit leaves is kept by its id, so that the old one is run once; a checkout with changes
that are not committed is run each time. Exit code 0: all the same; 1: what differs is listed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.tools.same_bytes_cases import cases

Found = dict[str, dict[str, str]]
ROOT = Path(__file__).parents[2]
# Texts hold absolute places: both checkouts run at the same one.
PLACE = Path(os.environ.get("TMPDIR", "/tmp")) / "same-bytes"
WORKERS = 2


def main() -> int:
    """Run what is not kept yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument(
        "new", type=Path, help="another; or the same, to see what differs by chance"
    )
    parser.add_argument("--kept", type=Path, default=Path("~/.cache/tuner-same-bytes").expanduser())
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--again", action="store_true", help="run the new one though it is kept")
    asked = parser.parse_args()
    names = asked.only or list(cases())
    old = results(asked.old.resolve(), names, asked.kept, again=False)
    new = results(asked.new.resolve(), names, asked.kept, again=asked.again)
    lines = differences(old, new, names)
    said = "\n".join(lines) if lines else f"{len(names)} cases leave the same bytes"
    sys.stdout.write(said + "\n")
    return 1 if lines else 0


def results(checkout: Path, names: list[str], kept: Path, *, again: bool) -> Found:
    """What the cases leave in a checkout.

    Args:
        checkout: a work tree of git.
        names: of the cases.
        kept: folder of the results of commits.
        again: run them though they are kept.
    """
    commit = _git(checkout, "rev-parse", "HEAD")
    # Another table or other bases would be compared as if the product had changed.
    table = hashlib.sha256()
    for file in ("same_bytes.py", "same_bytes_run.py", "same_bytes_cases.py", "same_bytes_more.py"):
        table.update((Path(__file__).parent / file).read_bytes())
    for file in ("tiny.py", "tokenizers.py"):
        table.update((ROOT / "tests" / file).read_bytes())
    file = kept / f"{commit}-{table.hexdigest()[:12]}.json"
    clean = not _git(checkout, "status", "--porcelain", "--", "tuner", "recipes", "data_templates")
    found: Found = json.loads(file.read_bytes()) if clean and file.exists() else {}
    missing = [name for name in names if again or name not in found]
    if missing:
        began = time.monotonic()
        found |= run(checkout, missing)
        took = time.monotonic() - began
        sys.stderr.write(f"{commit[:9]}: {len(missing)} cases in {took:.0f} s\n")
        if clean:
            kept.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1), "utf-8")
    return found


def run(checkout: Path, names: list[str]) -> Found:
    """Run cases in a checkout, two at a time.

    Args:
        checkout: whose `tuner` runs.
        names: of the cases.
    """
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TUNER_")},
        **{"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        **{"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"},
        "PYTHONPATH": str(checkout),
    }
    script = str(Path(__file__).with_name("same_bytes_run.py"))
    bases = [sys.executable, script, str(ROOT), str(PLACE), "bases"]
    subprocess.run(bases, check=True, env=environment | {"PYTHONPATH": str(ROOT)}, cwd=PLACE)
    waiting: queue.Queue[str] = queue.Queue()
    for name in names:
        waiting.put(name)
    found: Found = {}
    threads = [
        threading.Thread(target=_work, args=(script, environment, waiting, found))
        for _ in range(min(WORKERS, len(names)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _work(
    script: str, environment: dict[str, str], waiting: queue.Queue[str], found: Found
) -> None:
    """Give cases to one process that has the libraries loaded, and forks for each command."""
    worker = subprocess.Popen(
        [sys.executable, script, str(ROOT), str(PLACE), "work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=PLACE,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    while True:
        try:
            name = waiting.get_nowait()
        except queue.Empty:
            break
        worker.stdin.write(name + "\n")
        worker.stdin.flush()
        answer: dict[str, Any] = json.loads(worker.stdout.readline() or "{}")
        found[name] = answer or {"worker": "ended"}
        sys.stderr.write(f"  {name}\n")
    worker.stdin.close()
    worker.wait()


def differences(old: Found, new: Found, names: list[str]) -> list[str]:
    """What differs, a line each.

    Args:
        old: what the cases left.
        new: likewise.
        names: of the cases.
    """
    lines = []
    for name in names:
        one, other = old[name], new[name]
        for what in sorted(one.keys() | other.keys()):
            if one.get(what) != other.get(what):
                lines.append(f"{name}: {what}: {one.get(what, '-')} / {other.get(what, '-')}")
    return lines


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
