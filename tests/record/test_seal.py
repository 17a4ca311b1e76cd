"""Sealed folders: all or nothing, verifiable, and never at the cost of what is not ours."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.errors import IntegrityError, ResourceError
from tuner.record import disk, seal
from tuner.record import manifest as record_manifest
from tuner.record.lock import Owner
from tuner.record.manifest import MANIFEST, MARKER

ROOT = Path(__file__).parents[2]


def make(final: Path, **files: str) -> Path:
    with seal.seal(final) as staging:
        for name, text in (files or {"a": "alpha", "b": "beta"}).items():
            (staging / name).write_text(text)
    return final


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def resealed(folder: Path, **changes: object) -> None:
    """Rewrite a manifest with changes, its checksum made to fit."""
    from tuner.record.manifest import encode

    body = json.loads((folder / MANIFEST).read_text())
    body.pop("sha256")
    (folder / MANIFEST).write_bytes(encode({**body, **changes}))


def test_a_sealed_folder_holds_its_files_and_a_manifest_that_verifies(tmp_path: Path) -> None:
    extra: dict[str, object] = {}
    with seal.seal(tmp_path / "new" / "final", extra=extra) as staging:
        assert staging.parent == tmp_path / "new"
        assert not (tmp_path / "new" / "final").exists()
        (staging / "deep").mkdir()
        (staging / "deep" / "a.txt").write_text("alpha")
        extra["kind"] = "adapter"
    final = tmp_path / "new" / "final"
    inside = ["final/MANIFEST.json", "final/deep", "final/deep/a.txt"]
    assert names(tmp_path / "new") == ["final", *inside]
    manifest = record_manifest.verify(final)
    assert manifest["extra"] == {"kind": "adapter"}
    assert manifest["files"] == {
        "deep/a.txt": {"bytes": 5, "sha256": disk.sha256_file(final / "deep" / "a.txt")}
    }
    (final / "notes").write_text("mine")
    assert record_manifest.verify(final)["unlisted"] == ["notes"]


def test_an_exception_leaves_nothing_and_an_existing_folder_stays(tmp_path: Path) -> None:
    final = make(tmp_path / "final")
    before = record_manifest.verify(final)
    with pytest.raises(IntegrityError, match="already exists"), seal.seal(final):
        pytest.fail("the body must not run")

    def stopped() -> None:
        with seal.seal(tmp_path / "other") as staging:
            (staging / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert record_manifest.verify(final) == before


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:

    def race(final: Path, keep_existing: bool) -> None:
        with seal.seal(final, keep_existing=keep_existing) as staging:
            (staging / "a").write_text("ours")
            final.mkdir(exist_ok=True)
            if final.name == "full":
                (final / "a").write_text("theirs")

    for taken in ("empty", "full"):
        # The second time, what stands there is not sealed and so is nothing to keep.
        for keep_existing in (False, True):
            with pytest.raises(IntegrityError, match="already exists"):
                race(tmp_path / taken, keep_existing)
    assert names(tmp_path) == ["empty", "full", "full/a"]
    assert (tmp_path / "full" / "a").read_text() == "theirs"


def test_two_that_seal_the_same_cache_entry_agree_on_the_first(tmp_path: Path) -> None:
    with seal.seal(tmp_path / "base", keep_existing=True) as staging:
        (staging / "a").write_text("second")
        make(tmp_path / "base", a="first")
    assert names(tmp_path) == ["base", "base/MANIFEST.json", "base/a"]
    assert (tmp_path / "base" / "a").read_text() == "first"


def test_every_altered_byte_is_seen_and_named(tmp_path: Path) -> None:
    """C02: flip any byte of any file, the manifest included."""
    final = make(tmp_path / "final")
    for name in ("a", "b", MANIFEST):
        data = (final / name).read_bytes()
        for position in range(len(data)):
            flipped = bytearray(data)
            flipped[position] ^= 1 + position % 255
            (final / name).write_bytes(flipped)
            with pytest.raises(IntegrityError) as caught:
                record_manifest.verify(final)
            assert name in str(caught.value), (name, position)
            assert caught.value.exit_code == 6
        (final / name).write_bytes(data)
    record_manifest.verify(final)


def test_all_damaged_files_are_named_with_both_checksums(tmp_path: Path) -> None:
    """C02: cut, emptied, deleted, replaced by a link."""
    final = make(tmp_path / "final", cut="12345", empty="12345", gone="12345", link="12345")
    expected = record_manifest.verify(final)["files"]["cut"]["sha256"]
    (tmp_path / "same").write_text("12345")
    (final / "cut").write_text("1234")
    (final / "empty").write_text("")
    (final / "gone").unlink()
    (final / "link").unlink()
    (final / "link").symlink_to(tmp_path / "same")
    with pytest.raises(IntegrityError) as caught:
        record_manifest.verify(final)
    lines = caught.value.problems
    assert [line.split(":")[0] for line in lines] == ["cut", "empty", "gone", "link"]
    assert all(expected in line for line in lines)
    assert disk.sha256_file(final / "cut") in lines[0]
    assert "missing" in lines[2]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    """I06: also not one whose checksum was made to fit."""
    final = make(tmp_path / "final")
    resealed(final, files={name: {"bytes": 0, "sha256": "0" * 64}})
    with pytest.raises(IntegrityError, match=r"MANIFEST\.json"):
        record_manifest.verify(final)
    assert not record_manifest.is_sealed(final)
    assert not seal.remove_sealed(final)


def test_a_later_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    """C17: names the format and the version that wrote it."""
    final = make(tmp_path / "final")
    resealed(final, format=2, tuner="9.9.9")
    with pytest.raises(IntegrityError, match=r"format 2, written by tuner 9\.9\.9"):
        record_manifest.verify(final)


def test_a_folder_without_a_manifest_or_with_a_foreign_one_is_not_sealed(tmp_path: Path) -> None:
    for text in (None, "", "{", "[]", "{}", "7", '{"format": 1}', "[" * 100_000):
        folder = tmp_path / "foreign"
        folder.mkdir()
        if text is not None:
            (folder / MANIFEST).write_text(text)
        assert not record_manifest.is_sealed(folder)
        assert not seal.remove_sealed(folder)
        with pytest.raises(IntegrityError, match=r"MANIFEST\.json"):
            record_manifest.verify(folder)
        assert folder.exists()
        shutil.rmtree(folder)


def test_links_cannot_be_sealed(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not a plain file"), seal.seal(tmp_path / "x") as new:
        (new / "link").symlink_to("/etc/passwd")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EXDEV, ResourceError),
        (errno.EIO, ResourceError),
        (errno.ENOTEMPTY, IntegrityError),
        (errno.EEXIST, IntegrityError),
    ],
)
def test_a_refused_rename_is_a_plain_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    """C12: EXDEV and ENOTEMPTY injected on rename."""

    def refuse(*paths: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(error, match=str(tmp_path / "final")):
        make(tmp_path / "final")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_exit_7(tmp_path: Path) -> None:
    """C12: the parent cannot be written."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match="file"):
        make(tmp_path / "file" / "final")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_parent_is_exit_7(tmp_path: Path) -> None:
    """C12: as an ordinary user, root or not."""
    tmp_path.chmod(0o555)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(tmp_path)
            if os.geteuid() == 0:
                os.setuid(65534)
            make(Path("final"))
        except ResourceError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(0o755)


def test_a_library_that_reports_a_full_disk_in_words_is_exit_7(tmp_path: Path) -> None:
    """C10: the error names the folder, and how much is free."""
    with pytest.raises(ResourceError, match="bytes are free") as caught, seal.seal(tmp_path / "x"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert str(tmp_path / "x") in str(caught.value)
    with pytest.raises(RuntimeError, match="os error 2"), seal.seal(tmp_path / "x"):
        raise RuntimeError("No such file or directory (os error 2)")
    assert list(tmp_path.iterdir()) == []


def test_space_is_checked_before_it_is_needed(tmp_path: Path) -> None:
    """C10: says what it needs and what there is."""
    disk.require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(ResourceError, match=f"needs {10**18:,} bytes, has "):
        disk.require_space(tmp_path / "not" / "yet", 10**18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_staging_is_private_and_the_result_follows_the_umask(tmp_path: Path, umask: int) -> None:
    """I15: 0700 while it is written."""
    before = os.umask(umask)
    try:
        with seal.seal(tmp_path / "final") as staging:
            assert stat.S_IMODE(staging.stat().st_mode) == 0o700
            (staging / "deep").mkdir(mode=0o700)
            os.close(os.open(staging / "deep" / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    final = tmp_path / "final"
    for folder in (final, final / "deep"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    for file in (final / MANIFEST, final / "deep" / "private"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


SEAL_AND_WAIT = """
import sys, time
from pathlib import Path
from tuner.record import seal
with seal.seal(Path(sys.argv[1])) as staging:
    (staging / "a").write_text("x")
    print(staging.name, flush=True)
    time.sleep(60)
"""


def test_only_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """I06, I15: a living process keeps its folder, whoever asks; a killed one loses it."""
    child = subprocess.Popen(
        [sys.executable, "-c", SEAL_AND_WAIT, str(tmp_path / "final")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    staging = child.stdout.readline().strip()
    assert seal.clean_staging(tmp_path) == []
    assert seal.clean_staging(tmp_path, exclusive=True) == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert names(tmp_path) == [staging, f"{staging}/{MARKER}", f"{staging}/a"]
    assert seal.clean_staging(tmp_path) == [staging]
    assert names(tmp_path) == []


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    """I06: no marker, no manifest, another name, a link: not ours."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / MARKER).write_text("")
    root = tmp_path / "root"
    root.mkdir()
    for name in (".staging-x-1-abcdefgh", ".staging-mine", "step-1", ".removed-x-1-abcdefgh"):
        (root / name).mkdir()
        (root / name / "precious").write_text("mine")
    (root / "step-1" / MARKER).write_text("")
    (root / ".staging-y-1-abcdefgh").symlink_to(outside)
    (root / ".staging-z-1-abcdefgh").write_text("a file")
    before = names(root)
    assert seal.clean_staging(root, exclusive=True) == []
    assert seal.clean_staging(root / "absent") == []
    assert names(root) == before
    assert (outside / MARKER).exists()


def test_a_leftover_that_proves_itself_goes_with_all_it_holds(tmp_path: Path) -> None:
    """I06: by its marker, by its manifest, or empty; also with the id of a living process."""
    dead = Owner(os.getpid(), Owner.this().host, "another start")
    by_marker = tmp_path / f".staging-a-{os.getpid()}-abcdefgh"
    by_marker.mkdir()
    (by_marker / MARKER).write_bytes(dead.encode())
    (by_marker / "deep").mkdir()
    (by_marker / "deep" / "link").symlink_to(tmp_path)
    unsigned = tmp_path / ".staging-d-999999999-abcdefgh"
    unsigned.mkdir()
    (unsigned / MARKER).write_bytes(b"")
    by_manifest = make(tmp_path / "x" / "b").rename(tmp_path / ".removed-b-999999999-abcdefgh")
    (tmp_path / "x").rmdir()
    empty = tmp_path / ".staging-c-999999999-abcdefgh"
    empty.mkdir()
    assert seal.clean_staging(tmp_path) == [by_manifest.name, by_marker.name]
    # One that was just made may belong to a process that is about to sign it.
    assert seal.clean_staging(tmp_path, exclusive=True) == [empty.name, unsigned.name]
    assert names(tmp_path) == []


def test_without_kernel_locks_the_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I06: of an owner on another host nothing is known, so its folder stays."""
    host = Owner.this().host
    owners = {
        "living": Owner.this(),
        "elsewhere": Owner(1, "another-host", ""),
        "dead": Owner(999_999_999, host, ""),
    }
    for name, owner in owners.items():
        staging = tmp_path / f".staging-{name}-1-abcdefgh"
        staging.mkdir()
        (staging / MARKER).write_bytes(owner.encode())
    monkeypatch.setattr(seal, "try_flock", lambda fd: None)
    assert seal.clean_staging(tmp_path) == [".staging-dead-1-abcdefgh"]
    monkeypatch.undo()
    # Where the kernel's lock is free, an owner elsewhere is gone; one here that lives is not.
    assert seal.clean_staging(tmp_path) == [".staging-elsewhere-1-abcdefgh"]
    assert names(tmp_path) == [
        ".staging-living-1-abcdefgh",
        f".staging-living-1-abcdefgh/{MARKER}",
    ]


def test_the_next_seal_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    """I15: nobody else would, in a cache that no run owns."""
    staging = tmp_path / ".staging-base-1-abcdefgh"
    staging.mkdir()
    (staging / MARKER).write_bytes(Owner(999_999_999, Owner.this().host, "").encode())
    make(tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_sealed_folder_with_foreign_files_is_not_removed(tmp_path: Path) -> None:
    """I06: all of it stays, the sealed files too."""
    final = make(tmp_path / "final")
    (final / "notes.txt").write_text("mine")
    before = names(tmp_path)
    assert not seal.remove_sealed(final)
    assert names(tmp_path) == before
    (final / "notes.txt").unlink()
    assert seal.remove_sealed(final)
    assert names(tmp_path) == []


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C10: the kernel may take fewer bytes than it was given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:5]))
    disk.write_json(tmp_path / "run.json", {"value": "x" * 100})
    monkeypatch.undo()
    assert json.loads((tmp_path / "run.json").read_text()) == {"value": "x" * 100}


def test_json_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C10: a full disk leaves the old file and no temporary one."""
    path = tmp_path / "run.json"
    disk.write_json(path, {"value": 1})

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match=r"run\.json"):
        disk.write_json(path, {"value": 2})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"value": 1}
    assert names(tmp_path) == ["run.json"]
