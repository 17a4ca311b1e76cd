"""GPUs and dtypes, without torch (row N10)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import ROOT
from tuner.errors import RecipeError, ResourceError
from tuner.machine import cuda_driver, gpu, hardware, heap, launch, ranks
from tuner.machine.hardware import Gpu, Machine
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load

GIB = 1 << 30
T4 = Gpu("Tesla T4", 15360 << 20, (7, 5))
H100 = Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, (9, 0))
A10G = Gpu("NVIDIA A10G", 23028 << 20, (8, 6))
MIG = Gpu("NVIDIA A100 MIG 1g.10gb", 9728 << 20, (8, 0))


def device(gpu: Gpu, integrated: bool = False) -> str:
    major, minor = gpu.capability
    return f"{gpu.name}|{gpu.memory_bytes}|{major}|{minor}|{integrated:d}"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A driver that answers from FAKE_DRIVER."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).with_name("driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return str(made)


Driver = Callable[..., Machine]


@pytest.fixture
def driver(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Detect a machine whose driver and torch are these."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", library)
    monkeypatch.setattr(hardware, "_DEVICES", tmp_path)
    monkeypatch.setattr(hardware, "_memory", lambda: 120 * GIB)

    def detect(
        *devices: str, version: int = 13000, error: int = 0, build: tuple[int, ...] = (13, 0)
    ) -> Machine:
        # As the driver reads it: os.environ alone would do, but for an unset variable.
        monkeypatch.setenv("FAKE_DRIVER", ";".join([str(version), str(error), *devices]))
        monkeypatch.setattr(hardware, "torch_cuda", lambda: build)
        return hardware.detect()

    return detect


def test_gpus_are_those_of_the_driver_in_its_order(driver: Driver) -> None:
    """The driver has looked at CUDA_VISIBLE_DEVICES, and shows a slice of a card as its own."""
    found = driver(device(H100), device(T4), device(A10G))
    assert (found.gpus, found.gpu_note) == ((H100, T4, A10G), "")
    assert driver(device(MIG)).gpus == (MIG,)
    assert found.gpu_memory(1) == H100.memory_bytes
    assert found.gpu_memory(3) == T4.memory_bytes


def test_memory_shared_with_the_processor_is_not_more_than_that(driver: Driver) -> None:
    """nvidia-smi says [N/A] of a GB10 or a Jetson; a container may have less than the machine."""
    whole = Gpu("NVIDIA GB10", 128 * GIB, (12, 1))
    assert driver(device(whole, integrated=True)).gpus == (
        Gpu(whole.name, 120 * GIB, whole.capability),
    )
    assert driver(device(whole)).gpus == (whole,)


@pytest.mark.parametrize(
    ("given", "files", "note"),
    [
        ({"error": 802}, 1, "a GPU is there, but cannot be used: the CUDA driver says: system not"),
        ({"error": 100}, 2, "2 GPU(s) present, but cannot be used: the driver finds none"),
        ({"error": 100}, 0, ""),
        ({"version": 12040, "devices": 1}, 1, "supports CUDA 12.4, and the installed torch needs"),
        ({"devices": 3, "build": ()}, 0, "3 GPU(s) present, but the installed torch is built with"),
        ({"error": 802, "build": ()}, 0, "GPU(s) present, but the installed torch is built with"),
        ({"version": 13020, "devices": 1}, 1, None),
    ],
    ids=str,
)
def test_a_gpu_that_cannot_be_used_is_named(
    given: dict[str, Any],
    files: int,
    note: str | None,
    driver: Driver,
    tmp_path: Path,
    make_recipe: Callable[..., Path],
) -> None:
    """Why, in the plan as a warning; asked for, it is an error. Never silence."""
    for number in range(files):
        (tmp_path / f"nvidia{number}").touch()
    count = given.pop("devices", 0)
    found = driver(*[device(H100)] * count, **given)
    if note is None:
        assert (len(found.gpus), found.gpu_note) == (count, "")
        return
    assert found.gpus == ()
    assert note in found.gpu_note
    assert bool(note) == bool(found.gpu_note)
    made = plan_make.make(recipe_load.load(make_recipe()), found, output=tmp_path / "run")
    told = [text for text in made.warnings if "this run trains on the CPU" in text]
    assert told == ([f"{found.gpu_note}; this run trains on the CPU"] if note else [])
    asked = recipe_load.load(make_recipe(run={"device": "cuda"}))
    with pytest.raises(RecipeError) as caught:
        plan_make.make(asked, found, output=tmp_path / "run")
    assert found.gpu_note in str(caught.value)


@pytest.mark.parametrize(("kind", "maker"), [("hip", "AMD"), ("xpu", "Intel")])
def test_a_torch_for_other_gpus_is_named(
    kind: str, maker: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their users would train on the processor without a word."""
    monkeypatch.setattr(hardware, "_built", lambda asked: "6.4" if asked == kind else "")
    found = driver(error=100, build=())
    assert (found.gpus, found.gpu_note) == (
        (),
        f"the installed torch is built for {maker}'s GPUs, which are not supported",
    )


def test_hidden_gpus_are_not_missed(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert driver(error=100).gpu_note == ""


def test_a_machine_without_a_driver(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may have the device, and not the driver's libraries."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(tmp_path / "none"))
    assert driver().gpu_note == ""
    (tmp_path / "nvidia0").touch()
    assert "1 GPU(s) present, but cannot be used: NVIDIA's driver is not" in driver().gpu_note


def test_the_processes_of_a_run_are_told_what_their_parent_found(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sees other GPUs asks for itself."""
    driver(device(H100), device(T4))
    given = launch.Group(2, 1, 0).environment(1, 9)
    monkeypatch.setenv("TUNER_GPUS", given["TUNER_GPUS"])
    assert driver(error=802).gpus == (H100, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert driver(device(T4)).gpus == (T4,)


@pytest.mark.parametrize(("rank", "count", "taken"), [(3, 1, 0), (3, 4, 3)])
def test_a_task_takes_the_gpu_that_slurm_shows_it(
    rank: int, count: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --gpus-per-task=1 each task sees one GPU, whatever its number on the machine."""
    import torch

    for name, value in (("RANK", rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, str(value))
    chosen: list[int] = []

    class Joined(Exception):
        pass

    def join(**given: Any) -> None:
        raise Joined

    monkeypatch.setattr(ranks, "meet", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("torch.distributed.distributed_c10d.PrefixStore", lambda *given: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    with pytest.raises(Joined):
        ranks.join(4, "cuda", 1.0, {})
    assert chosen == [taken]


@pytest.mark.parametrize("own", [T4, MIG], ids=["whole", "slice"])
def test_processes_that_see_the_same_gpu_are_refused(
    own: Gpu, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are those on slices of a card, which NCCL takes for the same."""
    import torch

    taken: list[tuple[str, tuple[int, int, int]]] = []
    monkeypatch.setattr("socket.gethostname", lambda: "node")
    monkeypatch.setattr(ranks, "gather", lambda mine: [mine, ("other", mine[1]), *taken])
    monkeypatch.setattr(ranks, "place", lambda: ranks.Place(0, 4, 0, 3))
    driver(device(H100), device(own), device(own))
    places = [each.place for each in cuda_driver.ask().devices]
    taken += [("node", places[0]), ("node", places[2])]
    assert (places[1] == places[2]) == (own is MIG)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    if own is T4:
        gpu.refuse_shared("cuda")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    gpu.refuse_shared("cpu")
    with pytest.raises(ResourceError, match="processes of this run share a GPU") as caught:
        gpu.refuse_shared("cuda")
    assert "4 processes were started, and they see 3 GPUs" in caught.value.why


@pytest.mark.parametrize("name", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_gpu_s_segments_grow_unless_the_user_says_otherwise(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
    for each in names:
        monkeypatch.delenv(each, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "max_split_size_mb:64")
    heap.leave_fewer_holes()
    found = {each: os.environ[each] for each in names & os.environ.keys()}
    assert found == (
        {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        if name is None
        else {name: "max_split_size_mb:64"}
    )
    for each in found:
        monkeypatch.delenv(each)


def test_bf16_is_for_gpus_that_have_it() -> None:
    """N10: emulation does not count."""
    assert [gpu.bf16 for gpu in (T4, H100, A10G)] == [False, True, True]
    assert "bfloat16" not in Machine(2, 1 << 34, (T4,), cpu_bf16=True).dtypes
    assert "bfloat16" not in Machine(2, 1 << 34, (H100, T4)).dtypes
    assert Machine(2, 1 << 34, (H100,)).dtypes == ["float32", "float16", "bfloat16"]


def test_the_machine_is_found_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tuner.machine import hardware; m = hardware.detect()\n"
        "assert m.cpu_count >= 1 and m.memory_bytes > 1 << 28\n"
        "assert hardware.disk_free(Path('not/there')) > 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_cuda_of_torch_is_read_from_its_version_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = tmp_path / "torch"
    torch.mkdir()
    (torch / "__init__.py").touch()
    found = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\nfrom tuner.machine import hardware\n"
    )
    found += "print(json.dumps(hardware.torch_cuda()))"
    for line, version in (("cuda: Optional[str] = '13.0'", [13, 0]), ("cuda = None", [])):
        (torch / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\nhip = None\n")
        command = [sys.executable, "-c", found, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        assert json.loads(done.stdout) == version
    assert os.environ.get("TUNER_GPUS") is None
