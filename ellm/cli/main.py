"""The commands and their options; what they do is in the module of the same name.

Text goes to stdout, everything else to stderr. Exit codes: 0, 2 for bad input, 1 for an internal error or a reader
that has left, 3 for a batch with lines that could not be answered, 130 for Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from ellm import __version__
from ellm.system.errors import InputError, printable

app = typer.Typer(
    name="ellm",
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_INTERRUPTED = 130
_WITH_ERRORS = 3
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UsageError: type[typer.BadParameter] = typer.BadParameter.__base__  # type: ignore[assignment]  # typer exports only its subclass

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A folder, a GGUF or packed file, a hub name (org/name) or an alias (smollm2)."
    ),
]
CacheOption = Annotated[
    bool, typer.Option("--cache", help="Keep the model packed in ~/.cache/ellm: later starts are faster.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        help="Workers, one a core.", show_default="every core that this process may use and no other ellm does"
    ),
]
PinOption = Annotated[
    str,
    typer.Option(
        metavar="auto|none|LIST", help="The workers' cores: idle ones, none in particular, or a list such as 0-3,8."
    ),
]
IsaOption = Annotated[
    str | None,
    typer.Option(help="amx, avx512, avx512f, avx2 or portable.", show_default="$ELLM_ISA, else the best here"),
]
ContextOption = Annotated[
    int | None, typer.Option(help="Most tokens of a conversation.", show_default="what the model was made for")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="q8|q4|bf16|bf16-raw[,head=q8|q4]",
        help="Pack matrices in fewer bits; head and embedding only if asked. bf16-raw: 16 where 12 hold the same.",
        show_default="as stored",
    ),
]
ActivationsOption = Annotated[
    str | None,
    typer.Option(
        metavar="bf16|int16|int8",
        help="What activations are rounded to where they meet weights that are whole numbers times scales.",
        show_default="what is faster here, never int8",
    ),
]
KvOption = Annotated[
    str | None,
    typer.Option(
        metavar="bf16|int8",
        help="What keys and values are kept in: int8 takes half the memory and is less exact.",
        show_default="bf16",
    ),
]
ExpandedOption = Annotated[
    bool,
    typer.Option(
        "--expanded-prefill",
        help="Expand latent attention (DeepSeek) for long prompts: faster, but not bitwise equal to decoding.",
    ),
]
SpeculateOption = Annotated[
    str,
    typer.Option(
        metavar="auto|lookup|mtp|off",
        help="Draft tokens that followed the same ones before (lookup), or by the model's prediction heads (mtp), and "
        "verify several in one step, where that pays; answers are the same.",
    ),
]

_ENGINE = frozenset(
    ("context", "threads", "pin", "isa", "dtype", "activations", "kv", "expanded_prefill", "speculate", "cache")
)


def _engine_options(given: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that say how a model runs, by the names that `LLM` has for them."""
    return {name: value for name, value in given.items() if name in _ENGINE}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ellm {__version__}")
        raise typer.Exit()


@app.callback()
def _ellm(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Runs big language models on one CPU server."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A folder, a GGUF or packed file, a hub name or an alias.", show_default="smollm2"
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="The question; - reads it from stdin.", show_default="chat in a terminal, else stdin"
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt itself, without a chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer.", show_default="until it ends or the context is full")
    ] = None,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Whether to think first.", show_default="as the chat template has it"),
    ] = None,
    template_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A variable of the chat template, as JSON or text; may be repeated."),
    ] = None,
    special: Annotated[
        bool, typer.Option("--special", help="Let control tokens in messages be such; without it they are text.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most likely token each time.", show_default="the model's, else 0")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the most likely tokens that reach this sum.", show_default="the model's, else 1"
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Sample from the k most likely tokens; 0: all.", show_default="the model's, else 0"),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Drop tokens less likely than this, relative to the best.", show_default="the model's, else 0"
        ),
    ] = None,
    repeat_penalty: Annotated[
        float | None,
        typer.Option(help="Above 1: make tokens that were seen less likely.", show_default="the model's, else 1"),
    ] = None,
    presence_penalty: Annotated[
        float | None,
        typer.Option(help="Above 0: make tokens that the answer has less likely.", show_default="the model's, else 0"),
    ] = None,
    frequency_penalty: Annotated[
        float | None,
        typer.Option(help="The same, for each time that it has them.", show_default="the model's, else 0"),
    ] = None,
    json_schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="A JSON schema that the answer keeps to.")
    ] = None,
    grammar: Annotated[
        str | None, typer.Option(metavar="FILE", help="A grammar that it keeps to, GBNF or Lark.")
    ] = None,
    regex: Annotated[str | None, typer.Option(metavar="TEXT", help="An expression that all of it matches.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.", show_default="another one each time")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Ends the answer, also as a special token; may be repeated."),
    ] = None,
    dtype: DtypeOption = None,
    activations: ActivationsOption = None,
    kv: KvOption = None,
    context: ContextOption = None,
    threads: ThreadsOption = None,
    pin: PinOption = "auto",
    isa: IsaOption = None,
    expanded_prefill: ExpandedOption = False,
    speculate: SpeculateOption = "auto",
    cache: CacheOption = False,
    stats: Annotated[bool, typer.Option("--stats", help="Say how fast it was, beside this machine's limits.")] = False,
) -> None:
    """Answer PROMPT, or chat in the terminal. A lone argument is the MODEL."""
    from ellm.cli import run as command
    from ellm.cli.structured_options import structured_outputs
    from ellm.cli.template_options import TemplateOptions, parse_arguments

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "structured_outputs": structured_outputs(json_schema, grammar, regex),
        "max_tokens": max_tokens,
        "stop": stop,
        "seed": seed,
    }
    template = TemplateOptions(think, parse_arguments(template_arg or []), special)
    options = _engine_options(locals())
    command.run(model, prompt, sampling, template, raw=raw, system=system, stats=stats, options=options)


@app.command()
def batch(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] IN OUT",
            help="The model, the requests, and the file for the answers.",
            show_default="the MODEL that IN names, else smollm2",
        ),
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompts of plain lines, without a chat template.")
    ] = False,
    dtype: DtypeOption = None,
    activations: ActivationsOption = None,
    kv: KvOption = None,
    context: ContextOption = None,
    threads: ThreadsOption = None,
    pin: PinOption = "auto",
    isa: IsaOption = None,
    expanded_prefill: ExpandedOption = False,
    speculate: SpeculateOption = "auto",
    cache: CacheOption = False,
) -> None:
    """Answer the requests in IN, many at a time, into OUT; run again after an interruption, it goes on.

    A line of IN is a request of OpenAI's batch format, or {"prompt": ..., "document": "path of a text to go before it",
    ...} with sampling fields. OUT has a line for each, in the same order, as in OpenAI's batch output. Exit code 3:
    some lines are errors.
    """
    try:
        from ellm.cli import batch as command
    except ImportError as error:
        raise InputError(f"ellm batch needs more packages: pip install 'ellm[serve]' ({error})") from error

    if len(files) not in (2, 3):
        raise InputError(f"batch takes [MODEL] IN OUT, not {len(files)} arguments")
    options = _engine_options(locals())
    whole = command.batch(files[0] if len(files) == 3 else None, *files[-2:], raw=raw, options=options)
    if not whole:
        raise typer.Exit(_WITH_ERRORS)


@app.command()
def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 or :: on every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="What requests must send; may be repeated.", show_default="$ELLM_API_KEY, else none"
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="What requests call the model; may be repeated.", show_default="MODEL without folders"
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A Host that requests may have; may be repeated. *: any.",
            show_default="addresses, localhost and this machine's name",
        ),
    ] = None,
    max_seqs: Annotated[int, typer.Option(help="Most requests that are computed at a time; others wait.")] = 64,
    queued_tokens: Annotated[
        int, typer.Option(help="Most tokens of prompts that wait; who comes then is told to come back.")
    ] = 1 << 18,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            help="Most memory for keys and values of prompts that may come again; 0: none.",
            show_default="as much as is free",
        ),
    ] = None,
    sessions: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="A folder where those keys and values outlive the process.", show_default="none"
        ),
    ] = None,
    sessions_bytes: Annotated[
        int | None, typer.Option(help="Most bytes of that folder.", show_default="half of what is free there")
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Without a request for so long, give the model's memory back until the next one.",
            show_default="never",
        ),
    ] = None,
    tool_parser: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The form of calls of tools.", show_default="that of the chat template"),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="What embeddings are made of: last (token's hidden state) or mean.",
            show_default="as the model says, else last",
        ),
    ] = None,
    target_itl: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="What a token of a stream may take while prompts are computed beside it.",
            show_default="twice what it takes alone",
        ),
    ] = None,
    dtype: DtypeOption = None,
    activations: ActivationsOption = None,
    kv: KvOption = None,
    context: ContextOption = None,
    chunk: Annotated[
        int | None, typer.Option(help="Most rows of a step.", show_default="what suits the model and the machine")
    ] = None,
    threads: ThreadsOption = None,
    pin: PinOption = "auto",
    isa: IsaOption = None,
    expanded_prefill: ExpandedOption = False,
    speculate: SpeculateOption = "auto",
    cache: CacheOption = False,
) -> None:
    """Serve MODEL over HTTP to the clients of OpenAI, Anthropic and Ollama. Needs `pip install 'ellm[serve]'`."""
    from ellm.cli import serve as command

    options = {
        "max_seqs": max_seqs,
        "queued_tokens": queued_tokens,
        "target_itl": target_itl,
        "cache_bytes": cache_bytes,
        "sessions": sessions,
        "sessions_bytes": sessions_bytes,
        "pooling": pooling,
        "idle": idle,
        "chunk": chunk,
        **_engine_options(locals()),
    }
    command.serve(
        model,
        host,
        port,
        keys=api_key or [],
        names=name or [],
        hosts=allow_host or [],
        tool_parser=tool_parser,
        options=options,
    )


@app.command()
def inspect(
    model: ModelArgument,
    dtype: DtypeOption = None,
    activations: ActivationsOption = None,
    kv: KvOption = None,
    context: ContextOption = None,
    isa: IsaOption = None,
    expanded_prefill: ExpandedOption = False,
    speculate: SpeculateOption = "auto",
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Go by config.json even if the weights are there.")
    ] = False,
    graph: Annotated[bool, typer.Option("--graph", help="The dataflow graph, one line a node.")] = False,
    tasks: Annotated[
        str | None, typer.Option(metavar="OP", help="Groups, events and home cores of an operator.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Every buffer with its address and lifetime.")] = False,
    json: Annotated[bool, typer.Option("--json", help="All that is known, as one JSON object.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="The operators for Graphviz.")] = False,
    diff: Annotated[str | None, typer.Option(metavar="OTHER", help="What differs, operator by operator.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page for a browser.")] = None,
    save: Annotated[
        str | None, typer.Option(metavar="FILE", help="Save the program, to compare with it later.")
    ] = None,
) -> None:
    """Show the operators, tasks and memory of MODEL, or the views that are asked for.

    A config.json is enough: weights need not be there, and are not downloaded. MODEL and OTHER may also be programs
    that --save wrote (.npz).
    """
    from ellm.cli import inspect as command
    from ellm.cli.views import Views
    from ellm.compiled import Options

    views = Views(graph=graph, tasks=tasks, memory=memory, json=json, dot=dot, diff=diff, html=html, save=save)
    options = Options(context, dtype=dtype, activations=activations, kv=kv, expanded_prefill=expanded_prefill)
    command.inspect(model, options, no_weights=no_weights, speculate=speculate, isa=isa, views=views)


@app.command()
def bench(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="Prompt lengths, comma separated.")] = "512,4096",
    generate: Annotated[int, typer.Option("-n", "--generate", help="Tokens to generate.")] = 128,
    depth: Annotated[int, typer.Option("-d", "--depth", help="Tokens in the context before those.")] = 128,
    repeat: Annotated[int, typer.Option("-r", "--repeat", help="Times to repeat each.")] = 3,
    chunk: Annotated[
        int | None,
        typer.Option(help="Rows in a step of a prompt.", show_default="what suits the model and the machine"),
    ] = None,
    dtype: DtypeOption = None,
    activations: ActivationsOption = None,
    kv: KvOption = None,
    threads: ThreadsOption = None,
    pin: PinOption = "auto",
    isa: IsaOption = None,
    expanded_prefill: ExpandedOption = False,
    cache: CacheOption = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Time MODEL beside the limits of this machine.

    The limits are measured in turn with the model, and shares of them are medians over the pairs.
    """
    from ellm.cli import bench as command

    lengths = [parse_length(text) for text in prompt.split(",") if text.strip()]
    options = _engine_options(locals())
    command.bench(model, lengths, generate, depth, repeat, chunk, as_json=json, options=options)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model; what B is measured against.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another one.", show_default="A")] = None,
    text: Annotated[str, typer.Option(metavar="FILE", help="UTF-8 text to run both on.")] = ...,  # type: ignore[assignment]
    option_a: Annotated[
        list[str] | None,
        typer.Option("--a", metavar="KEY=VALUE", help="Of A alone: dtype, activations, kv, isa or expanded-prefill."),
    ] = None,
    option_b: Annotated[
        list[str] | None, typer.Option("--b", metavar="KEY=VALUE", help="The same of B: --b dtype=q4.")
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens of a window; of each the second half is scored.")] = 512,
    windows: Annotated[int | None, typer.Option(help="Most windows.", show_default="all of the text")] = None,
    threads: ThreadsOption = None,
    pin: PinOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say how far B is from A on a text: KL divergence, how often both put the same token first, and perplexities.

    Windows are those of llama-perplexity. Without B, A is compared with itself: ellm compare MODEL --b dtype=q4 ...
    """
    from ellm.cli import compare as command

    command.compare(
        a,
        a if b is None else b,
        text,
        context=context,
        most=windows,
        options_a=option_a or [],
        options_b=option_b or [],
        threads=threads,
        pin=pin,
        as_json=json,
    )


@app.command()
def pack(
    model: ModelArgument,
    out: Annotated[
        str | None, typer.Argument(metavar="OUT", help="The file to write.", show_default="none, with --verify")
    ] = None,
    dtype: DtypeOption = None,
    expanded_prefill: ExpandedOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the packed file MODEL, and say if it is whole.")
    ] = False,
) -> None:
    """Write MODEL to one file that starts at once, on any machine, and is shared by the processes that run it."""
    from ellm.cli import pack as command

    if verify:
        if out is not None or dtype is not None or expanded_prefill:
            raise InputError("--verify takes a packed file alone")
        command.verify(model)
    elif out is None:
        raise InputError("there is no OUT, the file to write")
    else:
        command.pack(model, out, dtype, expanded_prefill)


@app.command()
def plan(
    model: ModelArgument,
    machine: Annotated[str, typer.Option(help="xeon-6980p, xeon-8480plus, epyc-9755, or a file of `doctor --save`.")],
    context: Annotated[int | None, typer.Option(help="Tokens of a sequence.", show_default="4096")] = None,
    prompt: Annotated[
        int | None, typer.Option(help="Tokens of the prompt whose time to first token is wanted.", show_default="512")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences that are decoded together.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="q8, q4, bf16, bf16-raw, fp8, mxfp4, q4_k ...", show_default="as the model comes")
    ] = None,
    kv: KvOption = None,
    threads: Annotated[int | None, typer.Option(help="Workers.", show_default="all cores")] = None,
    expanded_prefill: ExpandedOption = False,
    speculate: SpeculateOption = "auto",
    requests: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A trace of requests to serve: docs/plan.md has its format."),
    ] = None,
) -> None:
    """Simulate MODEL on a machine that is only described: does it fit, how fast is it, and what would help.

    A config.json is enough.
    """
    from ellm.cli import plan as command

    command.plan(
        model,
        machine,
        context=context,
        prompt=prompt,
        batch=batch,
        dtype=dtype,
        kv=kv,
        threads=threads,
        expanded=expanded_prefill,
        speculate=speculate,
        requests=requests,
    )


@app.command()
def doctor(
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    save: Annotated[
        str | None, typer.Option(metavar="FILE", help="Measure this machine into a description for `plan`.")
    ] = None,
) -> None:
    """Show what this machine can do, what ellm uses of it, and why."""
    from ellm.cli import doctor as command
    from ellm.cli import save_machine
    from ellm.system.files import check_writable

    path = None if save is None else check_writable(save)
    command.doctor(threads, isa)
    if path is not None:
        save_machine.save(path, threads, isa)


@app.command()
def profile(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to answer.", show_default="a text of 56 words")
    ] = None,
    tokens: Annotated[int, typer.Option("-n", "--tokens", help="Tokens to generate.")] = 16,
    trace: Annotated[str | None, typer.Option(metavar="FILE", help="Write a trace for ui.perfetto.dev.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page with a timeline.")] = None,
    dtype: DtypeOption = None,
    activations: ActivationsOption = None,
    kv: KvOption = None,
    context: ContextOption = None,
    threads: ThreadsOption = None,
    pin: PinOption = "auto",
    isa: IsaOption = None,
) -> None:
    """Show where the time goes: by operator, by core, and on the critical path."""
    from ellm.cli import profile as command

    options = _engine_options(locals())
    command.profile(model, prompt, tokens, trace=trace, html=html, options=options)


def parse_length(text: str) -> int:
    """A number of tokens. Raises InputError."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f"a prompt length must be a whole number of at least 1, not {text.strip()!r}")
    return int(text)


def main() -> None:
    """The `ellm` command."""
    _prepare_streams()
    code = _call()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            code = code or (1 if isinstance(error, BrokenPipeError) else _complain(_refusal(error), 2))
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the interpreter tries again when it ends
    if code == _INTERRUPTED:
        os._exit(code)  # threads of a download may still be waiting for the network
    sys.exit(code)


def _prepare_streams() -> None:
    """One that the caller has closed is as /dev/null; a terminal that cannot show a character still gets the others."""
    for name, mode, errors in (("stdin", "r", "strict"), ("stdout", "w", "replace"), ("stderr", "w", "replace")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors=errors)


def _call() -> int:
    """Run the command and return its exit code; every error is one line."""
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # until now it ended the process at once
        return app(standalone_mode=False) or 0
    except InputError as error:
        return _complain(str(error), 2)
    except UsageError as error:
        return _complain(error.format_message(), 2)
    except MemoryError:
        return _complain("out of memory", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno in _FULL):
            return _complain(_refusal(error), 2)
        if os.environ.get("ELLM_TRACEBACK"):
            traceback.print_exc()
        name = type(error).__name__
        return _complain(f"internal error: {name}: {error} (ELLM_TRACEBACK=1 shows where)", 1)


def _refusal(error: OSError) -> str:
    """What the operating system refused, and why."""
    what = "the output cannot be written" if error.filename is None else str(error.filename)
    return f"{what}: {error.strerror or error}"


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print("ellm:", printable(message), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
