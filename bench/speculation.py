"""What drafts gain on texts that repeat, and cost on texts that do not: `python bench/speculation.py [MODEL]`.

Each text is continued with `--speculate off` and `auto`, or as said, in turn, by one loaded model, and a figure is the
median over the rounds, a ratio that of the ratios of each pair. That the tokens and their logprobs are the same is
checked.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from ellm import LLM, SamplingParams
from ellm.serving.output import Output

HEADER = "| text | off, tokens/s | {}, tokens/s | ratio | steps | drafted | accepted |\n" + "|---" * 7 + "|"
ROOT = Path(__file__).parent.parent
PROSE = (ROOT / "README.md").read_text().split("\n\n")[1]
CODE = (ROOT / "ellm/serving/batcher.py").read_text().partition("@dataclass")[2][:900]


def texts() -> dict[str, tuple[str, float]]:
    """Prompts, and the temperatures that they are continued with."""
    renamed = CODE.replace("Share", "Part")
    return {
        "quoting a document": (f"{PROSE}\n\n{PROSE}\n\n{PROSE[:60]}", 0),
        "quoting a document, temperature 0.8": (f"{PROSE}\n\n{PROSE}\n\n{PROSE[:60]}", 0.8),
        "editing code (a class renamed)": (f"{CODE}\n\n{renamed}\n\n{CODE}\n\n{renamed[:80]}", 0),
        "a story, temperature 0.8": ("Once upon a time, in a small village by the sea,", 0.8),
        "random tokens (temperature 50)": ("Once upon a time", 50),
    }


def seconds(output: Output) -> float:
    """Of a token after the first."""
    return output.metrics.decode_seconds / (len(output.token_ids) - 1)


def measure(llm: LLM, prompt: str, params: SamplingParams, rounds: int) -> tuple[list[float], list[float], Output]:
    """Seconds of a token in each round, without drafts and with, and the last answer with."""
    times: dict[bool, list[float]] = {False: [], True: []}
    answers, drafts = {}, (llm.speculation.drafts, llm.engine.drafter)
    for number in range(rounds):
        for on in (number % 2 == 0, number % 2 == 1):  # whichever is first in a pair may find the machine otherwise
            llm.engine.speculation, llm.engine.drafter = drafts if on else (None, None)
            (answers[on],) = llm.generate(prompt, params)
            times[on].append(seconds(answers[on]))
        same = [(one.token_ids, one.logprobs, one.text) for one in answers.values()]
        assert same[0] == same[1], "drafts changed an answer"
    llm.engine.speculation, llm.engine.drafter = drafts
    return times[False], times[True], answers[True]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("-n", "--tokens", type=int, default=128)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="texts with this in their names")
    parser.add_argument("--speculate", default="auto", help="auto, lookup or mtp")
    parser.add_argument("--isa")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    options = {"isa": arguments.isa, "threads": arguments.threads, "speculate": arguments.speculate}
    with LLM(arguments.model, context=2048, **options) as llm:
        print(f"{arguments.model}: {llm.runtime}\n")
        print(HEADER.format(arguments.speculate))
        for name, (prompt, temperature) in texts().items():
            if arguments.only not in name:
                continue
            params = SamplingParams(temperature=temperature, seed=1, max_tokens=arguments.tokens, ignore_eos=True)
            off, on, output = measure(llm, prompt, params, arguments.rounds)
            ratio = statistics.median(a / b for a, b in zip(off, on, strict=True))
            speeds = [f"{1 / statistics.median(times):.1f}" for times in (off, on)]
            metrics = output.metrics
            counts = metrics.steps, metrics.drafted_tokens, metrics.accepted_tokens
            print("|", " | ".join(map(str, [name, *speeds, f"{ratio:.3f}", *counts])), "|", flush=True)


if __name__ == "__main__":
    main()
