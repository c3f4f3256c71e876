"""ellm runs big language models on one CPU server.

from ellm import LLM, SamplingParams

with LLM("smollm2") as llm:
    print(llm.chat([{"role": "user", "content": "Hello!"}], SamplingParams(max_tokens=64))[0].text)
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's takes longer to import than all that is here
if TYPE_CHECKING:
    from typing import Any

    from ellm.llm import LLM
    from ellm.serving.embedding import EmbeddingOutput
    from ellm.serving.output import Output
    from ellm.serving.pooling import PoolingParams
    from ellm.serving.refusals import Busy, Late
    from ellm.serving.sampling import SamplingParams
    from ellm.serving.structured import StructuredOutputs
    from ellm.system.errors import InputError

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Busy",
    "EmbeddingOutput",
    "InputError",
    "Late",
    "Output",
    "PoolingParams",
    "SamplingParams",
    "StructuredOutputs",
    "__version__",
]

_HOMES = {
    "LLM": "ellm.llm",
    "Busy": "ellm.serving.refusals",
    "EmbeddingOutput": "ellm.serving.embedding",
    "InputError": "ellm.system.errors",
    "Late": "ellm.serving.refusals",
    "Output": "ellm.serving.output",
    "PoolingParams": "ellm.serving.pooling",
    "SamplingParams": "ellm.serving.sampling",
    "StructuredOutputs": "ellm.serving.structured",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import ellm` and `ellm --help` are instant."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'ellm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
