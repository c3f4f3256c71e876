"""What drafts gain on texts that repeat, and cost on texts that do not: `python bench/speculation.py [MODEL]`.

Each text is continued with `--speculate off` and `auto`, or as said, in turn, by one loaded model, and a figure is the
median over the rounds, a ratio that of the ratios of each pair. That the tokens and their logprobs are the same is
checked.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from ellm import LLM, SamplingParams
from ellm.serving.drafter import Drafter
from ellm.serving.output import Output
from ellm.serving.speculation import Speculation

HEADER = "| {} | off, tokens/s | {}, tokens/s | ratio | steps | drafted | accepted |\n" + "|---" * 7 + "|"
Drafts = tuple[Speculation | None, Drafter | None]
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


def row(llm: LLM, name: object, prompts: list[Any], params: SamplingParams, rounds: int, drafts: Drafts) -> str:
    """A line under HEADER: answers with such drafts and without, in turn, and counts of the first answer with."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    outputs: dict[bool, list[Output]] = {}
    for number in range(rounds):
        for on in (number % 2 == 0, number % 2 == 1):  # whichever is first in a pair may find the machine otherwise
            llm.engine.speculation, llm.engine.drafter = drafts if on else (None, None)
            outputs[on] = llm.generate(prompts, params)
            speeds[on].append(sum((len(one.token_ids) - 1) / one.metrics.decode_seconds for one in outputs[on]))
        same = [[(one.token_ids, one.logprobs, one.text) for one in some] for some in outputs.values()]
        assert same[0] == same[1], "drafts changed an answer"
    ratio = statistics.median(b / a for a, b in zip(speeds[False], speeds[True], strict=True))
    figures = [f"{statistics.median(speeds[on]):.1f}" for on in (False, True)]
    metrics = outputs[True][0].metrics
    counts = metrics.steps, metrics.drafted_tokens, metrics.accepted_tokens
    return f"| {' | '.join(map(str, [name, *figures, f'{ratio:.3f}', *counts]))} |"


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
        print(HEADER.format("text", arguments.speculate))
        drafts = llm.speculation.drafts, llm.engine.drafter
        for name, (prompt, temperature) in texts().items():
            if arguments.only in name:
                params = SamplingParams(temperature=temperature, seed=1, max_tokens=arguments.tokens, ignore_eos=True)
                print(row(llm, name, [prompt], params, arguments.rounds, drafts), flush=True)


if __name__ == "__main__":
    main()
