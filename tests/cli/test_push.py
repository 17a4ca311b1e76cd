"""`tuner push`, to a stand-in of the Hub on loopback: what arrives, and what each refusal says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import here
from tests.cli.command import Done, tuner
from tests.stand_in_hub import READER, TOKEN, Hub, reach, running
from tuner.export.model_card import wilson
from tuner.machine import processes
from tuner.record import manifest

TO = ("--to", "me/tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[Path]:
    """A folder with the run `run`: an adapter and a merged model. Proofs run in this process."""
    folder = tmp_path_factory.mktemp("pushed")
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(16)]
    (folder / "private-rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "small.yaml").write_text(
        f"model: {{base: {base}}}\ndata: {{train: private-rows.jsonl, eval: 0.25}}\n"
        "train: {batch_size: 4, max_steps: 1}\neval: {samples: 0}\n"
        "export: {formats: [adapter, merged]}\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "fresh", here.fresh)
        patched.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        done = tuner("sft", "small.yaml", "--output", "run", "--quiet", cwd=folder)
        assert done.returncode == 0, done.stderr
        yield folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as hub:
        reach(hub, monkeypatch)
        yield hub


def push(folder: Path, *more: str, token: str = TOKEN, run: str = "run") -> Done:
    return tuner("push", run, *([] if "--to" in more else TO), *more, cwd=folder, HF_TOKEN=token)


def fixed(done: Done, code: int = 9) -> str:
    assert done.returncode == code, done.stderr + done.stdout
    return done.stderr


def test_what_a_dry_run_shows_is_what_arrives(folder: Path, hub: Hub) -> None:
    """Sizes, hashes and the card; then the same again sends nothing."""
    both = ("--format", "adapter", "--format", "merged", "--json")
    shown = push(folder, *both, "--dry-run", token="")
    assert shown.returncode == 0, shown.stderr
    (plan,) = [each for each in map(json.loads, shown.stdout.splitlines()) if "card" in each]
    assert not hub.repos
    assert not hub.authorised
    done = push(folder, *both)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    there = hub.files("me/tiny")
    assert {file["path"]: file["bytes"] for file in plan["files"]} == {
        path: len(content) for path, content in there.items() if path != ".gitattributes"
    }
    assert plan["files"] == said["files"]
    assert there["README.md"].decode() == plan["card"]
    for name in ("adapter_model.safetensors", "merged/model.safetensors"):
        inner = name if "/" in name else f"adapter/{name}"
        assert there[name] == (folder / "run" / inner).read_bytes()
    repo = hub.repos["models", "me/tiny"]
    assert (repo.private, said["made"], said["commit"]) == (True, True, repo.branches["main"])
    assert hub.authorised == {f"Bearer {TOKEN}"}
    hub.log.clear()
    again = push(folder, *both)
    assert again.returncode == 0, again.stderr
    assert not hub.asked("PUT")
    assert len(repo.commits) == 2


def test_the_card_says_what_the_run_recorded_and_no_more(folder: Path, hub: Hub) -> None:
    done = push(folder, "--dry-run", "--licence", "mit")
    record = json.loads((folder / "run/run.json").read_text())
    for said in (
        record["base_fingerprint"],
        record["plan"]["data"]["files"][0]["sha256"],
        record["scored"]["held_out_sha256"],
        "license: mit",
        "| loss | ",
        'PeftModel.from_pretrained(base, "me/tiny")',
        f"{record['plan']['data']['rows_eval']} held out",
    ):
        assert said in done.stdout, said
    push(folder)
    for path, content in hub.files("me/tiny").items():
        for private in ("private-rows", str(folder), "What is"):
            assert private.encode() not in content, (path, private)


def test_what_was_pushed_can_be_verified_where_it_is_downloaded(
    folder: Path, hub: Hub, tmp_path: Path, base: Path
) -> None:
    push(folder)
    for path, content in hub.files("me/tiny").items():
        (tmp_path / path).write_bytes(content)
    assert manifest.verify(tmp_path)["unlisted"] == [".gitattributes"]
    done = tuner("verify", ".", "--base", str(base), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "README.md").write_text("another")
    assert tuner("verify", ".", "--base", str(base), cwd=tmp_path).returncode == 6


def test_a_broken_upload_leaves_nothing_and_goes_on(folder: Path, hub: Hub) -> None:
    both = ("--format", "adapter", "--format", "merged")
    hub.drop_after = 1
    said = fixed(push(folder, *both))
    assert "could not write to me/tiny" in said
    assert "give the same command again" in said
    assert list(hub.files("me/tiny")) == [".gitattributes"]
    (kept,) = hub.stored
    hub.drop_after = None
    hub.log.clear()
    assert push(folder, *both).returncode == 0
    assert len(hub.stored) == 2
    assert len(hub.asked("PUT")) == 1
    assert not hub.asked(f"PUT /lfs/{kept}")


def test_a_branch_is_made_and_the_main_one_stays(folder: Path, hub: Hub) -> None:
    done = push(folder, "--revision", "trial", "--public")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"{hub.url}/me/tiny/tree/trial")
    assert list(hub.files("me/tiny")) == [".gitattributes"]
    assert "adapter_model.safetensors" in hub.files("me/tiny", "trial")
    assert not hub.repos["models", "me/tiny"].private


def test_each_refusal_says_what_to_do(folder: Path, hub: Hub) -> None:
    """No token, 401, 403, and an organisation that is not there; each fix works."""
    said = fixed(push(folder, token=""))
    assert "HF_TOKEN is not set" in said
    said = fixed(push(folder, token="hf_standinWRONG00123456789abcdefgh"))
    assert "the Hub answered 401" in said
    assert "HF_TOKEN is wrong or has expired" in said
    said = fixed(push(folder, token=READER))
    assert "the Hub answered 403" in said
    assert "use a token that may write to me" in said
    hub.answers["POST /api/repos/create"] = (404, "Organization not found")
    said = fixed(push(folder, "--to", "none/tiny"))
    assert "there must be a user or an organisation none" in said
    hub.answers.clear()
    assert not hub.repos
    assert push(folder).returncode == 0


def test_a_repository_that_is_there(folder: Path, hub: Hub) -> None:
    """Somebody else's files, another visibility, one that cannot be seen, one that moves."""
    hub.add("me/tiny", {"notes.txt": b"mine"}, private=True)
    assert "notes.txt" in fixed(push(folder))
    hub.add("me/open", {".gitattributes": b""})
    assert "add --public" in fixed(push(folder, "--to", "me/open"))
    assert list(hub.files("me/open")) == [".gitattributes"]
    assert push(folder, "--to", "me/open", "--public").returncode == 0
    hub.answers["POST /api/repos/create"] = (409, "You already created this model repo")
    assert "this token cannot read it" in fixed(push(folder, "--to", "me/other"))
    hub.answers, hub.moves = {}, True
    said = fixed(push(folder, "--to", "me/open", "--public", "--licence", "mit"))
    assert "somebody changed the repository meanwhile" in said
    assert "license: mit" not in hub.files("me/open")["README.md"].decode()


def test_files_of_an_earlier_push_stay_and_are_named(folder: Path, hub: Hub) -> None:
    push(folder, "--format", "adapter", "--format", "merged")
    done = push(folder)
    assert done.returncode == 0
    assert "keeps them: merged/MANIFEST.json" in done.stderr
    assert "merged/model.safetensors" in hub.files("me/tiny")


def test_what_arrives_otherwise_is_noticed(folder: Path, hub: Hub) -> None:
    hub.spoil = "adapter_config.json"
    assert "other hashes for adapter_config.json" in fixed(push(folder))


def test_what_verify_does_not_accept_is_not_sent(folder: Path, hub: Hub, tmp_path: Path) -> None:
    """A file that was changed, a model without a manifest, a format that is not there."""
    shutil.copytree(folder / "run", tmp_path / "run")
    weights = tmp_path / "run/adapter/adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "adapter is damaged" in fixed(push(tmp_path), 6)
    (tmp_path / "run/merged/MANIFEST.json").unlink()
    assert "no MANIFEST.json" in fixed(push(tmp_path, run="run/merged"), 4)
    said = fixed(push(tmp_path, "--format", "gguf"), 2)
    assert "tuner export run --format gguf" in said
    assert "there is no format 'mergd'" in fixed(push(tmp_path, "--format", "mergd"), 2)
    assert not hub.authorised


@pytest.mark.parametrize("name", ["tiny", "me/ti ny", "a/b/c", "me/.tiny", "me/a--b", "me/x.git"])
def test_a_wrong_name_is_refused_with_one_that_works(name: str, folder: Path) -> None:
    said = fixed(push(folder, "--to", name, "--dry-run"), 2)
    example = said.split("for example: --to ")[1].split()[0]
    assert example.startswith("my-org/")
    assert push(folder, "--to", example, "--dry-run", "--quiet").returncode == 0


def test_without_a_network_a_dry_run_is_offered(folder: Path) -> None:
    said = fixed(push(folder))
    assert "HF_HUB_OFFLINE is set" in said
    assert push(folder, "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (0.9, 100, 0.8256, 0.9448)],
)
def test_the_interval_is_wilsons(share: float, count: int, low: float, high: float) -> None:
    """Computed by hand from (p + z²/2n ± z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96."""
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)
