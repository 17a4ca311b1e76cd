"""The endpoints: a request becomes a job, the events of the worker become a response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tuner.inference.sampling import Sampling
from tuner.inference.serve.admission import Admission, Limits
from tuner.inference.serve.events import Channel, End, Event, Labelled, Piece, Whole
from tuner.inference.serve.fields import first_problem
from tuner.inference.serve.guard import GONE, Facts
from tuner.inference.serve.models import ServedModel
from tuner.inference.serve.protocol import ChatAsk, ClassifyAsk, CompletionAsk
from tuner.inference.serve.refusal import Refused, failed
from tuner.inference.serve.replies import Reply, labelled
from tuner.inference.serve.worker import Job, LabelJob, Worker

_CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of one server.

    Attributes:
        by_name: the models.
        worker: generates.
        admission: admits requests.
        limits: what a request may take.
        created: when the server started, in seconds since 1970.
        encoding: the thread in which prompts are made, one at a time.
    """

    by_name: dict[str, ServedModel]
    worker: Worker
    admission: Admission
    limits: Limits
    created: int
    encoding: ThreadPoolExecutor

    async def chat(self, ask: ChatAsk, request: Request) -> Response:
        """Answer `POST /v1/chat/completions`."""
        return await self._answer(ask, request)

    async def complete(self, ask: CompletionAsk, request: Request) -> Response:
        """Answer `POST /v1/completions`."""
        return await self._answer(ask, request)

    async def classify(self, ask: ClassifyAsk, request: Request) -> Response:
        """Answer `POST /v1/classify`: a label and the probabilities of all, for each input."""
        facts = _facts(request)
        name = self._classifies() if ask.model is None else ask.model
        model = self._model(name)
        facts.endpoint, facts.model = request.url.path, name
        self.admission.enter(facts.id)
        loop = asyncio.get_running_loop()
        inputs = await loop.run_in_executor(self.encoding, model.asked, ask.input)
        facts.prompt_tokens = sum(each.tokens for each in inputs)
        channel = Channel(request.receive, lambda: self.admission.leave(facts.id))
        facts.drop = channel.close
        job = LabelJob(model.variant, self.limits.seconds, channel, inputs, *model.classes)
        self.worker.submit(job)
        found: list[dict[str, float]] = []
        while (event := await channel.next()) is not None:
            if isinstance(event, Labelled):
                found.append(event.probabilities)
            elif isinstance(event, End):
                if event.error is not None:
                    raise event.error
                facts.finish = "stop"
                return JSONResponse(labelled(name, facts.id, inputs, found, job.threshold))
        return _gone(facts)

    def _classifies(self) -> str:
        """The one model that classifies."""
        names = [name for name, model in self.by_name.items() if model.classifier]
        if len(names) != 1:
            known = f"classifiers: {', '.join(names)}" if names else "no model here classifies"
            raise Refused(400, f"model is missing; {known}", _CODES["missing"], "model")
        return names[0]

    async def models(self, request: Request) -> Response:
        """Answer `GET /v1/models`."""
        _facts(request).endpoint = "/v1/models"
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self.by_name]})

    async def model(self, name: str, request: Request) -> Response:
        """Answer `GET /v1/models/NAME`."""
        _facts(request).endpoint = "/v1/models/NAME"
        self._model(name)
        return JSONResponse(self._card(name))

    async def health(self) -> Response:
        """Answer `GET /health`: 503 if no request would be answered."""
        if self.admission.draining or not self.worker.alive:
            status = "stopping" if self.admission.draining else "failed"
            return JSONResponse({"status": status}, 503)
        return JSONResponse({"status": "ok"})

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "tuner"}

    def _model(self, name: str) -> ServedModel:
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            message = f"there is no model of this name; available models: {known}"
            raise Refused(404, message, "model_not_found", "model")
        return self.by_name[name]

    async def _answer(self, ask: ChatAsk | CompletionAsk, request: Request) -> Response:
        facts = _facts(request)
        facts.endpoint = request.url.path
        model = self._model(ask.model)
        facts.model, facts.stream = ask.model, ask.stream
        tokens = self._longest(ask)
        self.admission.enter(facts.id)
        encode = partial(asyncio.get_running_loop().run_in_executor, self.encoding)
        prompts, begun = await encode(model.ids, ask), await encode(model.begun, ask)
        read = partial(model.reader, ask, prompts[0], begun.text)
        prompts = [[*prompt, *begun.ids] for prompt in prompts]
        facts.prompt_tokens = sum(len(prompt) for prompt in prompts)
        # Its place is free when the worker is done with it or the client is gone.
        channel = Channel(request.receive, lambda: self.admission.leave(facts.id))
        facts.drop = channel.close
        temperature = self.limits.temperature if ask.temperature is None else ask.temperature
        self.worker.submit(
            Job(
                variant=model.variant,
                prompts=prompts,
                max_new_tokens=tokens,
                sampling=Sampling(temperature, 1.0 if ask.top_p is None else ask.top_p),
                seed=ask.seed,
                words=ask.words,
                strip=isinstance(ask, ChatAsk) and not begun.ids,
                seconds=self.limits.seconds,
                channel=channel,
            )
        )
        reply = Reply(ask, facts.id, facts.prompt_tokens, len(prompts), read)
        return await (_stream if ask.stream else _whole)(reply, channel, facts)

    def _longest(self, ask: ChatAsk | CompletionAsk) -> int:
        name, tokens = ask.longest()
        most = self.limits.max_new_tokens
        if tokens is not None and tokens > most:
            message = f"{name} is {tokens}; this server generates at most {most} tokens"
            raise Refused(400, message, "invalid_value", name)
        return most if tokens is None else tokens


def _facts(request: Request) -> Facts:
    facts: Facts = request.state.facts
    return facts


async def _whole(reply: Reply, channel: Channel, facts: Facts) -> Response:
    """Answer with one object, when everything is generated."""
    while (event := await channel.next()) is not None:
        if isinstance(event, Whole):
            _count(reply, event, facts)
        if isinstance(event, End):
            if event.error is not None:
                raise event.error
            return JSONResponse(reply.whole())
    return _gone(facts)


def _gone(facts: Facts) -> Response:
    facts.status, facts.finish = GONE, "client_gone"
    return Response(status_code=GONE)


async def _stream(reply: Reply, channel: Channel, facts: Facts) -> Response:
    """Answer with server-sent events; a failure before the first token has its own status."""
    first = await channel.next()
    if first is None:
        return _gone(facts)
    if isinstance(first, End) and first.error is not None:
        raise first.error

    async def lines() -> AsyncIterator[str]:
        event: Event | None = first
        ended = False
        for chunk in reply.opening():
            yield _line(chunk)
        try:
            while event is not None and not ended:
                ended = isinstance(event, End)
                for line in _chunks(reply, event, facts):
                    yield line
                event = None if ended else await channel.next()
        finally:
            # Whoever notices first: this loop, or the server, which then cancels it.
            if not ended:
                facts.finish = "client_gone"

    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _chunks(reply: Reply, event: Event, facts: Facts) -> Iterator[str]:
    if isinstance(event, Piece):
        yield from map(_line, reply.piece(event.prompt, event.text))
    elif isinstance(event, Whole):
        _count(reply, event, facts)
        yield from map(_line, reply.finish(event.prompt))
    elif isinstance(event, End) and event.error is not None:
        facts.finish = event.error.code
        yield _line(event.error.body)
    elif isinstance(event, End):
        yield from map(_line, reply.closing())
        yield "data: [DONE]\n\n"


def _count(reply: Reply, event: Whole, facts: Facts) -> None:
    reply.answers[event.prompt] = event.answer
    facts.tokens += event.answer.tokens
    facts.finish = reply.reason(event.prompt)


def _line(content: dict[str, Any]) -> str:
    # ASCII: some clients treat U+2028 as the end of a line.
    return f"data: {json.dumps(content)}\n\n"


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    # /health has no line in the log.
    if hasattr(request.state, "facts"):
        _facts(request).finish = error.code
    return JSONResponse(error.body, error.status, error.headers)


async def _refuse_request(request: Request, error: Exception) -> Response:
    """Answer with the first problem of a body."""
    assert isinstance(error, RequestValidationError)
    problem, place = first_problem(error.errors(), error.body)
    name = problem.get("ctx", {}).get("parameter") or (place[0] if place else None)
    if problem["type"] == "json_invalid":
        refused = Refused(
            400, f"the request is not JSON: {problem['ctx']['error']}", "invalid_json"
        )
    else:
        code = _CODES.get(problem["type"], problem["type"])
        if code not in {*_CODES.values(), "unsupported_parameter"}:
            code = "invalid_value"
        text = "unknown parameter" if code == "unknown_parameter" else problem["msg"]
        where = ".".join(place) or name or "the request"
        refused = Refused(400, f"{where}: {text}", code, name)
    return await _refuse(request, refused)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Refuse an unknown endpoint or method, or a body that is not JSON."""
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is nothing at this path",
        405: f"this path does not support {request.method}",
    }
    message = messages.get(error.status_code, "the request cannot be read as JSON")
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_json")
    return await _refuse(request, Refused(error.status_code, message, code))


async def _fail(request: Request, error: Exception) -> Response:
    """Answer after a bug; the guard logs where."""
    return await _refuse(request, failed())


def build(endpoints: Endpoints, lifespan: Any) -> FastAPI:
    """Build the application, without a guard."""
    # Its pages of documentation would load scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    for path, endpoint, method in (
        ("/v1/chat/completions", endpoints.chat, "POST"),
        ("/v1/completions", endpoints.complete, "POST"),
        ("/v1/classify", endpoints.classify, "POST"),
        ("/v1/models", endpoints.models, "GET"),
        ("/v1/models/{name:path}", endpoints.model, "GET"),
        ("/health", endpoints.health, "GET"),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_request)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(Exception, _fail)
    return app
