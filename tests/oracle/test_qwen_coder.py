"""A real K-quant: Qwen2.5-Coder-0.5B-Instruct Q4_K_M, if ELLM_QWEN_CODER names its GGUF file."""

import os
from pathlib import Path

import pytest
from measures import divergences

from ellm import LLM, SamplingParams

PATH = os.environ.get("ELLM_QWEN_CODER")
pytestmark = pytest.mark.skipif(PATH is None, reason="ELLM_QWEN_CODER names no qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
QUESTION = "Write a Python function that returns the n-th Fibonacci number."
ANSWER = [8420, 594, 264, 13027, 729, 311, 11047, 279, 308, 7563, 79683, 1372, 1447, 73594, 12669]
TEXT = (
    "A scheduler that steals work keeps one queue of tasks for each core. A core takes the newest task from its own "
    "queue, so the data that the task needs is likely still in its cache. When the queue is empty, the core looks for "
    "another one that has work left and takes the oldest task from there, which tends to be a large one. This keeps "
    "all cores busy without a central lock, and the number of steals stays small as long as there is enough parallel "
    "slack. The memory bandwidth of a server is shared by all of its cores, so a kernel that streams weights should "
    "read every byte once, in order, with prefetches far enough ahead that the latency of main memory is hidden. If "
    "the weights are quantised, they are expanded in registers, next to the multiplication, and never written back."
)
BOUND = 2e-4  # nats: the mean of bf16 runs of transformers is several times that


@pytest.fixture(scope="module")
def llm():
    with LLM(PATH, context=1024) as opened:
        yield opened


def test_it_answers_as_it_does_elsewhere(llm):
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": QUESTION}]
    (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=len(ANSWER)))
    assert output.token_ids == ANSWER


def test_logits_are_those_of_float32(llm):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = Path(PATH)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = llm.tokenizer.encode(TEXT)
    with torch.inference_mode():
        truth = model.eval()(torch.tensor([tokens])).logits[0].numpy()
    logits = llm.logits(tokens)
    kl = divergences(truth, logits)
    same = (truth.argmax(1) == logits.argmax(1)).mean()
    print(
        f"\nQwen2.5-Coder-0.5B Q4_K_M, {len(tokens)} tokens: KL {kl.mean():.2e}, most {kl.max():.2e}, top-1 {same:.4f}"
    )
    assert kl.mean() <= BOUND and same > 0.98
