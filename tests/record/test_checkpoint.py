"""Checkpoints: exact, safe against kills, full disks and altered bytes, and free of pickle."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import pickletools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import faults
from tests.crash import model_at, save
from tuner.errors import IntegrityError, ResourceError
from tuner.plan.memory.activations import KeptActivations
from tuner.plan.memory.estimate import RowLengths, Workload, disk
from tuner.record import checkpoint, checkpoint_folder, identity, manifest
from tuner.record import disk as record_disk
from tuner.record.identity import check_identity
from tuner.record.manifest import MANIFEST, encode

FILES = [MANIFEST, "model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder whose fsync costs nothing, where there is one: the sweeps call it by the hundred."""
    shared = Path("/dev/shm")
    where = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_goes_on(line: dict[str, Any]) -> None:
    """The newest checkpoint is whole and exact, and two further saves leave just themselves."""
    assert line["newest"] in ("step-2", "step-3"), line
    assert line["skipped"] == [], line
    assert line["exact"], line
    steps = [f"step-{line['goes_on_from'] + more}" for more in (1, 2)]
    assert line["after"] == steps, line


def test_a_kill_at_any_call_of_a_save_costs_at_most_that_save(memory: Path) -> None:
    """C01: SIGKILL at every call that touches the disk, with writes torn in half."""
    lines = faults.results("tests.crash", "checkpoints", memory, "torn", "best")
    *killed, whole = lines
    assert whole["code"] == 0
    assert whole["newest"] == "step-3"
    assert {line["code"] for line in killed} == {-9}
    assert [line["hit"] for line in killed] == whole["calls"]
    assert {"write", "fsync", "rename", "unlink", "mkdir"} <= set(whole["calls"])
    for line in lines:
        assert_goes_on(line)
    # Both sides of the rename were visited, and it is one-way.
    found = [line["newest"] for line in lines]
    assert found == sorted(found)
    assert set(found) == {"step-2", "step-3"}


def test_a_full_disk_at_any_call_of_a_save_costs_at_most_that_save(memory: Path) -> None:
    """C10: the kernel answers ENOSPC to each call that needs space, in turn."""
    *failed, whole = faults.results("tests.crash", "checkpoints", memory, "fail", "kernel")
    assert whole["code"] == 0
    assert len(failed) > 10
    for line in failed:
        assert line["hit"] in faults.GROWS
        # A folder that stands already is not made again: that failure changes nothing.
        assert line["code"] == 7 or line["newest"] == "step-3", line
        assert not [name for name in line["left"] if name.startswith(".")], line
        assert_goes_on(line)
    assert {line["newest"] for line in failed if line["code"] == 7} >= {"step-2"}


def test_a_file_that_cannot_grow_is_exit_7_at_every_size(memory: Path) -> None:
    """C10: a real limit of the kernel, from 0 bytes until the save fits."""
    *failed, fits = faults.results("tests.crash", "small_disk", memory)
    assert fits["code"] == 0
    assert len(failed) > 5
    for line in failed:
        assert line["code"] == 7
        assert line["newest"] == "step-2"
        assert line["left"] == ["step-1", "step-2"]
        assert_goes_on(line)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_found(
    tmp_path: Path, name: str, damage: str
) -> None:
    """C02: refused by name when asked for, passed over with a message otherwise."""
    for step in (1, 2):
        save(tmp_path, step, model_at(step))
    file = tmp_path / "step-2" / name
    expected = manifest.verify(tmp_path / "step-2")["files"].get(name, {}).get("sha256", "")
    data = file.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    changed = {"flip": flipped, "cut": data[:-1], "empty": b"", "delete": None}[damage]
    file.unlink() if changed is None else file.write_bytes(changed)

    with pytest.raises(IntegrityError) as caught:
        checkpoint.load(tmp_path / "step-2")
    assert caught.value.exit_code == 6
    assert name in str(caught.value)
    assert expected in str(caught.value)
    found, messages = checkpoint_folder.newest(tmp_path)
    assert found == tmp_path / "step-1"
    assert len(messages) == 1
    assert "step-2" in messages[0]
    assert name in messages[0]

    # The way on leads over the same step: the damaged folder is moved aside, not deleted.
    save(tmp_path, 2, model_at(2))
    assert checkpoint_folder.newest(tmp_path) == (tmp_path / "step-2", [])
    assert names(tmp_path) == ["aside-step-2-1", "step-1", "step-2"]


def test_newest_of_nothing_is_none(tmp_path: Path) -> None:
    assert checkpoint_folder.newest(tmp_path / "absent") == (None, [])
    for name in ("step-x", "step-03", "checkpoint-9", ".staging-step-9-1-abcdefgh"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-7").write_text("a file")
    theirs = save(tmp_path / "theirs", 8, model_at(1))
    (tmp_path / "step-8").symlink_to(theirs)
    assert checkpoint_folder.newest(tmp_path) == (None, [])
    (tmp_path / "step-5").mkdir()
    found, messages = checkpoint_folder.newest(tmp_path)
    assert found is None
    assert messages == ["skipped step-5: MANIFEST.json: missing"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (9, 10):
        save(tmp_path, step, model_at(1))
    assert checkpoint_folder.newest(tmp_path)[0] == tmp_path / "step-10"


def test_only_our_older_checkpoints_go(tmp_path: Path) -> None:
    """C11: foreign folders and links stay, whatever their names and numbers."""
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "theirs").write_text("mine")
    (tmp_path / "step-0").symlink_to(tmp_path / "checkpoint-500")
    for step in (2, 3, 4, 5):
        save(tmp_path, step, model_at(step))
    assert names(tmp_path) == ["checkpoint-500", "step-0", "step-1", "step-4", "step-5"]
    assert names(tmp_path / "step-1") == ["theirs"]


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    """C11: the last intact one is not deleted in favour of a torn one."""
    for step in (1, 2):
        save(tmp_path, step, model_at(step))
    (tmp_path / "step-2" / "state.json").unlink()
    module, optimizer = model_at(3)
    parameters = dict(module.named_parameters())
    checkpoint.save(tmp_path, 3, parameters, optimizer, None, {}, keep=2)
    assert names(tmp_path) == ["step-1", "step-2", "step-3"]
    checkpoint.save(tmp_path, 4, parameters, optimizer, None, {}, keep=1)
    assert names(tmp_path) == ["step-4"]


def test_the_new_checkpoint_is_durable_before_an_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C11: every file flushed, renamed, the folder flushed; only then is anything removed."""
    for step in (1, 2):
        save(tmp_path, step, model_at(step))
    trace: list[tuple[str, str]] = []

    def spy(name: str) -> None:
        original: Callable[..., Any] = getattr(os, name)

        def call(target: Any, *rest: Any, **options: Any) -> Any:
            shown = f"/proc/self/fd/{target}" if isinstance(target, int) else target
            path = os.readlink(shown) if isinstance(target, int) else str(shown)
            trace.append((name, Path(path).name))
            return original(target, *rest, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "rename", "unlink", "rmdir"):
        spy(name)
    save(tmp_path, 3, model_at(3))
    monkeypatch.undo()
    sealed = next(i for i, (name, _) in enumerate(trace) if name == "rename")
    flushed = {path for name, path in trace[:sealed] if name == "fsync"}
    assert set(FILES) <= flushed
    assert trace[sealed][1].startswith(".staging-step-3-")
    assert trace[sealed + 1] == ("fsync", tmp_path.name)
    removals = [i for i, call in enumerate(trace) if call == ("rename", "step-1")]
    assert len(removals) == 1
    assert removals[0] > sealed + 1
    unlinked = [path for name, path in trace[: removals[0]] if name == "unlink"]
    assert unlinked == [".tuner-staging"]


def test_a_failed_removal_of_an_old_checkpoint_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save(tmp_path, step, model_at(step))
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == "step-1":
            raise OSError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with caplog.at_level(logging.WARNING):
        save(tmp_path, 3, model_at(3))
    assert names(tmp_path) == ["step-1", "step-2", "step-3"]
    assert "step-1 could not be removed" in caplog.text


def test_the_same_step_is_sealed_once(tmp_path: Path) -> None:
    first = save(tmp_path, 1, model_at(1))
    inode = first.stat().st_ino
    assert save(tmp_path, 1, model_at(1)).stat().st_ino == inode
    save(tmp_path, 1, model_at(2))
    assert names(tmp_path) == ["aside-step-1-1", "step-1"]
    wanted = dict(model_at(2)[0].named_parameters())
    loaded = checkpoint.load(first)
    assert all(torch.equal(loaded.tensors[name], wanted[name]) for name in wanted)


# Optimizers with every kind of state: none, moments, 0-dim steps, numbers, factored, None.
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, amsgrad=True),
    "adamw-fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "adamw-tensor-lr": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.1)),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.1),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, centered=True, momentum=0.5),
    "asgd": lambda groups: torch.optim.ASGD(groups, lr=0.1),
}


def build(
    name: str, dtype: torch.dtype
) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)
    parameters = dict(module.named_parameters())
    # Groups in another order than the names, as trainers make them for weight decay.
    groups = [
        {"params": [p for n, p in parameters.items() if "bias" in n], "weight_decay": 0.0},
        {"params": [p for n, p in parameters.items() if "weight" in n], "weight_decay": 0.01},
    ]
    optimizer = OPTIMIZERS[name](groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 3))
    return module, optimizer, scheduler


def train(parts: Any, start: int, steps: int) -> None:
    module, optimizer, scheduler = parts
    dtype = next(module.parameters()).dtype
    for step in range(start, start + steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        module(torch.randn(5, 4).to(dtype)).square().sum().backward()
        optimizer.step()
        scheduler.step()


def flat(value: Any) -> Any:
    """Nested values with every tensor as dtype, shape and bytes: equality is bit for bit."""
    if isinstance(value, Tensor):
        data = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), data
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(flat(item) for item in value)
    return type(value), repr(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """C04, C06: tensors, optimizer and scheduler state equal, and so is all that follows."""
    whole = build(name, dtype)
    train(whole, 0, 3)
    state = {"stage": "head", "sum": 0.1 + 0.2, "nan": float("nan"), "pair": (1, 2.0)}
    path = checkpoint.save(tmp_path, 3, dict(whole[0].named_parameters()), *whole[1:], state)
    at_three = [flat(part.state_dict()) for part in whole]

    resumed = build(name, dtype)
    train(resumed, 50, 1)
    loaded = checkpoint.load(path)
    checkpoint.restore(loaded, dict(resumed[0].named_parameters()), *resumed[1:])
    assert loaded.step == 3
    assert flat(loaded.state) == flat(state)
    assert [flat(part.state_dict()) for part in resumed] == at_three
    train(whole, 3, 3)
    train(resumed, 3, 3)
    assert [flat(part.state_dict()) for part in resumed] == [
        flat(part.state_dict()) for part in whole
    ]


def test_state_kept_wider_than_its_parameter_comes_back_as_wide(tmp_path: Path) -> None:
    """Loading through torch would cast these moments to the parameter's bfloat16."""
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([parameter])
    shared = torch.tensor([1 / 3, 2 / 3, 1e-30])
    optimizer.state[parameter] = {"wide": shared, "again": shared, "at": [1, None, {2: "two"}]}
    path = checkpoint.save(tmp_path, 1, {"w": parameter}, optimizer, None, {})
    fresh = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    other = torch.optim.AdamW([fresh])
    checkpoint.restore(checkpoint.load(path), {"w": fresh}, other, None)
    assert flat(other.state[fresh]) == flat(optimizer.state[parameter])


def test_state_that_cannot_be_kept_is_said_at_the_first_save(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter])
    optimizer.state[parameter] = {"odd": object()}
    with pytest.raises(TypeError, match="w/odd: a object cannot be kept"):
        checkpoint.save(tmp_path, 1, {"w": parameter}, optimizer, None, {})
    assert names(tmp_path) == []


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    """C06: names, shapes, dtypes, frozen tensors and parameter groups are checked."""
    whole = build("adamw", torch.float32)
    train(whole, 0, 1)
    parameters = dict(whole[0].named_parameters())
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, parameters, *whole[1:], {}))

    def refused(change: Callable[[Any], Any], *words: str) -> None:
        module, optimizer, scheduler = build("adamw", torch.float32)
        module, optimizer, scheduler = change((module, optimizer, scheduler))
        before = flat(module.state_dict())
        current = dict(module.named_parameters())
        with pytest.raises(IntegrityError) as caught:
            checkpoint.restore(loaded, current, optimizer, scheduler)
        for word in words:
            assert word in str(caught.value)
        assert flat(module.state_dict()) == before

    def wider(parts: Any) -> Any:
        parts[0][0].weight = nn.Parameter(torch.zeros(9, 4))
        parts[0][2].weight = nn.Parameter(parts[0][2].weight.detach().half())
        return parts

    def frozen(parts: Any) -> Any:
        parts[0][0].weight.requires_grad_(False)
        return parts

    def renamed(parts: Any) -> Any:
        return (nn.ModuleDict({"new": parts[0]}), *parts[1:])

    def regrouped(parts: Any) -> Any:
        parts[1].param_groups.reverse()
        return parts

    refused(wider, "0.weight: (3, 4) torch.float32", "(9, 4)", "torch.float16 now")
    refused(frozen, "0.weight: frozen")
    refused(renamed, "new.0.bias: not in the checkpoint", "0.bias: not trained by this run")
    refused(regrouped, "parameter group 0 differs in 0.bias")
    refused(lambda parts: (parts[0], None, parts[2]), "optimizer state")
    refused(lambda parts: (*parts[:2], None), "scheduler state")


def test_every_changed_field_is_named(tmp_path: Path) -> None:
    """C07: exit 6 with a field-by-field diff; allowed fields are only noted."""
    saved = {"train.batch_size": 8, "data.sha256": "aa", "train.save_steps": 50, "gone": 1}
    same = json.loads(json.dumps(saved))
    assert check_identity(saved, same) == []
    changed = {"train.batch_size": 16, "data.sha256": "bb", "train.save_steps": 5, "new": None}
    with pytest.raises(IntegrityError) as caught:
        identity.check_identity(saved, changed, {"train.save_steps"})
    assert caught.value.exit_code == 6
    assert caught.value.problems == [
        'data.sha256: "aa" in the checkpoint, "bb" now',
        "gone: 1 in the checkpoint, (absent) now",
        "new: (absent) in the checkpoint, null now",
        "train.batch_size: 8 in the checkpoint, 16 now",
    ]
    assert check_identity({"a": 1}, {"a": 2}, ["a"]) == ["a: 1 in the checkpoint, 2 now"]


def test_no_file_of_a_checkpoint_is_pickle(tmp_path: Path) -> None:
    """I01: exactly our four files, and none of them reads as pickle, whole or inside."""
    path = save(tmp_path, 2, model_at(2))
    assert names(path) == FILES
    for name in FILES:
        data = (path / name).read_bytes()
        with pytest.raises(ValueError):  # noqa: PT011 - any: it is no pickle
            list(pickletools.genops(data))
        assert not data.startswith(b"PK")
        assert b"ctorch" not in data
        assert b"c__builtin__" not in data


class Payload:
    """Writes a canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_place_of_a_file_is_never_run(tmp_path: Path, name: str) -> None:
    """I01: also where the manifest was made to fit it."""
    path = save(tmp_path / "run", 2, model_at(2))
    canary = tmp_path / "canary"
    (path / name).write_bytes(pickle.dumps(Payload(canary)))
    if name != MANIFEST:
        body = json.loads((path / MANIFEST).read_text())
        del body["sha256"]
        file = path / name
        size = file.stat().st_size
        body["files"][name] = {"bytes": size, "sha256": record_disk.sha256_file(file)}
        (path / MANIFEST).write_bytes(encode(body))
        manifest.verify(path)
    with pytest.raises(IntegrityError):
        checkpoint.load(path)
    assert not canary.exists()
    pickle.loads((path / name).read_bytes())
    assert canary.exists()


def test_a_checkpoint_may_be_moved_and_names_no_place(tmp_path: Path) -> None:
    """C18: no absolute path, host or clock inside; the same bytes wherever it is written."""
    path = save(tmp_path / "here", 2, model_at(2))
    twin = save(tmp_path / "there", 2, model_at(2))
    for name in FILES:
        data = (path / name).read_bytes()
        assert str(tmp_path).encode() not in data
        assert os.uname().nodename.encode() not in data or len(os.uname().nodename) < 4
        assert data == (twin / name).read_bytes()
    moved = shutil.move(path, tmp_path / "elsewhere")
    assert checkpoint.load(Path(moved)).step == 2


def test_the_estimate_covers_what_is_written(tmp_path: Path) -> None:
    """C10: what the pre-flight check asks for is enough, and not much more."""
    module = nn.Linear(512, 512)
    optimizer = torch.optim.AdamW(module.parameters())
    parameters = dict(module.named_parameters())
    for step in (1, 2, 3):
        module(torch.ones(1, 512)).sum().backward()
        optimizer.step()
        checkpoint.save(tmp_path, step, parameters, optimizer, None, {}, keep=2)
    used = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) * 3 / 2
    shape = Workload(
        parameters=0,
        trainable=sum(item.numel() for item in module.parameters()),
        adapter=True,
        dtype="float32",
        stored="float32",
        vocabulary=0,
        kept=KeptActivations(
            token=0, exact=0, place=0, attended=0, boundary=0, layers=1, passing=0
        ),
        rows=RowLengths([], []),
        state=8 * sum(item.numel() for item in module.parameters()),
    )
    needed = disk(shape, ())["checkpoints"]
    assert used <= needed <= used + 4 * (1 << 20)


def test_an_unwritable_folder_is_exit_7(tmp_path: Path) -> None:
    """C10, C12: a file stands where the checkpoints should lie."""
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(ResourceError):
        save(tmp_path / "checkpoints", 1, model_at(1))
