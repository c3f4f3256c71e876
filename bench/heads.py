"""What prediction heads gain if so many of their drafts are right: `python bench/heads.py MODEL`.

Heads of random weights are never right, so drafts take the time that they take and then become the tokens of the
answer, which is known from a run without, each with the chance that is asked for. With `--speculate off` and `auto` in
turn, by one loaded model; a figure is the median over the rounds, a ratio that of the ratios of each pair.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from speculation import HEADER, row

from ellm import LLM, SamplingParams
from ellm.scheduler import Executable
from ellm.serving.drafter import Drafter
from ellm.serving.sequence import Sequence as TokenSequence
from ellm.serving.speculation import Speculation

PROMPT = 100  # tokens


class Told(Drafter):
    """Takes as long as heads do, and says what follows in `answers`, by prompt, with the chance `right`."""

    right = 0.0

    def __init__(self, executable: Executable, slots: int, answers: dict[tuple[int, ...], list[int]]):
        super().__init__(executable, slots)
        self._answers, self._random = answers, random.Random(1)

    def draft(self, sequences: Sequence[TokenSequence], counts: Sequence[int]) -> list[list[int]]:
        """As those of heads."""
        drafts = super().draft(sequences, counts)
        for sequence, some in zip(sequences, drafts, strict=True):
            answer = self._answers[tuple(sequence.tokens[: sequence.prompt_length].tolist())]
            coming = answer[sequence.length - sequence.prompt_length :][: len(some)]
            some[:] = [token if self._random.random() < self.right else token ^ 1 for token in coming]
            if sequence.trail is not None and some:
                sequence.trail.foretold = some
        return drafts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-n", "--tokens", type=int, default=96)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-s", "--sequences", type=int, default=1)
    parser.add_argument("--right", default="0,0.5,0.7,0.9", help="chances, comma separated")
    arguments = parser.parse_args()
    params = SamplingParams(temperature=0.8, seed=1, max_tokens=arguments.tokens, ignore_eos=True)
    numbers = random.Random(0)
    prompts = [[numbers.randrange(3, 250) for _ in range(PROMPT)] for _ in range(arguments.sequences)]
    with LLM(arguments.model) as llm:
        if llm.runtime.drafter is None:
            raise SystemExit(f"{arguments.model}: has no prediction heads")
        llm.engine.speculation = llm.engine.drafter = None
        answers = [one.token_ids for one in llm.generate(prompts, params)]
        told = dict(zip(map(tuple, prompts), answers, strict=True))
        drafter = Told(llm.runtime.drafter, llm.engine.slots, told)
        drafts = Speculation(llm.runtime.chunk, drafter=drafter)
        print(f"{arguments.model}: {llm.runtime}", *llm.runtime.compiled.heads(llm.runtime.pool.threads), sep="\n")
        print("", HEADER.format("drafts that are right", "auto"), sep="\n")
        for drafter.right in map(float, arguments.right.split(",")):
            print(row(llm, drafter.right, prompts, params, arguments.rounds, (drafts, drafter)), flush=True)


if __name__ == "__main__":
    main()
