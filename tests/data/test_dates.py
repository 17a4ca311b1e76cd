"""Chat templates that write today's date: prompts show the day on which a run began."""

from __future__ import annotations

import datetime as library
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from tests.tokenizers import CHATML_TEMPLATE, make_tokenizer
from tuner import cli
from tuner.cli.make_plan import as_begun
from tuner.console.console import Console
from tuner.data.tokens.conversation import Prompts
from tuner.errors import RecipeError
from tuner.export.gguf import modelfile
from tuner.export.proof import prompts
from tuner.machine import hardware, launch
from tuner.plan import make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.record import disk
from tuner.run import content, finish, spine

# As Llama 3.2's and gpt-oss's do.
DATED = {
    "llama": "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{{ 'Today Date: ' + date_string + '\\n' }}" + CHATML_TEMPLATE,
    "gpt-oss": "{{ 'Current date: ' + strftime_now('%Y-%m-%d') + '\\n' }}" + CHATML_TEMPLATE,
}
ROWS = [{"prompt": f"Say {n}.", "completion": f"It is {n}."} for n in range(8)]


class Clock:
    """The days that pass for the program and for transformers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def set(self, day: str) -> None:
        moment = library.datetime.fromisoformat(f"{day}T23:59:00")

        class Now(library.datetime):
            @classmethod
            def now(cls, tz: library.tzinfo | None = None) -> library.datetime:
                return moment

        class Today(library.date):
            @classmethod
            def today(cls) -> library.date:
                return moment.date()

        self._patch.setattr(chat_template_utils, "datetime", Now)
        self._patch.setattr(launch, "date", Today)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock(monkeypatch)
    found.set("2026-11-28")
    return found


def planned(recipe: Path, folder: Path, resume: bool = False, *sets: str) -> Plan:
    loaded = recipe_load.load(recipe, sets, verb="lora")
    if resume:
        loaded = as_begun(loaded, folder)
    return make.make(loaded, hardware.detect(), output=folder)


@pytest.fixture(params=DATED)
def dated(request: pytest.FixtureRequest, make_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    """A recipe whose chat template writes the date."""
    (tmp_path / "dated.jinja").write_text(DATED[request.param], "utf-8")
    keys = {"template": "auto", "eval": 2}
    return make_recipe(
        data_rows=ROWS, data=keys, model={"chat_template": "dated.jinja"}, method={"name": "lora"}
    )


def tokens(plan: Plan) -> str:
    return str(plan.prepared.report["tokens_sha256"])


def test_a_run_keeps_the_date_on_which_it_began(dated: Path, clock: Clock, tmp_path: Path) -> None:
    """C19: after midnight, `--resume` and the lock give the same tokens; a new run does not."""
    folder = tmp_path / "run"
    folder.mkdir()
    began = planned(dated, folder)
    assert began.values["model.chat_date"].value == "2026-11-28"
    shown = began.tokenizer.decode(began.prepared.train[0].input_ids)
    assert shown.startswith(("Today Date: 28 Nov 2026\n", "Current date: 2026-11-28\n"))
    head = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": began.as_dict()}
    disk.write_json(folder / "run.json", head)

    class Folder:
        path = folder

    finish.write_inputs(began, Folder)  # type: ignore[arg-type]
    clock.set("2026-11-29")
    assert tokens(planned(dated, folder / "new")) != tokens(began)
    for _ in range(2):
        resumed = planned(dated, folder, resume=True)
        assert tokens(resumed) == tokens(began)
        assert resumed.identity() == began.identity()
        # A chain finds the resumed stage done by the recipe that it names.
        before = recipe_load.load(dated, verb="lora")
        assert content.content_sha256(resumed.loaded) == content.content_sha256(before)
        disk.write_json(folder / "run.json", head | {"plan": resumed.as_dict()})
    again = planned(folder / "recipe.lock.yaml", folder / "again")
    assert tokens(again) == tokens(began)
    assert again.prepared.eval[0].prompt_ids == began.prepared.eval[0].prompt_ids
    # So can a date be named; in the place of a wrong one, an error says what is expected.
    named = planned(dated, folder / "named", False, "model.chat_date=2026-11-28")
    assert tokens(named) == tokens(began)
    with pytest.raises(RecipeError, match="auto or a date such as 2026-11-28, not 'tomorrow'"):
        planned(dated, folder / "named", False, "model.chat_date=tomorrow")


def test_a_run_of_an_earlier_version_shows_the_day_of_its_start(
    dated: Path, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    began = planned(dated, tmp_path / "run")
    record = began.as_dict()
    del record["values"]["model.chat_date"]
    started = library.datetime(2026, 11, 28, 12).astimezone().isoformat()
    head = {"format": 1, "tuner": "0.1.0", "status": "failed", "started": started, "plan": record}
    disk.write_json(tmp_path / "run/run.json", head)
    clock.set("2026-12-24")
    assert tokens(planned(dated, tmp_path / "run", resume=True)) == tokens(began)


def test_a_run_over_midnight_trains_scores_and_proves_one_prompt(
    dated: Path, clock: Clock, tmp_path: Path, in_process: None
) -> None:
    """C19: the gates hold on any day: artefacts write the day on which they are asked."""
    began = planned(dated, tmp_path / "run", False, "export.formats=[adapter,merged]")
    clock.set("2026-11-29")
    record = spine.run(began, resume=False, console=Console(quiet=True))
    assert record["status"] == "done"
    (kept,) = {each["written"] for each in prompts.of_plan(began)}
    assert kept == "2026-11-28"
    clock.set("2027-01-01")
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(tmp_path / "run")])
    assert not stop.value.code
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/merged")
    ids = Prompts(tokenizer, []).ids([{"role": "user", "content": "Say 3."}])
    assert "2027" in tokenizer.decode(ids)


def test_a_date_that_no_template_writes_is_said(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = make_recipe(model={"chat_date": "2026-11-28"}, method={"name": "lora"})
    assert "model.chat_date has no effect: no chat template writes the date" in list(
        planned(recipe, tmp_path / "run").warnings
    )
    plain = planned(recipe, tmp_path / "run", False, "model.chat_date=auto")
    assert plain.values["model.chat_date"].value == "auto"


def test_a_modelfile_keeps_no_date() -> None:
    tokenizer = make_tokenizer("chatml")
    assert modelfile.problem(tokenizer) is None
    for template in DATED.values():
        tokenizer.chat_template = template
        assert "today's date" in str(modelfile.problem(tokenizer))


def test_processes_of_a_group_share_the_day(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    given = launch.Group(2, 1, 0).environment(1, 29500)
    clock.set("2026-11-29")
    monkeypatch.setenv(launch.LAUNCHED, given[launch.LAUNCHED])
    assert launch.today() == "2026-11-28"
