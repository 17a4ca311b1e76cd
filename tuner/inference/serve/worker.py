"""The one thread that generates: adapters take turns on the base; only it uses torch's generator.

Each request seeds the generator, so that its samples depend on nothing that ran before.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from tuner.errors import ResourceError
from tuner.inference.labels import probabilities
from tuner.inference.listener import Ending
from tuner.inference.sampling import Sampling
from tuner.inference.serve.events import Channel, End, Labelled, Piece, Whole
from tuner.inference.serve.refusal import Refused, failed, stopping, too_late

if TYPE_CHECKING:
    from tuner.data.classifier import Asked
    from tuner.inference.engine import Inference, Variant


@dataclass(frozen=True, eq=False)
class Queued:
    """What waits for the worker.

    Attributes:
        variant: what answers.
        seconds: how long it may take, queueing included.
        channel: gets the events; `End` is the last and always comes.
        began: when it arrived, by the monotonic clock.
    """

    variant: Variant
    seconds: float
    channel: Channel
    began: float = field(default_factory=time.monotonic, kw_only=True)

    @property
    def late(self) -> bool:
        """Return whether its time is over."""
        return time.monotonic() > self.began + self.seconds


@dataclass(frozen=True, eq=False)
class Job(Queued):
    """A request for answers.

    Attributes:
        prompts: token ids of each.
        max_new_tokens: longest answer in tokens; never beyond the context.
        sampling: how each token is chosen.
        seed: None: a random one.
        words: texts that end an answer.
        strip: whether to strip spaces around an answer.
    """

    prompts: list[list[int]]
    max_new_tokens: int
    sampling: Sampling
    seed: int | None
    words: list[str]
    strip: bool


@dataclass(frozen=True, eq=False)
class LabelJob(Queued):
    """Inputs to classify.

    Attributes:
        inputs: what it reads.
        labels: in the order of the variant's classes.
        threshold: of each of several labels; None: one of them is right.
    """

    inputs: Sequence[Asked]
    labels: Sequence[str]
    threshold: float | None = None


class Worker:
    """Answers jobs in turn, in a separate thread.

    Args:
        model: answers; from `start` on, only this thread may use it.
        failed: called with an unexpected error.
    """

    def __init__(self, model: Inference, failed: Callable[[Exception], None]) -> None:
        self._model = model
        self._failed = failed
        self._jobs: queue.SimpleQueue[Job | LabelJob | None] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether jobs are answered."""
        return self._thread.is_alive()

    def submit(self, job: Job | LabelJob) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def abandon(self) -> None:
        """Give up on everything, after the current token."""
        self._abandoned.set()

    def stop(self, seconds: float) -> None:
        """End the thread when the jobs are answered, and wait this long for it."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                error = self._answer(job)
            except ResourceError as problem:
                message = f"{problem.what}: {problem.why}"
                error = Refused(503, message, "out_of_memory", headers={"x-should-retry": "false"})
            except Exception as problem:
                self._failed(problem)
                error = failed()
            job.channel.put(End(error))

    def _answer(self, job: Job | LabelJob) -> Refused | None:
        def halted() -> bool:
            return job.channel.closed or self._abandoned.is_set() or job.late

        def given_up() -> Refused:
            return stopping() if self._abandoned.is_set() else too_late(job.seconds)

        if isinstance(job, LabelJob):
            return None if self._classify(job, halted) else given_up()
        torch.manual_seed(secrets.randbits(63) if job.seed is None else job.seed)
        for number, prompt in enumerate(job.prompts):
            ending = Ending(job.words, halted, job.strip)
            if halted() or not self._one(job, number, prompt, ending):
                return given_up()
        return None

    def _classify(self, job: LabelJob, halted: Callable[[], bool]) -> bool:
        """Classify the inputs, and return whether all of them are."""
        if halted():
            return False
        found = probabilities(self._model, job.variant, job.labels, job.inputs, job.threshold)
        for number, shares in enumerate(found):
            job.channel.put(Labelled(number, shares))
            if halted() and number + 1 < len(job.inputs):
                return False
        return True

    def _one(self, job: Job, number: int, prompt: list[int], ending: Ending) -> bool:
        """Answer one prompt, and return whether the answer is complete."""
        self._model.use(job.variant.name)
        answer = self._model.answer(
            prompt,
            min(job.max_new_tokens, job.variant.room - len(prompt)),
            job.sampling,
            lambda text: job.channel.put(Piece(number, text)),
            ending=ending,
        )
        if answer.stopped == "halted":
            return False
        job.channel.put(Whole(number, answer))
        return True
