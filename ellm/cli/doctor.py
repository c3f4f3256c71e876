"""`ellm doctor`: what this machine can do, and what ellm uses of it."""

from __future__ import annotations

import statistics
from contextlib import closing
from pathlib import Path

from ellm.cli.terminal import note
from ellm.kernels import contract
from ellm.kernels import isa as isas
from ellm.kernels.formats import DTYPES, FORMATS, MADE
from ellm.kernels.routes import choose
from ellm.machine.limits import Limits
from ellm.machine.neighbours import Neighbour, neighbours
from ellm.profiling.report import several
from ellm.scheduler import Pool, topology
from ellm.scheduler.topology import core_ranges
from ellm.system import memory
from ellm.system.errors import harmless
from ellm.system.files import cache_folder

MODELS = {  # GB of weights that a decoded token reads, and billions of weights: those of its experts, no embedding rows
    "SmolLM2-135M": (0.27, 0.13),
    "Qwen3-0.6B": (1.19, 0.60),
    "Llama-3.2-1B": (2.47, 1.24),
    "Llama-3.2-3B": (6.43, 3.21),
    "Llama-3.1-8B": (15.01, 7.50),
    "Qwen3-8B": (15.14, 7.57),
    "Qwen3-30B-A3B": (6.06, 3.03),
    "Qwen3-32B": (63.97, 31.98),
    "gpt-oss-20b (mxfp4)": (3.70, 3.61),
    "gpt-oss-120b (mxfp4)": (4.97, 5.12),
    "Llama-3.1-70B": (139.01, 69.50),
    "Qwen3-480B-A35B": (69.08, 34.54),
    "DeepSeek-V3 (fp8)": (37.66, 36.63),
}
SAMPLES = 15
LEAST_SHARE = 0.05  # of a core, to be named
NAMED = 8


def doctor(threads: int | None, isa: str | None) -> None:
    """Print the report; measuring takes a few seconds."""
    choice = isas.choose(isa)
    others = neighbours()
    with Pool(threads) as pool:
        lines = [
            *isa_lines(choice),
            *precision_lines(choice.isa),
            *core_lines(pool),
            *other_lines(others),
            *memory_lines(),
        ]
        print("\n".join(lines), flush=True)
        note("measuring ...")
        with closing(Limits(pool, isas.table(choice.isa))) as limits:
            read = statistics.median(limits.read() for _ in range(SAMPLES))
            matmul = statistics.median(limits.matmul() for _ in range(SAMPLES))
    print("\n".join(speed_lines(read, matmul)))


def isa_lines(choice: isas.Choice) -> list[str]:
    """The ISA in use, why each other one is not, and what its kernels do otherwise on other CPUs."""
    lines = [f"ISA          {choice.isa} ({choice.reason})"]
    for isa, obstacle in isas.available().items():
        if isa != choice.isa:
            lines.append(f"  {isa:<10} {obstacle or 'can be used'}")
    return [*lines, f"  fetching   what is read next, into {isas.fetches(choice.isa)}"]


def precision_lines(isa: str) -> list[str]:
    """The precisions in which weights stay in memory, and the kernels that take all of them."""
    short = {format: f"{name} ({format.name})" for name, format in DTYPES.items() if name != format.name}
    dtypes = ", ".join(short.get(format, format.name) for format in MADE)
    whole = choose(next(format for format in FORMATS.values() if format.whole), isa)
    kernels = ", ".join(kernel for kernel, fields in contract.FIELDS.items() if "format" in fields)
    return [
        "precisions   as stored in the checkpoint; sums f32",
        f"  activations {whole.activations} ({whole.reason}) where they meet whole numbers times scales, else bf16",
        f"  --dtype    {dtypes}, from whatever is stored",
        *(f"  {format.name:<10} {format.computed}" for format in FORMATS.values()),
        f"  kernels    {kernels}",
    ]


def core_lines(pool: Pool) -> list[str]:
    """Cores, quota, NUMA nodes and last level cache."""
    allowed = topology.allowed_cores()
    physical = topology.physical_cores(allowed)
    quota = topology.cgroup_quota()
    nodes = topology.numa_nodes()
    caches = topology.caches(pool.cores[0])
    lines = [
        f"workers      {pool.placement}",
        f"  waiting    {pool.placement.waiting}",
        f"  affinity   {len(allowed)} logical cores: {core_ranges(allowed)}; {len(physical)} physical",
        f"  quota      {'none' if quota is None else f'{quota:g} CPUs (cgroup)'}",
        f"  NUMA       {len(nodes)} node{'s' * (len(nodes) > 1)}: "
        + "; ".join(f"{node}: cores {core_ranges(cores)}" for node, cores in nodes.items()),
    ]
    if caches:
        sizes = ", ".join(f"L{cache.level} {cache.size >> 10} KiB" for cache in caches if cache.kind != "Instruction")
        lines.append(f"  caches     {sizes} (of core {pool.cores[0]})")
    return lines


def other_lines(others: list[Neighbour]) -> list[str]:
    """Other ellm processes and their cores, then what else takes the cores' time."""
    lines = []
    for one in others:
        if one.workers:
            workers = f"{several(one.workers, 'worker')} on cores {core_ranges(sorted(one.worker_cores))}"
            lines.append(f"ellm process {one.pid}: {workers}, {one.share:.2f} cores' time")
    busy = [one for one in others if not one.workers and one.share >= LEAST_SHARE]
    for one in busy[:NAMED]:
        cores = core_ranges(sorted(one.cores))
        lines.append(f"{harmless(one.name)} ({one.pid}): {one.share:.2f} cores' time, on {cores}")
    if len(busy) > NAMED:
        lines.append(f"and {len(busy) - NAMED} more")
    first, *rest = lines or ["no other ellm process, and nothing else uses the cores"]
    return [f"others       {first}", *(f"             {line}" for line in rest)]


def memory_lines() -> list[str]:
    """Memory that is there, and huge pages."""
    pages = topology.huge_pages()
    reserved = [f"{count} of {memory.readable(int(size))}" for size, count in pages.items() if size != "transparent"]
    return [
        f"memory       {memory.readable(memory.available())} available of "
        f"{memory.readable(memory.meminfo()['MemTotal'])}",
        f"  huge pages transparent: {pages['transparent']}; reserved: {', '.join(reserved) or 'none'}",
        *overcommit_lines(),
        cache_line(),
    ]


def overcommit_lines(root: Path = Path("/")) -> list[str]:
    """A warning where the system counts memory that is only reserved."""
    try:
        strict = (root / "proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return []
    words = "a sequence reserves its whole context, and vm.overcommit_memory=2 counts that as used: set it to 0 or 1"
    return [f"  WARNING    {words}"] if strict else []


def cache_line() -> str:
    """Where models are kept that were downloaded or packed with --cache, and how much that is."""
    folder = cache_folder()
    sizes = [path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()]
    return f"cache        {memory.readable(sum(sizes))} in {folder}"


def speed_lines(read: float, matmul: float) -> list[str]:
    """The measured limits, and the tokens a second that they allow."""
    lines = [
        f"measured     {read / 1e9:.1f} GB/s memory read, {matmul / 1e12:.3f} TFLOP/s bf16 multiplication",
        "at most      decode of one sequence (memory read) and prefill (multiplication), bf16 or as named:",
    ]
    for name, (size, weights) in MODELS.items():
        lines.append(f"  {name:<20} {read / 1e9 / size:>8.1f} tok/s {matmul / (2e9 * weights):>9.0f} tok/s")
    return lines
