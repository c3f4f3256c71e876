"""Every method of every path that is answered."""

from __future__ import annotations

from ellm.server import model_list, openai_chat, openai_completions, probes, texts
from ellm.server.endpoint import Operation
from ellm.server.metrics import CONTENT_TYPE

OPERATIONS = [
    Operation(
        "POST",
        "/v1/chat/completions",
        openai_chat.chat,
        "Answer a conversation.",
        openai_chat.ChatRequest,
        openai_chat.ChatCompletion,
        openai_chat.ChatChunk,
        generates=True,
    ),
    Operation(
        "POST",
        "/v1/completions",
        openai_completions.complete,
        "Continue prompts as they are.",
        openai_completions.CompletionRequest,
        openai_completions.Completion,
        openai_completions.Completion,
        generates=True,
    ),
    Operation(
        "POST",
        "/v1/chat/completions/render",
        texts.render,
        "What a conversation gives the model.",
        openai_chat.ChatRequest,
        texts.Rendered,
    ),
    Operation("POST", "/tokenize", texts.tokenize, "Token ids of a text.", texts.TokenizeRequest, texts.Tokens),
    Operation("POST", "/detokenize", texts.detokenize, "The text of token ids.", texts.DetokenizeRequest, texts.Text),
    Operation("GET", "/v1/models", model_list.models, "The model's names.", response=model_list.ModelList),
    Operation("GET", "/v1/models/{model:path}", model_list.model, "One of them.", response=model_list.ModelCard),
    Operation("GET", "/health", probes.health, "Whether the process answers.", response=probes.State),
    Operation("GET", "/ready", probes.ready, "Whether it takes requests.", response=probes.State),
    Operation("GET", "/metrics", probes.metrics, "Numbers for Prometheus.", media_type=CONTENT_TYPE),
]
