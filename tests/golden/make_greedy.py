"""Writes tests/golden/greedy.json: the greedy answers of transformers (float32, same GGUF) to 20 prompts.

Run from the root: PYTHONPATH=tests/helpers python tests/golden/make_greedy.py  (needs pip install '.[oracle,test]')

Each entry holds `prompt`, `prompt_ids` (chat template applied), `ids` (up to and with the end of the answer) and
`gaps`: at each step, by how much the best logit leads the second.
"""

import json
from pathlib import Path

import torch
from smollm2 import answer, load

FILE = Path(__file__).with_name("greedy.json")
PROMPTS = [
    "What is the capital of France? Answer in one sentence.",
    "Write a haiku about the sea.",
    "Name three primary colors.",
    "Explain photosynthesis to a child.",
    "What is 12 plus 30?",
    "Translate 'good morning' into Spanish.",
    "List the planets of the solar system.",
    "Who wrote Romeo and Juliet?",
    "Give me a recipe for pancakes.",
    "Write a Python function that reverses a string.",
    "Why is the sky blue?",
    "What does CPU stand for?",
    "Tell me a short story about a dragon and a mouse.",
    "How do I boil an egg?",
    "Summarize the water cycle in two sentences.",
    "Qu'est-ce que la tour Eiffel ?",
    "Write a polite email that declines a meeting.",
    "Is 17 a prime number? Explain.",
    "日本の首都はどこですか",
    "Hello! 😀 How are you today?",
]


def main() -> None:
    tokenizer, model = load(torch.float32)
    entries = [answer(tokenizer, model, prompt) for prompt in PROMPTS]
    for entry in entries:
        print(f"{entry['prompt']!r}: {tokenizer.decode(entry['ids'])!r}, smallest gap {min(entry['gaps'])}")
    FILE.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


if __name__ == "__main__":
    main()
