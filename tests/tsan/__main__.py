"""Runs random programs on a scheduler built with ThreadSanitizer: `python -m tests.tsan`.

A second run, with a planted race, proves that the first can fail: publishing a log entry with relaxed order must be
reported. Exit code 0: the first run is clean and the second is not.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "-DELLM_PUBLISH_ORDER=__ATOMIC_RELAXED"
BUILD = """
import sys
from glob import glob
from Cython.Build import cythonize
from setuptools import Extension, setup
flags = ["-fsanitize=thread", "-g", "-O1", "-std=gnu11", "-Wno-tsan", *{flags}]
extensions = [
    Extension(file[:-4].replace("/", "."), [file], include_dirs=["ellm/kernels", "ellm/scheduler"],
              extra_compile_args=flags, extra_link_args=["-fsanitize=thread", "-pthread"])
    for file in glob("ellm/scheduler/*.pyx")
]
directives = dict(language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False)
sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
setup(name="tsan", packages=[], ext_modules=cythonize(extensions, compiler_directives=directives, quiet=True))
"""


def build(folder: Path, flags: list[str]) -> None:
    """Copy what the scheduler consists of and build it there, so that the build in the tree stays as it is."""
    for layer in ("kernels", "scheduler", "ellm/system"):
        ignore = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
        shutil.copytree(ROOT / layer, folder / "ellm" / Path(layer).name, ignore=ignore)
    (folder / "ellm" / "__init__.py").touch()
    subprocess.run([sys.executable, "-c", BUILD.format(flags=flags)], cwd=folder, check=True)


def sanitize(folder: Path, seeds: int) -> subprocess.CompletedProcess[str]:
    """Run the driver under the sanitizer; without address randomisation, which this libtsan does not always bear."""
    library = subprocess.check_output(["cc", "-print-file-name=libtsan.so"], text=True).strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": str(Path(library).resolve()),
        "TSAN_OPTIONS": "exitcode=66 history_size=4",
        "PYTHONPATH": f"{folder}:{ROOT / 'tests' / 'helpers'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    driver = Path(__file__).with_name("programs.py")
    command = ["setarch", platform.machine(), "-R", sys.executable, str(driver), str(seeds)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def main() -> int:
    for name, flags, seeds, races in (("as shipped", [], 40, False), ("with a planted race", [PLANTED], 10, True)):
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), flags)
            done = sanitize(Path(folder), seeds)
        reports = done.stderr.count("WARNING: ThreadSanitizer")
        print(f"scheduler {name}: exit code {done.returncode}, {reports} reports; {done.stdout.strip()}", flush=True)
        if races != (done.returncode == 66 and reports > 0) or (not races and done.returncode):
            print(done.stderr[-20_000:], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
