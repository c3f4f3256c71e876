"""Writes tests/golden/ggml_ids.json: what llama.cpp makes of odd texts, with vocabularies of every kind.

Run from the root: PYTHONPATH=tests/helpers python tests/golden/make_ggml_ids.py  (needs pip install llama-cpp-python)

For each vocabulary, a check (see `ggml_checks.py`) of each text's ids and of the text that they stand for.
"""

import json
import tempfile
from pathlib import Path

from ggml_checks import FILE, check, texts
from ggml_vocabularies import VOCABULARIES, write_vocabulary
from llama_cpp_peer import LlamaCpp


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in VOCABULARIES:
            with LlamaCpp(write_vocabulary(Path(folder) / "vocabulary.gguf", name)) as peer:
                encoded = [peer.encode(text) for text in texts()]
                found[name] = "".join(check(ids, peer.decode(ids[1:], special=True)) for ids in encoded)
    FILE.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
