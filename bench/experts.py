"""A model with experts on this machine: decode beside its limit, expert tasks beside experts hit, memory beside plan.

python bench/experts.py FOLDER [-c 128] [-n 32] [--repeat 5] [--threads N]

FOLDER is a checkpoint, such as bench/make_checkpoint.py writes. The limit of decode is set by the bytes of the weights
that one token is routed to. Experts hit are counted from the rows that `dispatch` gave each, tasks by the scheduler.
"""

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np

from ellm.kernels.contract import EXPERT_ROWS
from ellm.llm import LLM
from ellm.machine.limits import Limits
from ellm.profiling.bencher import Bencher
from ellm.profiling.recorder import Recorder
from ellm.scheduler import StepInput
from ellm.serving.runtime import Runtime
from ellm.system.memory import Mapping

ALLOWANCE = 300 << 20  # bytes beyond weights and arena


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-c", "--context", type=int, default=128, help="tokens before the decode")
    parser.add_argument("-n", "--new", type=int, default=32, help="tokens of the decode")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    context = arguments.context + arguments.new
    options = {"context": context, "chunk": arguments.context, "threads": arguments.threads}
    with LLM(arguments.folder, **options) as llm:
        runtime = llm.runtime
        lines = [*tasks(runtime, arguments.context), memory(runtime)]
        with closing(Limits(runtime.pool, runtime.table)) as limits:
            lines.append(decode(runtime, limits, arguments))
    print("\n".join(lines))


def tasks(runtime: Runtime, context: int) -> list[str]:
    """A line each for a prefill of the context and for one token after it."""
    tokens = np.random.default_rng(0).integers(0, runtime.program.vocab, context + 1, np.int32)
    lines = []
    with closing(Mapping(runtime.program.range_bytes, "the KV range")) as cache, runtime.executable.trace():
        recorder = Recorder(runtime.executable, context)
        for name, begin, end in (("prefill", 0, context), ("decode", context, context + 1)):
            recorder.run(one_sequence(tokens[begin:end], begin, cache.address, runtime.program.vocab))
            experts = recorder.steps[-1].experts
            run, wanted = expert_tasks(runtime, experts)
            verdict = "equal" if run == wanted else "DIFFERENT"
            lines.append(
                f"{name:<8} {end - begin:>4} rows: {np.count_nonzero(experts)} experts hit in {len(experts)} layers, "
                f"{run} expert tasks run, {wanted} by experts hit x tiles: {verdict}"
            )
    return lines


def one_sequence(tokens: np.ndarray, position: int, cache: int, vocab: int) -> StepInput:
    """A step of tokens [T] from this position on; the logits after the last one."""
    count = len(tokens)
    positions = np.arange(position, position + count, dtype=np.int32)
    return StepInput.of(positions, tokens, ranges=[cache], logit_row=[count - 1], vocab=vocab)


def expert_tasks(runtime: Runtime, experts: np.ndarray) -> tuple[int, int]:
    """Tasks of the experts' operators that the last step ran, and that the rows [layers, experts] of each make."""
    counted = runtime.executable.statistics()["operators"]
    described = [operator for operator in runtime.program.operators if operator.experts]
    layers = [described[i : i + 2] for i in range(0, len(described), 2)]  # gate_up and down
    run = sum(counted[operator.name]["tasks"] for operator in described)
    row_tiles = (-(-experts // EXPERT_ROWS)).sum(1).tolist()
    wanted = sum(
        tiles * sum(operator.tiles for operator in operators)
        for tiles, operators in zip(row_tiles, layers, strict=True)
    )
    return run, wanted


def memory(runtime: Runtime) -> str:
    """The line on peak memory so far, which loading has made."""
    status = Path("/proc/self/status").read_text()  # getrusage would tell of the process that started this one, too
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    planned = runtime.program.weights_bytes + runtime.program.arena_bytes
    verdict = "within" if peak <= planned + ALLOWANCE else "MORE THAN"
    return (
        f"memory   peak {peak / 1e9:.3f} GB: {(peak - planned) / 2**20:+.0f} MB beyond {planned / 1e9:.3f} GB of "
        f"packed weights and arena, {verdict} {ALLOWANCE >> 20} MB"
    )


def decode(runtime: Runtime, limits: Limits, arguments: argparse.Namespace) -> str:
    """The line on decode, measured in turn with the limit."""
    result = Bencher(runtime, limits).decode(arguments.context, arguments.new, arguments.repeat)
    return (
        f"decode   {result.tokens_per_second:.2f} tokens/s at {arguments.context}: "
        f"{result.bytes_per_token / 1e9:.3f} GB a token, {result.rate / 1e9:.1f} of {result.limit / 1e9:.1f} GB/s, "
        f"{result.share:.1%} of the limit ({result.pairs} pairs)"
    )


if __name__ == "__main__":
    main()
