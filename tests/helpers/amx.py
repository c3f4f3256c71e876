"""Makes the AMX extension runnable in tests: on the CPU if it has AMX, else under the emulator in amx_trap.c."""

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from ellm.kernels import isa


@functools.cache
def obstacle() -> str | None:
    """Why the AMX extension cannot be run here, or None. Installs the emulator if the CPU needs it."""
    if isa.available()["amx"] is None:
        return None
    if importlib.util.find_spec("ellm.kernels._amx") is None:
        return "the AMX extension is not built"
    missing = [flag for flag in isa.FLAGS["avx512"] if flag not in isa.cpu_flags()]
    if missing:
        return f"the AMX extension also needs {', '.join(missing)}, which is not emulated"
    if shutil.which("cc") is None:
        return "there is no C compiler for the AMX emulator"
    if emulator().amx_trap_install() != 0:
        return "the AMX emulator could not be installed"
    return None


@functools.cache
def emulator() -> ctypes.CDLL:
    """amx_trap.c, compiled and loaded."""
    library = Path(tempfile.mkdtemp(prefix="ellm-amx-"), "amx_trap.so")
    source = str(Path(__file__).with_name("amx_trap.c"))
    subprocess.run(
        ["cc", "-O2", "-ftree-vectorize", "-mavx2", "-mfma", "-shared", "-fPIC", source, "-o", library], check=True
    )
    loaded = ctypes.CDLL(str(library))
    loaded.amx_trap_products.restype = ctypes.c_uint64
    return loaded
