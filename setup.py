"""Builds the extensions: one per ISA for the kernels, each with its own flags, and the scheduler.

Everything else is in pyproject.toml. Sources are spelled through ellm/, whose sub-packages are links to the root
folders. What C and Cython need of facts that stand in Python or in task.h, ellm/kernels/generate.py writes first.
"""

import os
import subprocess
import sys
import tempfile
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

COMMON = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-unused-function"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512F = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")), "-mprefer-vector-width=512"]
AVX512 = [*AVX512F, *(f"-mavx512{part}" for part in ("vbmi", "bf16", "vnni"))]
ISA_FLAGS = {
    "_portable": [],
    "_avx2": AVX2,
    "_avx512f": AVX512F,
    "_avx512": AVX512,
    "_amx": [*AVX512, "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}


def compiles(flags: list[str]) -> bool:
    """Whether the C compiler knows these flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int main(void) { return 0; }\n")
        command = ["cc", *flags, "-c", str(source), "-o", str(Path(folder, "probe.o"))]
        return subprocess.run(command, capture_output=True).returncode == 0


def extensions() -> list[Extension]:
    """Every .pyx of the kernels and the scheduler; an ISA that the compiler lacks is left out, and says so."""
    headers = glob("ellm/kernels/*.h") + glob("ellm/scheduler/*.h")
    sources = sorted(glob("ellm/kernels/*.pyx") + glob("ellm/scheduler/*.pyx"))
    if not {"ellm/kernels/_portable.pyx", "ellm/kernels/task.h"} <= {*sources, *headers}:
        sys.exit("setup.py: the Cython sources or the headers of ellm/kernels are missing from this tree")
    shared = [*headers, *glob("ellm/kernels/*.px[di]"), *glob("ellm/scheduler/*.px[di]")]
    found = []
    for source in sources:
        flags = ISA_FLAGS.get(Path(source).stem, [])
        if flags and not compiles(flags):
            print(f"setup.py: {source} is left out: the compiler lacks one of {' '.join(flags)}", file=sys.stderr)
            continue
        found.append(
            Extension(
                source.removesuffix(".pyx").replace("/", "."),
                [source],
                include_dirs=["ellm/kernels", "ellm/scheduler"],
                depends=shared,
                extra_compile_args=["-g0", *COMMON, *flags],  # -g, which Python was built with, takes a third more time
                extra_link_args=["-pthread"],
            )
        )
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # a build of its own environment does not look here
    from ellm.kernels import generate

    generate.write()
    checks = dict.fromkeys(("boundscheck", "wraparound", "initializedcheck"), False)
    directives = {"language_level": 3, "cdivision": True, **checks}
    cores = len(os.sched_getaffinity(0))
    modules = cythonize(extensions(), compiler_directives=directives, include_path=["."], nthreads=cores)
    setup(ext_modules=modules, options={"build_ext": {"parallel": cores}})
