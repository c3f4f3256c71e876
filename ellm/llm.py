"""The Python API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ellm.checkpoint import Checkpoint, open_checkpoint
from ellm.compiled import LONGEST_CHUNK, Options, Source, compile_to_run
from ellm.kernels import isa as isas
from ellm.scheduler import placement
from ellm.serving import speculation
from ellm.serving.bounds import check_seconds, check_whole
from ellm.serving.completion import Completion
from ellm.serving.drafter import Drafter
from ellm.serving.driver import Driver
from ellm.serving.embedding import Embedding, EmbeddingOutput, Embeddings
from ellm.serving.engine import SLOTS, Engine
from ellm.serving.grammars import Grammars
from ellm.serving.identity import identity
from ellm.serving.output import Output
from ellm.serving.policy import Policy, Terms
from ellm.serving.pooling import POOLINGS, PoolingParams, check_pooling
from ellm.serving.prompts import Prompt, Prompts, listed
from ellm.serving.runtime import NoRoom, Runtime
from ellm.serving.sampling import SamplingParams
from ellm.serving.sessions import Sessions
from ellm.serving.sleep import Sleep
from ellm.serving.statistics import Statistics
from ellm.serving.stream import Stream
from ellm.serving.structured import StructuredOutputs
from ellm.system.errors import InputError
from ellm.text.families import Chat
from ellm.text.sampled_turns import SampledTurns
from ellm.text.token_ids import TokenIds
from ellm.text.tool_choice import choose

Message = Mapping[str, Any]
MOST_IDLE = 10**9  # seconds
RANGES = {
    "threads": (None, None),  # the machine and the model bound these two
    "context": (None, None),
    "chunk": (1, LONGEST_CHUNK),
    "max_seqs": (1, 4096),
    "queued_tokens": (1, None),
    "cache_bytes": (0, None),
    "sessions_bytes": (0, None),
}


class LLM:
    """A model on this machine's cores; close it, or use it as a context manager.

    `model` is a folder with config.json, safetensors and a tokenizer, a GGUF file, a file of `ellm pack`, a hub name
    ("org/name") or an alias ("smollm2"). A folder without a tokenizer serves token ids: prompts are lists of ids,
    outputs have no text, and what needs text raises InputError. `threads`: workers, one a core (None: every physical
    core that this process may use, but for those of other ellm processes). `pin`: "auto" pins them to idle cores,
    "none" lets the operating system move them, a list such as "0-3,8" names their cores. `context`: most tokens of a
    sequence (None: all that the model was made for; it costs address space, not memory). `chunk`: most rows in a step
    (None: what suits the model and the machine, 512 or more of many experts).
    `isa`: "amx", "avx512", "avx512f", "avx2" or "portable" (None: $ELLM_ISA, else the best here). `dtype`: "q8" or "q4"
    packs matrices in fewer bits when they are loaded, but for routers, head and embedding; "q4,head=q8" these as well;
    "bf16" expands what is stored in fewer, "bf16-raw" to 16 bits where others would hold the same numbers.
    `activations`: "bf16", "int16" or "int8", what they are rounded to where they meet weights that are whole numbers
    times scales (None: what is faster on this ISA, but never int8).
    `kv`: "bf16" (None), or "int8": keys and values in half the memory, less exact (docs/numerics.md).
    `expanded_prefill`, of a model with latent attention: long prompts are computed with keys and values expanded, which
    is faster, takes more memory, and gives up that a prompt's rows have the bits of decoded or differently cut ones.
    `speculate`: "lookup" drafts the tokens that followed the same ones before, "mtp" those that the model's prediction
    heads foretell, "auto" either, and as many are verified in one step as pay; "off" takes a step for each token. "mtp"
    refuses a model without heads, as both do one whose caches forbid it; heads take memory (docs/models.md), and
    "auto" goes without where there is none for them. Answers are the same, bit for bit.
    `max_seqs`: most requests that are computed at a time. `queued_tokens`: most tokens of prompts that may wait for
    that (None: any number); beyond, a request raises `ellm.Busy`. `target_itl`: seconds that a token of a stream may
    take while prompts are computed beside it (None: twice what it takes alone, or a step of one row block).
    `cache_bytes`: most memory for keys and values that no request uses, for prompts that begin with the same tokens
    (None: as much as is free; it is given back where requests need it; 0: none is kept). Answers are the same.
    `sessions`: a folder where these outlive the process, and `sessions_bytes` most bytes of it (None: half of what is
    free on its disk). What was computed by another model, precision, ISA or build of ellm is not used.
    `pooling`: what embeddings are made of, "last" (the last token's hidden state) or "mean" (of all; None: as the
    checkpoint says, else "last").
    `past_turns`: text of a conversation that this LLM wrote before becomes the tokens that it drew then; without it, a
    conversation's tokens follow from its text alone, whatever was asked before.
    `idle`: seconds without a request after which the weights and all that is kept of prompts are given back; the next
    request waits until they are had again, from the model's files (None: never). Answers are the same.
    `cache`: run the packed form of the model that is kept in ~/.cache/ellm, and make it if it is not there.
    `needs_text`: refuse a model without a tokenizer before its weights are loaded.
    `progress` is called with the bytes loaded so far and in all, and makes a download show a bar.

    May be used from several threads at once: their requests share the steps, which a thread of its own runs. Raises
    InputError for anything that the caller can put right.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        threads: int | None = None,
        pin: str = "auto",
        context: int | None = None,
        chunk: int | None = None,
        isa: str | None = None,
        dtype: str | None = None,
        activations: str | None = None,
        kv: str | None = None,
        expanded_prefill: bool = False,
        speculate: str = speculation.AUTO,
        max_seqs: int = SLOTS,
        queued_tokens: int | None = None,
        target_itl: float | None = None,
        cache_bytes: int | None = None,
        sessions: str | Path | None = None,
        sessions_bytes: int | None = None,
        pooling: str | None = None,
        past_turns: bool = True,
        idle: float | None = None,
        cache: bool = False,
        needs_text: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ):
        check_whole(locals(), RANGES)
        check_seconds("target_itl", target_itl)
        check_seconds("idle", idle, MOST_IDLE)
        if sessions is not None and cache_bytes == 0:
            raise InputError("sessions: they are kept of what is cached, and cache_bytes is 0")
        check_pooling(pooling)
        choice = isas.choose(isa)
        speculation.check(speculate)
        workers = len(placement.check(threads, pin))
        with _open(model, cache, progress, dtype=dtype, expanded_prefill=expanded_prefill) as checkpoint:
            self.tokenizer = checkpoint.tokenizer  # whatever is wrong with it is said before weights are loaded
            if needs_text and isinstance(self.tokenizer, TokenIds):
                raise self.tokenizer.error("prompts are lists of token ids")
            source = Source.of(checkpoint)
            heads = speculation.takes_heads(speculate, source, checkpoint.source)
            options = Options(context, chunk, choice.isa, dtype, activations, kv, expanded_prefill, workers, heads)
            load = partial(Runtime, choice=choice, threads=threads, pin=pin, progress=progress)
            try:
                self.runtime = load(compile_to_run(source, options))
            except NoRoom:
                if not heads or speculate == speculation.MTP:
                    raise
                self.runtime = load(compile_to_run(source, replace(options, drafter=False)))
        self.context, self._pooling = self.runtime.context, pooling
        self._prompts = Prompts(self.tokenizer.encode, self.runtime.program.vocab, self.runtime.compiled)
        chunk = self.runtime.chunk
        try:
            drafter = None if self.runtime.drafter is None else Drafter(self.runtime.drafter, max_seqs)
            self.speculation = speculation.choose(speculate, self.runtime.program, chunk, drafter)
            kept = None if sessions is None else Sessions(Path(sessions), sessions_bytes, identity(self.runtime))
        except BaseException:
            self.runtime.close()
            raise
        self.engine = Engine(
            self.runtime.executables,
            chunk=chunk,
            slots=max_seqs,
            policy=Policy(chunk, isas.ROW_UNIT[choice.isa], target_itl),
            queued_tokens=queued_tokens,
            nodes=self.runtime.nodes,
            speculation=self.speculation.drafts,
            drafter=drafter,
            cache_bytes=self.runtime.cache_bytes if cache_bytes is None else cache_bytes,
            sessions=kept,
        )
        self._turns = SampledTurns(self.tokenizer, self.tokenizer.whole_ids) if past_turns else None
        sleep = None if idle is None else Sleep(self.engine, self.runtime, idle)
        self._driver = Driver(self.engine, self.runtime.close, sleep)
        self._grammars = Grammars(self.tokenizer, self.runtime.program.vocab)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Output]:
        """Continue one or many prompts, each a text or token ids, in one batch. Outputs are in the prompts' order.

        Of a prompt with `n` > 1 there are so many, which follow each other.
        The text of an output goes on where its prompt ends and holds all that was generated, reasoning included.
        Control tokens in a prompt's text are such. Without sampling_params, those of `get_default_sampling_params`.
        """
        return self._outputs(listed(prompts), sampling_params)

    def _outputs(
        self,
        many: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        chat: Chat | None = None,
    ) -> list[Output]:
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            sampling_params = [sampling_params or self.get_default_sampling_params()] * len(many)
        if not isinstance(sampling_params, Sequence):
            raise InputError(f"sampling_params must be SamplingParams or a list of them, not {sampling_params!r}")
        if len(sampling_params) != len(many):
            raise InputError(f"{len(many)} prompts, but {len(sampling_params)} sampling_params")
        terms = Terms(arrived=time.perf_counter())
        completions = []
        for prompt, params in zip(many, sampling_params, strict=True):
            completions += self._completions(prompt, params, terms, chat=chat)
        self._driver.run(completions)
        return [one.output() for one in completions]

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        salt: bytes = b"",
        priority: str = "interactive",
        deadline: float | None = None,
        notify: Callable[[], object] | None = None,
    ) -> Stream:
        """Continue one prompt, as `generate` does, and iterate over the pieces of its text as they come.

        `priority`: "batch" waits for all that is "interactive". `deadline`: seconds from now after which the answer is
        of no use; a request that cannot make it ends with `ellm.Late`. `notify` is called, by the engine's thread and
        for a moment only, when `Stream.poll` has something new; it must not call this LLM. Requests of different `salt`
        share no keys and values, so that none can tell by its speed what others asked.
        """
        options: dict[str, Any] = {"salt": salt, "priority": priority, "deadline": deadline}
        return self.streams(prompt, _of_one(sampling_params), notify=_for_one(notify), **options)[0]

    def streams(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        salt: bytes = b"",
        priority: str = "interactive",
        deadline: float | None = None,
        notify: Callable[[int], object] | None = None,
    ) -> list[Stream]:
        """The `n` answers to one prompt, each as `stream` has it; `notify` is called with the index of one."""
        terms = Terms.of(priority, deadline, time.perf_counter(), paced=priority == "interactive")
        params = sampling_params or self.get_default_sampling_params()
        return self._streams(self._completions(prompt, params, terms, salt=salt), notify)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Any] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        tool_parser: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        parse_special: bool = False,
    ) -> list[Output]:
        """Answer one or many conversations ([{"role": ..., "content": ...}, ...]) through the model's chat template.

        An output's `text` is the answer, its `reasoning` what the model thought before, its `tool_calls` what it wants
        of `tools` (JSON schemas, as in the OpenAI API); `message` is for the next turn. `tool_choice`: "auto", "none",
        which is as if there were no tools, "required", or {"type": "function", "function": {"name": ...}}, with which
        the answer has to be calls, or one of this tool: it is held to a grammar of them. `tool_parser`: the family
        whose form the calls have, by vLLM's name for it (None: that of the chat template; see docs/prompts.md).
        `chat_template_kwargs` are variables of the template, such as {"enable_thinking": False}. Control tokens in
        messages are text, unless `parse_special`. See `Tokenizer.render` and `Tokenizer.chat`.
        """
        if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
            raise InputError(f"messages must be a list of messages, or a list of such lists, not {messages!r}")
        conversations: Sequence[Any] = [messages] if isinstance(messages[0], Mapping) else messages
        if not all(conversations):
            raise InputError("a conversation must have a message at least")
        chat = choose(tools, tool_choice, tool_parser)
        options: dict[str, Any] = {"chat_template_kwargs": chat_template_kwargs, "parse_special": parse_special}
        prompts = [self._prompt(one, chat, **options) for one in conversations]
        if chat.must_call:
            given = sampling_params or self.get_default_sampling_params()
            many = [given] * len(prompts) if isinstance(given, SamplingParams) else given
            sampling_params = [self._bound(one, chat) for one in many]
        return self._outputs(prompts, sampling_params, chat)

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        salt: bytes = b"",
        priority: str = "interactive",
        deadline: float | None = None,
        notify: Callable[[], object] | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        tool_parser: str | None = None,
        **template: Any,
    ) -> Stream:
        """Answer one conversation, as `chat` does, and iterate over the pieces of the answer as they come.

        `Stream.pieces` has those of the reasoning and of calls too. `template`: arguments of `Tokenizer.chat`. Others:
        see `stream` and `chat`.
        """
        options: dict[str, Any] = {"salt": salt, "priority": priority, "deadline": deadline, **template}
        options |= {"tools": tools, "tool_choice": tool_choice, "tool_parser": tool_parser}
        return self.streams_chat(messages, _of_one(sampling_params), notify=_for_one(notify), **options)[0]

    def streams_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        salt: bytes = b"",
        priority: str = "interactive",
        deadline: float | None = None,
        notify: Callable[[int], object] | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        tool_parser: str | None = None,
        **template: Any,
    ) -> list[Stream]:
        """The `n` answers to one conversation, each as `stream_chat` has it; `notify` is as of `streams`."""
        terms = Terms.of(priority, deadline, time.perf_counter(), paced=priority == "interactive")
        chat = choose(tools, tool_choice, tool_parser)
        prompt = self._prompt(messages, chat, salt, **template)
        params = sampling_params or self.get_default_sampling_params()
        if chat.must_call:
            params = self._bound(params, chat)
        return self._streams(self._completions(prompt, params, terms, chat, salt), notify)

    def get_default_sampling_params(self) -> SamplingParams:
        """How the model asks to be sampled (generation_config.json, or general.sampling of a GGUF file).

        Requests without SamplingParams are; SamplingParams that are given count as they are, with their own defaults.
        """
        return SamplingParams(**self.runtime.sampling.fields)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], pooling_params: PoolingParams | None = None
    ) -> list[EmbeddingOutput]:
        """Embed one or many prompts, each a text or token ids, in one batch. Outputs are in the prompts' order.

        An embedding is the final hidden state of the last token, or the mean of all, after the final norm, see
        `pooling`; of a text the tokenizer adds what the model expects behind it, which may be its last token. No prompt
        is cut: one that is longer than the context raises InputError.
        """
        entries = self._embeddings(prompts, pooling_params, Terms(arrived=time.perf_counter()))
        self._driver.run(entries)
        return [one.output() for one in entries]

    def embeddings(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: PoolingParams | None = None,
        *,
        notify: Callable[[], object],
        salt: bytes = b"",
        priority: str = "interactive",
        deadline: float | None = None,
    ) -> Embeddings:
        """Begin to embed prompts, as `embed` does; `Embeddings.poll` has them. For the other arguments see `stream`."""
        terms = Terms.of(priority, deadline, time.perf_counter())
        return Embeddings(self._driver, self._embeddings(prompts, pooling_params, terms, salt), notify)

    @property
    def embedding_width(self) -> int:
        """How many numbers an embedding has, unless fewer are asked for. Raises InputError if the model has none."""
        hidden = self.runtime.program.hidden
        if hidden is None:
            raise InputError(f"{self.runtime.checkpoint.source}: the model's head reads no rows that can be embeddings")
        return hidden.width

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """The logits after each of the tokens, teacher-forced: float32 [T, vocab]."""
        self._check_head()
        return self._driver.logits(self._prompts.tokens(token_ids))

    def logits_by_step(self, token_ids: Sequence[int] | np.ndarray, first: int = 0) -> Iterator[np.ndarray]:
        """The same from position `first` on, of one step after the other, each float32 [n, vocab]."""
        self._check_head()
        return self._driver.logits_by_step(self._prompts.tokens(token_ids), first)

    def statistics(self) -> Statistics:
        """What is waited for and computed now, and was so far."""
        return self.engine.statistics()

    def close(self) -> None:
        """End what is under way, with the step that runs, and free everything. Later calls raise InputError."""
        self._driver.close()

    def arriving(self) -> AbstractContextManager[None]:
        """While a request is read that is to be a stream: those before it wait a moment for it if nothing runs."""
        return self._driver.arriving()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _streams(self, completions: list[Completion], notify: Callable[[int], object] | None) -> list[Stream]:
        bells = [None if notify is None else partial(notify, index) for index in range(len(completions))]
        streams = [Stream(self._driver, *pair) for pair in zip(completions, bells, strict=True)]
        self._driver.submit(completions)
        return streams

    def _prompt(self, messages: Sequence[Message], chat: Chat, salt: bytes = b"", **template: Any) -> list[int]:
        """A conversation as tokens: of past turns those that this model drew. Raises InputError for useless tools."""
        prompt = self.tokenizer.chat(messages, tools=chat.tools or None, **template)
        if chat.tools and not self.tokenizer.takes_tools(chat.tool_parser):
            raise InputError(f"tools: {self.tokenizer.source}: chat_template does not read them")
        return prompt if self._turns is None else self._turns.restore(prompt, _checked(salt))

    def _bound(self, params: SamplingParams, chat: Chat) -> SamplingParams:
        """The same, for an answer that has to be calls."""
        if params.structured_outputs is not None:
            raise InputError("structured_outputs and a tool_choice that demands calls exclude each other")
        return replace(params, structured_outputs=StructuredOutputs(grammar=self.tokenizer.call_grammar(chat)))

    def _completions(
        self,
        prompt: Prompt,
        params: SamplingParams,
        terms: Terms,
        chat: Chat | None = None,
        salt: bytes = b"",
    ) -> list[Completion]:
        """The `n` answers to a prompt."""
        if not isinstance(params, SamplingParams):
            raise InputError(f"sampling_params must be SamplingParams, not {params!r}")
        self._check_head()
        if params.stops and isinstance(self.tokenizer, TokenIds):
            raise self.tokenizer.error("there is no text to find stop strings in")
        tokens = self._prompts.tokens(prompt)
        self._prompts.check_ids(np.asarray(params.stop_token_ids or [], object), "stop_token_ids: ")
        self._prompts.check_ids(np.asarray([*(params.logit_bias or ())], object), "logit_bias: ")
        if params.likely > self.runtime.program.vocab:
            raise InputError(f"logprobs: {params.likely} of a vocabulary of {self.runtime.program.vocab} tokens")
        wanted = params.structured_outputs
        matchers = [None if wanted is None else self._grammars.matcher(wanted) for _ in range(params.n)]
        completions = [
            Completion(tokens, one, self.context, self.tokenizer, chat, _checked(salt), matcher, index)
            for index, (one, matcher) in enumerate(zip(params.each(), matchers, strict=True))
        ]
        for one in completions:
            one.sequence.terms = terms
            if chat is not None and self._turns is not None:
                one.remember = partial(self._turns.add, salt=salt)
        return completions

    def _embeddings(
        self, prompts: Prompt | Sequence[Prompt], params: PoolingParams | None, terms: Terms, salt: bytes = b""
    ) -> list[Embedding]:
        form = self._form(params or PoolingParams())
        many, entries = listed(prompts), []
        for number, prompt in enumerate(many):
            try:
                tokens = self._prompts.tokens(prompt)
            except InputError as error:
                where = f", prompt {number + 1} of {len(many)}" if len(many) > 1 else ""
                raise type(error)(f"{error}{where}") from error
            entry = Embedding(tokens, *form, self.context, _checked(salt))
            entry.sequence.terms = terms
            entries.append(entry)
        return entries

    def _form(self, params: PoolingParams) -> tuple[str, int | None, bool]:
        """Of what, of how many numbers and whether of length 1 embeddings are. Raises InputError if that cannot be."""
        if not isinstance(params, PoolingParams):
            raise InputError(f"pooling_params must be PoolingParams, not {params!r}")
        checkpoint, width = self.runtime.checkpoint, self.embedding_width
        if params.dimensions is not None and params.dimensions > width:
            raise InputError(f"dimensions is {params.dimensions}, the model's embeddings have {width}")
        stored = checkpoint.pooling
        if stored.module:
            raise InputError(f"{checkpoint.source}: its embeddings need {stored.module}, which ellm does not compute")
        pooling = self._pooling or stored.kind or POOLINGS[0]
        if pooling not in POOLINGS:
            raise InputError(f"{checkpoint.source}: pooling is {pooling!r}, ellm has {' and '.join(POOLINGS)}")
        return pooling, params.dimensions, stored.normalize if params.normalize is None else params.normalize

    def _check_head(self) -> None:
        if self.runtime.checkpoint.headless:
            raise InputError(f"{self.runtime.checkpoint.source}: a model without its head can embed, but not write")


def _open(model: str | Path, cache: bool, progress: Callable[[int, int], None] | None, **packing: Any) -> Checkpoint:
    if not cache:
        return open_checkpoint(model, progress=progress)
    from ellm.pack_cache import open_cached  # what packs is imported where something is packed

    return open_cached(model, progress=progress, **packing)


def _of_one(params: SamplingParams | None) -> SamplingParams | None:
    """The parameters of one answer."""
    if isinstance(params, SamplingParams) and params.n > 1:
        raise InputError(f"a stream has one answer, n is {params.n}: LLM.streams and LLM.streams_chat have several")
    return params


def _for_one(notify: Callable[[], object] | None) -> Callable[[int], object] | None:
    return None if notify is None else lambda _: notify()


def _checked(salt: bytes) -> bytes:
    if not isinstance(salt, bytes):
        raise InputError(f"salt must be bytes, not {type(salt).__name__}")
    return salt
