"""Requests that are answered alone, by the Python API, before a server is asked them."""

import random

from known_answers import Known

from ellm import SamplingParams, StructuredOutputs

STEMS = 4  # texts that prompts begin with
FORMS = (
    {},
    {},
    {},
    {"frequency_penalty": 0.5, "presence_penalty": -0.25},
    {"structured_outputs": {"regex": "[ab ]{40}"}},
)


def ask_alone(llm, name, *, count, seed, longest):
    """Requests that share beginnings, of up to `longest` tokens with their answers, which `llm` is asked for."""
    draw = random.Random(seed)
    stems = [[draw.randrange(3, 250) for _ in range(longest)] for _ in range(STEMS)]
    found = []
    for index in range(count):
        stem, length = draw.choice(stems), draw.choice([draw.randrange(1, longest - 64), 3 * longest // 4])
        prompt = [*stem[:length], *[draw.randrange(3, 250) for _ in range(draw.randrange(1, 17))]]
        room = longest - len(prompt)
        fields = {
            "max_tokens": draw.choice([min(room, 8), min(room, 64), room]),
            "temperature": draw.choice([0.0, 1.0]),
            "seed": index,
            "n": draw.choice([1, 1, 1, 2]),
            "ignore_eos": True,
            **draw.choice(FORMS),
        }
        found.append(_chat(llm, name, prompt, fields) if index % 4 == 0 else _text(llm, name, prompt, fields))
    return found


def _text(llm, name, prompt, fields):
    outputs = llm.generate([prompt], _params(fields))
    body = {"model": name, "prompt": prompt, "logprobs": 0, **fields}
    return Known("/v1/completions", body, [one.text for one in outputs], [one.logprobs for one in outputs])


def _chat(llm, name, prompt, fields):
    text = "".join(chr(ord("a") + token % 26) for token in prompt[: len(prompt) * 3 // 4])
    messages = [{"role": "user", "content": text}]
    outputs = llm.chat(messages, _params(fields))
    body = {"model": name, "messages": messages, "logprobs": True, **fields}
    return Known("/v1/chat/completions", body, [one.text for one in outputs], [one.logprobs for one in outputs])


def _params(fields):
    wanted = fields.get("structured_outputs")
    return SamplingParams(**fields | {"structured_outputs": None if wanted is None else StructuredOutputs(**wanted)})
