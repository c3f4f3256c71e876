"""The model behind the endpoints: admits requests, and turns them into answers off the event loop."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ellm.llm import LLM
from ellm.server.answer import Answer
from ellm.server.bounds import Bounds
from ellm.server.errors import ApiError, internal
from ellm.server.metrics import Metrics
from ellm.server.news import Bell, News
from ellm.server.validation import Body
from ellm.serving.constraint import Unfollowable
from ellm.serving.embedding import EmbeddingOutput, Embeddings
from ellm.serving.pooling import PoolingParams
from ellm.serving.prompts import Prompt
from ellm.serving.refusals import Busy
from ellm.serving.sampling import SamplingParams
from ellm.serving.status import Status
from ellm.serving.stream import Stream
from ellm.system.errors import InputError, PromptError, PromptTooLong
from ellm.text import families
from ellm.text.vocabulary_bytes import TokenBytes

_TEXT_THREADS = 4  # that tokenise and wait for templates: the tokenizer gives the interpreter up while it works
_RETRY_SECONDS = 1
_THINKING = ("enable_thinking", "thinking", "reasoning_effort")  # variables by which templates switch it

_NOT_OF_A_NAME = re.compile(r"\W")

T = TypeVar("T")


def new_id() -> str:
    """What names one request."""
    return secrets.token_hex(12)


def check_tool_parser(name: str) -> None:
    """Raises InputError if no form of calls of tools has that name."""
    families.named(name)


class Service:
    """One model under its names, whose requests have this `priority` (see `LLM.stream`). Belongs to an event loop."""

    def __init__(
        self,
        llm: LLM,
        names: Sequence[str],
        bounds: Bounds | None = None,
        tool_parser: str | None = None,
        priority: str = "interactive",
    ):
        self.llm, self.names, self.tool_parser, self.priority = llm, names, tool_parser, priority
        self.bounds = bounds or Bounds.of(llm.context)
        self.metrics = Metrics(names[0], llm.statistics)
        self.defaults = llm.get_default_sampling_params()
        self.created = int(time.time())
        self.draining = False
        self.under_way = 0
        self.on_idle: Callable[[], None] = lambda: None
        self.body_bytes = 0  # being received
        self.status = Status(llm.runtime)
        self.bell = Bell()
        tokenizer = llm.tokenizer  # its template is compiled now: later that would keep the event loop waiting
        self.thinks = tokenizer.has_chat_template and any(map(tokenizer.reads, _THINKING))
        self.takes_tools = tokenizer.has_chat_template and tokenizer.takes_tools(tool_parser)
        self.token_bytes = TokenBytes(tokenizer.backend)
        self._texts = ThreadPoolExecutor(_TEXT_THREADS, "ellm-text")

    def check_name(self, name: str) -> None:
        """Raises ApiError 404 unless it is one of the model's."""
        if name not in self.names and name.removesuffix(":latest") not in self.names:
            raise ApiError(
                404,
                f"there is no model {name[:200]!r}, this server has {', '.join(self.names)}",
                param="model",
                code="model_not_found",
            )

    def token_text(self, token: int) -> str:
        """The text of one token, as log probabilities name it; its number where it is a part of a character."""
        try:
            return self.token_bytes.of(token).decode()
        except UnicodeDecodeError:
            return f"token_id:{token}"

    def drain(self) -> None:
        """Take no more requests; `on_idle` is called when those under way have ended."""
        self.draining = True
        if not self.under_way:
            self.on_idle()

    def close(self) -> None:
        """End what is under way."""
        self._texts.shutdown(wait=False, cancel_futures=True)

    async def off_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what takes time or waits in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._texts, work, *arguments)

    def refusal(self, error: InputError, request: Body | None = None) -> ApiError:
        """What a client is told of a request that is not taken: by the names of its fields."""
        if isinstance(error, Busy):
            return ApiError(429, error, code="queue_full", retry_after=error.retry_after)
        code = "context_length_exceeded" if isinstance(error, PromptTooLong) else "invalid_value"
        message = self._told(error)
        if request is None:
            return ApiError(400, message, code=code)
        if isinstance(error, PromptError):
            return ApiError(400, message, param=request.field_of("prompt"), code=code)
        argument = _NOT_OF_A_NAME.split(str(error), 1)[0]  # the Python API says first which one is wrong
        param = request.field_of(argument)
        return ApiError(400, message if param is None else param + message[len(argument) :], param=param, code=code)

    def failure(self, error: Exception) -> ApiError:
        """What a client is told of a request that failed on its way."""
        if isinstance(error, Unfollowable):
            return ApiError(400, error, code="invalid_value")
        if isinstance(error, InputError):  # no memory for this sequence, or the model is broken
            return ApiError(503, self._told(error), code="generation_failed")
        return internal(error)

    def _told(self, error: InputError) -> str:
        """By the model's name, not by where its files are."""
        return str(error).replace(self.llm.tokenizer.source, self.names[0])


class Call:
    """One request of a client: what it holds is freed by `close`, however it ends.

    `salt` is that of its key: what one key asked is not seen by how fast another is answered.
    """

    def __init__(self, service: Service, salt: bytes = b""):
        self.service, self._salt = service, salt
        self.id = new_id()
        self._news = News(service.bell)
        self._answers: list[Answer] = []
        self._embeddings: Embeddings | None = None
        self._admitted = False

    def admit(self) -> None:
        """Count as a request to the model. Raises ApiError 429 if there are too many, 503 while draining."""
        service = self.service
        if service.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after=_RETRY_SECONDS)
        most = service.bounds.requests
        if service.under_way >= most:
            raise ApiError(
                429,
                f"{service.under_way} requests are under way, at most {most} may be",
                code="queue_full",
                retry_after=_RETRY_SECONDS,
            )
        self._admitted = True
        service.under_way += 1

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        template: Mapping[str, Any] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        most_calls: int | None = None,
    ) -> list[Answer]:
        """Begin the answers to a conversation, of which `params` say how many. Raises InputError if it is refused."""
        llm, salt = self.service.llm, self._salt

        def begin(notify: Callable[[int], None]) -> list[Stream]:
            return llm.streams_chat(
                messages,
                params,
                salt=salt,
                priority=self.service.priority,
                notify=notify,
                tools=tools,
                tool_choice=tool_choice,
                tool_parser=self.service.tool_parser,
                chat_template_kwargs=template,
            )

        return await self._begin(begin, most_calls)

    async def continuation(self, prompt: str | Sequence[int], params: SamplingParams) -> list[Answer]:
        """Begin to continue a text, whose control tokens are such, or token ids. Raises InputError if it is refused."""
        llm, salt, priority = self.service.llm, self._salt, self.service.priority

        def begin(notify: Callable[[int], None]) -> list[Stream]:
            return llm.streams(prompt, params, salt=salt, priority=priority, notify=notify)

        return await self._begin(begin)

    async def embed(self, prompts: Prompt | Sequence[Prompt], params: PoolingParams) -> list[EmbeddingOutput]:
        """The embeddings of texts, whose control tokens are such, or token ids. Raises as `continuation` does."""
        service, begun, news = self.service, time.perf_counter(), self._news

        def begin() -> Embeddings:
            return service.llm.embeddings(prompts, params, salt=self._salt, priority=service.priority, notify=news.ring)

        self._embeddings = await service.off_loop(begin)
        try:
            while (outputs := self._embeddings.poll()) is None:
                await news.wait()
        except Exception as error:
            raise service.failure(error) from error
        for output in outputs:
            service.metrics.embedded(output, time.perf_counter() - begun)
        return outputs

    def close(self) -> None:
        """End what is still under way, and free it."""
        for answer in self._answers:
            answer.close()
        if self._embeddings is not None:
            self._embeddings.close()
        if not self._admitted:
            return
        service, self._admitted = self.service, False
        service.under_way -= 1
        if service.draining and not service.under_way:
            service.on_idle()

    async def _begin(
        self, begin: Callable[[Callable[[int], None]], list[Stream]], most_calls: int | None = None
    ) -> list[Answer]:
        service, news = self.service, self._news
        with service.llm.arriving():
            streams = await service.off_loop(begin, lambda _: news.ring())
        answers = [Answer(stream, news, service.metrics, service.failure, most_calls) for stream in streams]
        self._answers += answers
        return answers
