"""Every method of every path that is answered."""

from __future__ import annotations

from ellm.server import (
    anthropic_messages,
    model_list,
    ollama_chat,
    ollama_models,
    openai_chat,
    openai_completions,
    probes,
    texts,
)
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
    Operation(
        "POST",
        "/v1/messages",
        anthropic_messages.messages,
        "Answer a conversation in Anthropic's form.",
        anthropic_messages.MessagesRequest,
        anthropic_messages.MessageReply,
        anthropic_messages.MessageReply,
        generates=True,
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        anthropic_messages.count_tokens,
        "How many tokens it is.",
        anthropic_messages.CountRequest,
        anthropic_messages.Count,
    ),
    Operation(
        "POST",
        "/api/chat",
        ollama_chat.ollama_chat,
        "Answer a conversation in Ollama's form.",
        ollama_chat.OllamaChatRequest,
        ollama_chat.ChatLine,
        ollama_chat.ChatLine,
        ollama_chat.LINES,
        generates=True,
    ),
    Operation(
        "POST",
        "/api/generate",
        ollama_chat.generate,
        "Answer or continue a prompt in Ollama's form.",
        ollama_chat.GenerateRequest,
        ollama_chat.GenerateLine,
        ollama_chat.GenerateLine,
        ollama_chat.LINES,
        generates=True,
    ),
    Operation("GET", "/api/tags", ollama_models.tags, "The model's names.", response=ollama_models.Tags),
    Operation(
        "POST",
        "/api/show",
        ollama_models.show,
        "What is known of a model.",
        ollama_models.ShowRequest,
        ollama_models.Shown,
    ),
    Operation(
        "GET", "/api/version", ollama_models.version, "The version of Ollama's API.", response=ollama_models.Version
    ),
    Operation("POST", "/tokenize", texts.tokenize, "Token ids of a text.", texts.TokenizeRequest, texts.Tokens),
    Operation("POST", "/detokenize", texts.detokenize, "The text of token ids.", texts.DetokenizeRequest, texts.Text),
    Operation("GET", "/v1/models", model_list.models, "The model's names.", response=model_list.ModelList),
    Operation("GET", "/v1/models/{model:path}", model_list.model, "One of them.", response=model_list.ModelCard),
    Operation("GET", "/health", probes.health, "Whether the process answers.", response=probes.State),
    Operation("GET", "/ready", probes.ready, "Whether it takes requests.", response=probes.State),
    Operation("GET", "/metrics", probes.metrics, "Numbers for Prometheus.", media_type=CONTENT_TYPE),
]
