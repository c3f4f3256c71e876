"""A folder on a disk that is full whenever it shall be."""

import contextlib
import os
import resource
import subprocess

FILLER = 1 << 16  # bytes of a piece of what fills it


class SmallDisk:
    """A tmpfs of so many bytes. Who may not mount one has a plain folder, and servers that may write no files."""

    def __init__(self, folder, size):
        self.folder, self._filler = folder, folder / "filler"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        self.mounted = not os.geteuid() and not subprocess.run(mount, stderr=subprocess.DEVNULL).returncode
        self.full = False

    def fill(self, server):
        """No byte more can be written."""
        self.full = True
        if not self.mounted:
            server.limit(resource.RLIMIT_FSIZE, 0)
            return
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(FILLER))

    def free(self, server):
        """There is room again."""
        self.full = False
        if self.mounted:
            self._filler.unlink(missing_ok=True)
        else:
            server.limit(resource.RLIMIT_FSIZE, None)

    def close(self):
        """Take it away."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
