"""SmolLM2 by transformers, from the GGUF file that `ellm run smollm2` reads."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ellm.checkpoint import aliases

GGUF = aliases.path_of("smollm2")
STEPS = 24


def load(dtype: torch.dtype):
    """Tokenizer and model."""
    where = {"pretrained_model_name_or_path": str(GGUF.parent), "gguf_file": GGUF.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, attn_implementation="eager")
    return AutoTokenizer.from_pretrained(**where), model.eval()


def answer(tokenizer, model, prompt: str) -> dict:
    """An entry of golden/greedy.json."""
    chat = [{"role": "user", "content": prompt}]
    prompt_ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    ids, gaps = greedy(model, prompt_ids, tokenizer.eos_token_id)
    return {"prompt": prompt, "prompt_ids": prompt_ids, "ids": ids, "gaps": gaps}


@torch.inference_mode()
def greedy(model, prompt_ids: list[int], end: int) -> tuple[list[int], list[float]]:
    """Tokens until `end` or STEPS, and the lead of each over the runner-up."""
    ids: list[int] = []
    gaps: list[float] = []
    cache, fed = None, torch.tensor([prompt_ids])
    while len(ids) < STEPS and end not in ids:
        output = model(fed, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        ids.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 4))
        fed = best.indices[:1][None]
    return ids, gaps
