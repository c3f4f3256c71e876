"""`/api/chat` and `/api/generate`: Ollama's requests, whose answers come as lines of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.server.messages import Name
from ellm.server.replies import Events
from ellm.server.sampling_fields import MinP, Penalty, Presence, Seed, StopText, Temperature, TopK, TopP, sampling
from ellm.server.service import Call
from ellm.server.template_fields import thinking_variables, variables
from ellm.server.tools import Tools, offered
from ellm.server.validation import Body, Record, left_out, only
from ellm.serving.output import Output, ToolCall
from ellm.serving.sampling import SamplingParams
from ellm.serving.structured import StructuredOutputs
from ellm.text.piece import Piece

LINES = "application/x-ndjson"

KeepAlive = int | float | Annotated[str, Field(max_length=32)]
Effort = Literal["low", "medium", "high"]


class Options(Body):
    """How to choose tokens. Those that only say how Ollama is to run a model change nothing here."""

    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_predict: Annotated[int, Field(ge=-2, lt=1 << 31)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repeat_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=bounds.STOPS)] | None = None
    presence_penalty: Presence | None = None
    frequency_penalty: Presence | None = None
    repeat_last_n: only(None, -1) = None  # type: ignore[valid-type]
    typical_p: only(None, 1) = None  # type: ignore[valid-type]
    tfs_z: only(None, 1) = None  # type: ignore[valid-type]
    mirostat: only(None, 0) = None  # type: ignore[valid-type]
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    penalize_newline: only(None, True) = None  # type: ignore[valid-type]
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    low_vram: bool | None = None
    numa: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None


class OllamaRequest(Body):
    """What both have."""

    renamed: ClassVar = {"structured_outputs": "format", "reasoning_effort": "think"}

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    stream: bool | None = None
    options: Options | None = None
    think: bool | Effort | None = None
    keep_alive: KeepAlive | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    logprobs: only(None, False) = None  # type: ignore[valid-type]
    top_logprobs: only(None, 0) = None  # type: ignore[valid-type]

    @property
    def structured(self) -> StructuredOutputs | None:
        """What `format` asks for."""
        if not self.format:
            return None
        return StructuredOutputs(json={"type": "object"} if self.format == "json" else self.format)

    def params(self, call: Call) -> SamplingParams:
        """With the model's own defaults. Raises ApiError if more context is wanted than there is."""
        options = self.options or Options()
        check_context(call, options)
        most = options.num_predict
        if most == 0:
            raise ApiError(400, "options.num_predict must be at least 1, or -1, not 0")
        return sampling(
            call.service.defaults,
            None if most is None or most < 0 else most,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            repeat_penalty=options.repeat_penalty,
            seed=options.seed,
            stop=options.stop,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            structured_outputs=self.structured,
        )

    def variables(self, call: Call) -> dict[str, Any] | None:
        """Those of the chat template. Raises InputError if thinking is wanted of one without a switch."""
        if isinstance(self.think, str):
            return variables(call.service.llm.tokenizer, None, self.think)
        if self.think:
            return call.service.llm.tokenizer.thinking(True)
        return None if self.think is None else thinking_variables(call.service.llm.tokenizer, False) or None


class OllamaFunction(Body):
    """A function and its arguments."""

    name: Name
    arguments: dict[str, Any]
    index: int | None = None


class OllamaToolCall(Body):
    """A call that the assistant made."""

    id: Name | None = None
    type: Literal["function"] | None = None
    function: OllamaFunction


class OllamaMessage(Body):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[OllamaToolCall], Field(max_length=bounds.TOOLS)] | None = None
    tool_name: Name | None = None
    tool_call_id: Name | None = None
    images: only(None, []) = None  # type: ignore[valid-type]


class OllamaChatRequest(OllamaRequest):
    """A conversation to go on with."""

    renamed: ClassVar = {**OllamaRequest.renamed, "prompt": "messages"}

    messages: Annotated[list[OllamaMessage], Field(max_length=bounds.MESSAGES)]
    tools: Tools | None = None


class GenerateRequest(OllamaRequest):
    """A prompt, which is a message unless it is `raw`."""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    suffix: only(None, "") = None  # type: ignore[valid-type]
    template: only(None, "") = None  # type: ignore[valid-type]
    context: only(None, []) = None  # type: ignore[valid-type]
    images: only(None, []) = None  # type: ignore[valid-type]


class AnswerFunction(Record):
    """A function and its arguments."""

    index: int
    name: str
    arguments: dict[str, Any]


class AnswerCall(Record):
    """A call that the model wants."""

    id: str
    function: AnswerFunction


class OllamaAnswer(Record):
    """What is new of a message, or all of it."""

    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | None = left_out()
    tool_calls: list[AnswerCall] | None = left_out()


class Line(Record):
    """What lines of both replies have; the counts and nanoseconds are in the last one."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = left_out()
    total_duration: int | None = left_out()
    load_duration: int | None = left_out()
    prompt_eval_count: int | None = left_out()
    prompt_eval_duration: int | None = left_out()
    eval_count: int | None = left_out()
    eval_duration: int | None = left_out()


class ChatLine(Line):
    """A line of `/api/chat`."""

    message: OllamaAnswer


class GenerateLine(Line):
    """A line of `/api/generate`."""

    response: str
    thinking: str | None = left_out()


def check_context(call: Call, options: Options) -> None:
    """Raises ApiError if more context is wanted than there is."""
    wanted, context = options.num_ctx, call.service.llm.context
    if wanted is not None and wanted > context:
        raise ApiError(400, f"options.num_ctx is {wanted}, the context has {context}")


async def ollama_chat(call: Call, request: OllamaChatRequest) -> ChatLine | Events:
    """Answer a conversation."""
    begun = time.perf_counter_ns()
    call.service.check_name(request.model)

    def line(text: str, thought: str | None, done: bool, calls: Sequence[ToolCall] = (), **fields: Any) -> ChatLine:
        answer = OllamaAnswer(content=text, thinking=thought, tool_calls=_calls(calls) or None)
        return ChatLine(model=request.model, created_at=now(), message=answer, done=done, **fields)

    if not request.messages:
        return line("", None, True, done_reason="load")
    params, template = request.params(call), request.variables(call)
    messages, tools = _conversation(request.messages), offered(request.tools)
    return await _reply(await call.chat(messages, params, template, tools=tools), line, request, begun)


async def generate(call: Call, request: GenerateRequest) -> GenerateLine | Events:
    """Answer a prompt, or continue it as it is if it is raw."""
    begun = time.perf_counter_ns()
    call.service.check_name(request.model)

    def line(text: str, thought: str | None, done: bool, **fields: Any) -> GenerateLine:
        return GenerateLine(model=request.model, created_at=now(), response=text, thinking=thought, done=done, **fields)

    if not request.prompt:
        return line("", None, True, done_reason="load")
    params, template = request.params(call), request.variables(call)
    if request.raw:
        if request.system or request.think is not None:
            raise ApiError(400, "system and think need the chat template, which raw leaves out", param="raw")
        return await _reply(await call.continuation(request.prompt, params), line, request, begun)
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": request.prompt})
    return await _reply(await call.chat(messages, params, template), line, request, begun)


async def _reply(answers: list[Answer], line: Any, request: OllamaRequest, begun: int) -> Any:
    (answer,) = answers
    if request.stream is not False:
        return _Lines(answer, line, begun)
    output = await answer.whole()
    calls = {"calls": answer.calls} if answer.calls else {}
    return line(output.text, output.reasoning, True, **calls, **_figures(output, begun))


class _Lines(Events):
    """The lines of a streamed answer."""

    media_type = LINES

    def __init__(self, answer: Answer, line: Any, begun: int):
        super().__init__([answer])
        self._line, self._begun = line, begun
        self.idle = _encoded(line("", None, False))

    def more(self, index: int, piece: Piece) -> bytes:
        if piece.kind == "tool":  # they are sent whole, as their arguments are objects
            return b""
        text, thought = (piece.text, None) if piece.kind == "answer" else ("", piece.text)
        return _encoded(self._line(text, thought, False))

    def end(self, index: int) -> bytes:
        answer = self.answers[index]
        calls = _encoded(self._line("", None, False, answer.calls)) if answer.calls else b""
        return calls + _encoded(self._line("", None, True, **_figures(answer.output, self._begun)))

    def failure(self, error: ApiError) -> bytes:
        return json.dumps(error.ollama()).encode() + b"\n"


def _calls(calls: Sequence[ToolCall]) -> list[AnswerCall]:
    return [
        AnswerCall(id=id, function=AnswerFunction(index=index, name=name, arguments=json.loads(arguments)))
        for index, (id, name, arguments) in enumerate(calls)
    ]


def _figures(output: Output, begun: int) -> dict[str, Any]:
    return {
        "done_reason": "length" if output.finish_reason == "length" else "stop",
        "total_duration": time.perf_counter_ns() - begun,
        "load_duration": 0,
        "prompt_eval_count": len(output.prompt_token_ids),
        "prompt_eval_duration": int(output.metrics.prefill_seconds * 1e9),
        "eval_count": len(output.token_ids),
        "eval_duration": int(output.metrics.decode_seconds * 1e9),
    }


def _conversation(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """In the form of `LLM.chat`."""
    found = []
    for message in messages:
        plain = message.model_dump(exclude_none=True)
        plain.setdefault("content", "")
        if "thinking" in plain:
            plain["reasoning_content"] = plain["thinking"]
        if "tool_name" in plain:
            plain["name"] = plain.pop("tool_name")
        found.append(plain)
    return found


def _encoded(line: Line) -> bytes:
    return line.model_dump_json().encode() + b"\n"


def now() -> str:
    """The time of day, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
