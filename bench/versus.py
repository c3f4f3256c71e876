"""ellm beside PyTorch (transformers, bf16) on the same checkpoint, threads and prompt: prefill and decode tokens/s.

pip install '.[oracle]'; python bench/versus.py FOLDER [-p 512] [-c 128] [-n 32] [--threads N] [--rounds 5]

The two alternate, since a shared machine's speed moves; the ratio is the median over the rounds of ellm / PyTorch of
one round. Decode is the time that n more tokens take after a prompt of c tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import ellm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-p", "--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument("-c", "--context", type=int, default=128, help="tokens before the decode")
    parser.add_argument("-n", "--new", type=int, default=32, help="tokens of the decode")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with ellm.LLM(arguments.folder, threads=arguments.threads, context=2048) as llm:
        torch.set_num_threads(len(llm.runtime.pool.cores))
        peer = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.bfloat16).eval()
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
        contenders = {"ellm": ours(llm), "PyTorch": theirs(peer)}
        vocab = peer.config.vocab_size
        compare("prefill", contenders, random_tokens(arguments.prompt, vocab), 0, arguments.rounds)
        compare("decode", contenders, random_tokens(arguments.context, vocab), arguments.new, arguments.rounds)


Contender = Callable[[np.ndarray, int], float]  # (prompt, new tokens after the first) -> seconds


def ours(llm: ellm.LLM) -> Contender:
    def run(prompt: np.ndarray, new: int) -> float:
        sampling = ellm.SamplingParams(temperature=0.0, max_tokens=1 + new, ignore_eos=True)
        begin = time.perf_counter()
        llm.generate([prompt.tolist()], sampling)
        return time.perf_counter() - begin

    return run


def theirs(model) -> Contender:
    @torch.inference_mode()
    def run(prompt: np.ndarray, new: int) -> float:
        begin = time.perf_counter()
        output = model(torch.from_numpy(prompt)[None], use_cache=True, logits_to_keep=1)
        for _ in range(new):
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, past_key_values=output.past_key_values, use_cache=True)
        return time.perf_counter() - begin

    return run


def compare(label: str, contenders: dict[str, Contender], prompt: np.ndarray, new: int, rounds: int) -> None:
    """Prints tokens/s of each, of the prompt or of `new` tokens after it; the first round warms up and is dropped."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            first = run(prompt, 0)
            speeds[name].append(new / (run(prompt, new) - first) if new else len(prompt) / first)
    mine, other = (values[1:] for values in speeds.values())
    ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
    medians = ", ".join(f"{name} {statistics.median(values[1:]):.1f}" for name, values in speeds.items())
    print(f"{label}: {medians} tokens/s, ratio {ratio:.2f}")


def random_tokens(count: int, vocab: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab, count)


if __name__ == "__main__":
    main()
