"""A tiny base that learned to call functions, served to openai's client and a LangChain agent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI

from tests.chat_templates import FAMILIES
from tests.data.test_masks import prepared
from tests.data.test_tool_calls import ONE_CALL
from tests.inference.conversation import ROOT, chat, opened
from tests.inference.serving import KEY, Running, post
from tests.inference.taught import taught
from tests.inference.test_reading import CALLERS
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.tokens.conversation import Prompts
from tuner.data.turns.tool_calls import called
from tuner.inference import call_forms
from tuner.inference.begun_calls import begin
from tuner.inference.reading import Reader, whole
from tuner.inference.serve import models
from tuner.inference.serve.protocol import ChatAsk
from tuner.inference.serve.replies import Reply

Turn = dict[str, Any]
SEEN: list[str] = []


def tide(at: str) -> str:
    """High water."""
    SEEN.append(at)
    return {"Brest": "16:40", "Calais": "11:05"}[at]


PAGE = (ROOT / "docs/conversations.md").read_text("utf-8").partition("\n## Tools\n")[2]
ROW = json.loads(re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)[0])
ONE, TOOLS = ROW["messages"], ROW["tools"]
# Inside a sentence: an answer that begins or ends with such a call is a bad row.
BROKEN = 'So: <tool_call>\n{"name": "tide", "arguments": {"at": }\n</tool_call>.'


def asked(text: str) -> Turn:
    return {"role": "user", "content": text}


def calling(*ports: str, **keys: Any) -> Turn:
    functions = [{"name": "tide", "arguments": json.dumps({"at": port})} for port in ports]
    calls = [
        {"id": f"call0000{number}", "type": "function", "function": function}
        for number, function in enumerate(functions)
    ]
    return {"role": "assistant", **keys, "tool_calls": calls}


def result(text: str, number: int = 0) -> Turn:
    return {"role": "tool", "tool_call_id": f"call0000{number}", "content": text}


def said(text: str) -> Turn:
    return {"role": "assistant", "content": text}


TWO = [
    asked("Due at both?"),
    calling("Brest", "Calais", content="I look."),
    result("16:40"),
    result("11:05", 1),
    said("At 16:40 and 11:05."),
]
FALSE = [asked("Due at sea?"), said(BROKEN)]
NONE = [asked("Due at Brest?"), said("No idea.")]


@pytest.fixture(scope="module")
def tides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows when to call which function, and what to say then."""
    rows = [{"messages": turns, "tools": TOOLS} for turns in (ONE, TWO, FALSE)]
    folder = tmp_path_factory.mktemp("tools") / "tides"
    return taught(folder, [*rows, {"messages": NONE}], FAMILIES["qwen3"].tokenizer())


@pytest.fixture(scope="module")
def server(tides: Path) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "serve", "--base", str(tides), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TUNER_API_KEY": KEY},
    )
    yield Running(process)
    process.kill()
    process.wait()


def ask(server: Running, turns: list[Turn], **further: Any) -> Any:
    options: Any = {
        "model": "tides",
        "max_tokens": 150,
        "temperature": 0,
        "tools": TOOLS,
        **further,
    }
    return server.client().chat.completions.create(messages=turns, **options)


def test_call_result_answer(server: Running) -> None:
    """What openai's client is given can be sent back to it as it is."""
    first = ask(server, ONE[:1]).choices[0]
    (call,) = first.message.tool_calls
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name) == ("function", "tide")
    assert json.loads(call.function.arguments) == {"at": "Brest"}
    back = [*ONE[:1], first.message, {**ONE[2], "tool_call_id": call.id}]
    last = ask(server, back).choices[0]
    assert (last.finish_reason, last.message.content) == ("stop", "At 16:40.")
    assert last.message.tool_calls is None


def test_two_calls_next_to_content(server: Running) -> None:
    first = ask(server, TWO[:1]).choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", "I look.")
    given = [json.loads(call.function.arguments)["at"] for call in first.message.tool_calls]
    assert given == ["Brest", "Calais"]
    ids = [call.id for call in first.message.tool_calls]
    assert len({*ids}) == 2
    results = [{**turn, "tool_call_id": name} for turn, name in zip(TWO[2:4], ids, strict=True)]
    # The template shows no ids, so the order counts; a client need not keep it.
    for order in (results, results[::-1]):
        last = ask(server, [*TWO[:1], first.message, *order]).choices[0]
        assert last.message.content == "At 16:40 and 11:05."
    (only,) = ask(server, TWO[:1], parallel_tool_calls=False).choices[0].message.tool_calls
    assert json.loads(only.function.arguments) == {"at": "Brest"}


def test_calls_are_streamed(server: Running) -> None:
    chunks = list(ask(server, TWO[:1], stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    pieces = [each.content for each in deltas if each.content]
    assert "".join(pieces) == "I look."
    assert len(pieces) > 1
    calls = [call for each in deltas for call in each.tool_calls or ()]
    assert [call.index for call in calls] == [0, 1]
    assert [json.loads(call.function.arguments)["at"] for call in calls] == ["Brest", "Calais"]
    assert all(call.id and call.type == "function" and call.function.name for call in calls)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    # The first call is sent before the second one is written.
    places = [number for number, each in enumerate(deltas) if each.tool_calls]
    with server.client().chat.completions.stream(
        model="tides", messages=TWO[:1], tools=TOOLS, max_tokens=150, temperature=0
    ) as stream:
        final = stream.get_final_completion().choices[0].message
    assert places[0] < places[1]
    assert [json.loads(each.function.arguments)["at"] for each in final.tool_calls] == [
        "Brest",
        "Calais",
    ]


def test_a_broken_call_is_content(server: Running) -> None:
    choice = ask(server, FALSE[:1]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (BROKEN, "stop")
    assert choice.message.tool_calls is None
    chunks = list(ask(server, FALSE[:1], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == BROKEN
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_call_that_is_cut_off_is_content(server: Running) -> None:
    choice = ask(server, ONE[:1], max_tokens=12).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith("<tool_call>")


def test_without_tools_the_model_is_shown_none(server: Running) -> None:
    for further in ({"tools": []}, {"tool_choice": "none"}):
        choice = ask(server, NONE[:1], **further).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("No idea.", "stop")


def test_a_call_can_be_made_to_come(server: Running) -> None:
    """Asked without a word of tides, whole and streamed; the model chooses the arguments, and with
    `required` the function."""
    named = {"type": "function", "function": {"name": "tide"}}
    for choice in ("required", named):
        free = ask(server, NONE[:1], tool_choice="auto").choices[0]
        made = ask(server, FALSE[:1], tool_choice=choice, max_tokens=60).choices[0]
        (call,) = ask(server, ONE[:1], tool_choice=choice).choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "tide",
            {"at": "Brest"},
        )
        assert not (free.message.content or "").startswith("<tool_call>")
        assert made.message.tool_calls or made.message.content.startswith("<tool_call>")
        chunks = list(ask(server, ONE[:1], tool_choice=choice, stream=True))
        calls = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
        assert [each.function.name for each in calls] == ["tide"]
        assert json.loads(calls[0].function.arguments) == {"at": "Brest"}
        assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_langchain_agent_goes_round(server: Running, streaming: bool) -> None:
    """Call, tool, answer: the agent calls the function, and the answer has its result."""
    model = ChatOpenAI(
        model="tides",
        base_url=f"{server.url}/v1",
        api_key=KEY,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=150,
        streaming=streaming,
    )
    agent: Any = create_agent(model, [tide])
    for turns, ports in ((ONE, ["Brest"]), (TWO, ["Brest", "Calais"])):
        SEEN.clear()
        found = agent.invoke({"messages": turns[:1]})["messages"]
        assert sorted(SEEN) == ports
        assert [each.type for each in found] == ["human", "ai", *["tool"] * len(ports), "ai"]
        assert found[-1].content == turns[-1]["content"]


def test_arguments_of_calls_that_are_not_json_are_named(server: Running) -> None:
    turn = calling("Brest")
    turn["tool_calls"][0]["function"]["arguments"] = "Brest"
    body = {"model": "tides", "messages": [ONE[0], turn, result("16:40")], "tools": TOOLS}
    status, _, found = post(server, body)
    assert (status, found["error"]["param"]) == (400, "messages")
    assert "the arguments of a call of 'tide' are not JSON" in found["error"]["message"]


def test_the_page_of_conversations(server: Running, tmp_path: Path) -> None:
    """Its programs, run as they are except for the address and the key, print what it shows."""
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shown = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) == len(shown) - 1 == 2
    # The function of the second program is shown as in the row, its keys in the same order.
    assert json.dumps([convert_to_openai_tool(tide)]) == json.dumps(TOOLS)
    for program, text in zip(programs, shown, strict=False):
        program = program.replace("http://127.0.0.1:8000", server.url)
        program = program.replace('"none"', repr(KEY))
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stdout == text, done.stderr


OTHER = {"type": "function", "function": {**TOOLS[0]["function"], "name": "moon"}}


@pytest.mark.parametrize("name", CALLERS)
def test_a_call_that_must_come_begins_as_calls_are_learned(tmp_path: Path, name: str) -> None:
    """Token by token, up to the name or up to the arguments; what follows completes the call."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    chat, tools = ChatTemplate(tokenizer, stops), [*TOOLS, OTHER]
    row = {"messages": ONE[:2], "tools": tools}
    (example,) = prepared(tmp_path, [row], tokenizer, stop_ids=stops).train
    arguments = chat.arguments(False)
    start = len(Prompts(tokenizer, stops).ids(ONE[:1], tools, arguments))
    answer = example.input_ids[start:]
    lengths = []
    for names in (["tide", "moon"], ["tide"]):
        begun = begin(tokenizer, chat, tools, names, arguments)
        assert begun is not None
        lengths.append(len(begun.ids))
        assert tuple(answer[: len(begun.ids)]) == begun.ids
        assert ("tide" in begun.text) == (names == ["tide"])
        assert "Brest" not in begun.text
        rest = tokenizer.decode(answer[len(begun.ids) :])
        reader = Reader(form=call_forms.find(tokenizer, chat), tools=tools, begun=begun.text)
        (call,) = whole(reader.feed(rest.removesuffix(family.specials[0]), end=True)).calls
        assert called(call) == ("tide", {"at": "Brest"})
    assert 0 < lengths[0] < lengths[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLERS)
def test_every_family_calls_in_its_own_words(tmp_path: Path, name: str) -> None:
    """Rows, weights, prompt, sampled tokens, reply: call, result, answer, whole and streamed."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    thought = {"reasoning_content": "A tide."} if name == "qwen3" else {}
    one = [ONE[0], {**ONE[1], **thought}, *ONE[2:]]
    rows = [one] if name in ONE_CALL else [one, TWO]
    folder = taught(
        tmp_path / "base",
        [{"messages": turns, "tools": TOOLS} for turns in rows],
        tokenizer,
        family.stop_ids(tokenizer),
    )
    model = opened(folder)
    served = models.name_all(model)["base"]
    for turns in rows:
        said_to: list[Turn] = turns[:1]
        for wanted in (turns[1], turns[-1]):
            body = {"model": "base", "messages": said_to, "tools": TOOLS}
            asks_for = served.prompts.template
            assert asks_for is not None
            state = bool(wanted.get("reasoning_content"))
            body["chat_template_kwargs"] = asks_for.arguments(state)
            request = ChatAsk.model_validate(body)
            (prompt,) = served.ids(request)
            pieces: list[str] = []
            answer = model.answer(prompt, 200, show=pieces.append)
            reply = Reply(request, "1", len(prompt), 1, partial(served.reader, request, prompt))
            chunks = [chunk for piece in pieces for chunk in reply.piece(0, piece)]
            reply.answers[0] = answer
            chunks += reply.finish(0)
            (choice,) = reply.whole()["choices"]
            message = choice["message"]
            calls = [call["function"] for call in message.get("tool_calls", ())]
            asked_for = [called(call) for call in wanted.get("tool_calls", ())]
            assert [called(call) for call in calls] == asked_for, answer
            assert message["content"] == wanted.get("content")
            assert message.get("reasoning_content") == wanted.get("reasoning_content")
            assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
            assert streamed(chunks) == {
                "content": message["content"] or "",
                "reasoning_content": message.get("reasoning_content", ""),
                "tool_calls": calls,
            }
            ids = [call["id"] for call in message.get("tool_calls", ())]
            results = [turn for turn in turns if turn["role"] == "tool"]
            said_to = [
                *said_to,
                {key: value for key, value in message.items() if value is not None},
                *({**turn, "tool_call_id": id} for turn, id in zip(results, ids, strict=False)),
            ]


def test_chat_calls_and_reads_results(tides: Path, tmp_path: Path) -> None:
    """What is called is shown, its result is the next line, and the model goes on; saved, it is a
    row that is learned as the one it comes from."""
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS), "utf-8")
    given = ("--base", tides, "--max-new-tokens", 150, "--tools", tmp_path / "tools.json")
    file = tmp_path / "said.jsonl"
    typed = f"Due at Brest?\n16:40\n/save {file}\n/reset\nDue at both?\n16:40\n11:05\n"
    done = chat(*given, "--lines", "--json", typed=typed)
    answers = [event for event in done.events if event["event"] == "answer"]
    assert [(each["text"], each.get("calls")) for each in answers] == [
        ("", [{"name": "tide", "arguments": '{"at": "Brest"}'}]),
        ("At 16:40.", None),
        (
            "I look.",
            [{"name": "tide", "arguments": f'{{"at": "{at}"}}'} for at in ("Brest", "Calais")],
        ),
        ("At 16:40 and 11:05.", None),
    ]
    saved = json.loads(file.read_text("utf-8"))
    tokenizer = FAMILIES["qwen3"].tokenizer()
    one, other = (
        prepared(tmp_path, [row], tokenizer).train
        for row in (saved, {"messages": ONE, "tools": TOOLS})
    )
    assert [row.input_ids for row in one] == [row.input_ids for row in other]

    # A pipe is one question; its results come as turns. A row of the data holds the tools, too.
    (tmp_path / "row.json").write_text(json.dumps({"messages": ONE, "tools": TOOLS}), "utf-8")
    done = chat(*given[:-1], tmp_path / "row.json", typed="Due at Brest?\n")
    assert done.stdout.endswith('\ncalled: tide({"at": "Brest"})\n')
    lines = "".join(json.dumps(turn) + "\n" for turn in [ONE[0], calling("Brest"), result("16:40")])
    assert chat(*given, typed=lines).stdout == "At 16:40.\n"
    # The end of the input comes before a result.
    assert chat(*given, "--lines", typed="Due at Brest?\n").returncode == 0


def test_the_command_of_the_page(tides: Path, tmp_path: Path) -> None:
    (line,) = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    (*_, shown) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    typed, words = re.fullmatch(r"printf '(.*)' \| tuner chat runs/tides (.*)", line).groups()
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS), "utf-8")
    given = words.replace("tools.json", str(tmp_path / "tools.json")).split()
    done = chat("--base", tides, "--max-new-tokens", 60, *given, typed=typed.replace("\\n", "\n"))
    assert done.stdout == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("[", "it is not JSON"),
        ("[]", "no list of functions"),
        ('[{"type": "function", "function": {"description": "High water."}}]', "1 has no name"),
    ],
)
def test_tools_that_cannot_be_read_are_refused(tmp_path: Path, text: str | None, why: str) -> None:
    file = tmp_path / "tools.json"
    if text is not None:
        file.write_text(text, "utf-8")
    done = chat("--base", tmp_path, "--tools", file)
    assert done.returncode == 2
    assert why in done.stderr
    if fix := re.search(r"\[\{.*\}\]", done.stderr):
        file.write_text(fix.group(), "utf-8")
        assert "--tools" not in chat("--base", tmp_path, "--tools", file).stderr


def test_a_template_without_tools_is_shown_none(bases: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS), "utf-8")
    done = chat("--base", bases("llama"), "--tools", tmp_path / "tools.json")
    assert done.returncode == 3
    assert "the model cannot be shown tools" in done.stderr


@pytest.mark.slow
def test_chat_tells_channels_apart(tmp_path: Path) -> None:
    """What gpt-oss thinks is not what it says; both are kept as a row would hold them."""
    family = FAMILIES["gpt-oss"]
    tokenizer = family.tokenizer()
    turns = [asked("Due?"), {**said("Now."), "reasoning_content": "Hm."}]
    folder = taught(tmp_path / "base", [{"messages": turns}], tokenizer, family.stop_ids(tokenizer))
    file = tmp_path / "said.jsonl"
    typed = f"Due?\n/save {file}\n"
    done = chat("--base", folder, "--max-new-tokens", 60, "--lines", "--json", typed=typed)
    (answer,) = [event for event in done.events if event["event"] == "answer"]
    assert (answer["reasoning"], answer["text"], answer["stopped"]) == ("Hm.", "Now.", "eos")
    assert json.loads(file.read_text())["messages"] == turns


def streamed(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    return {
        **{
            kind: "".join(each.get(kind, "") for each in deltas)
            for kind in ("content", "reasoning_content")
        },
        "tool_calls": [call["function"] for each in deltas for call in each.get("tool_calls", ())],
    }
