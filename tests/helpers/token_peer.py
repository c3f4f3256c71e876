"""Token ids of transformers for SmolLM2's GGUF; run as a script it rewrites smollm2_tokens.json.

Run from the root: python tests/helpers/token_peer.py  (needs pip install '.[oracle,test]')
"""

import json
from pathlib import Path

from ellm.checkpoint import aliases

FILE = Path(__file__).parents[1] / "checkpoint" / "smollm2_tokens.json"
GGUF = aliases.path_of("smollm2")
TEXTS = [
    "Hello world 123",
    "Hello, world! How's it going? I'll be there, won't you?",
    "What is the capital of France? Answer in one sentence.",
    "   leading and trailing   ",
    "tabs\tand\nnew\n\nlines\r\n  indented\n\n\n",
    "def f(x):\n    return x + 1  # one\n",
    "3.14159 and 1,000,000 and 2024-11-22",
    "a  1\n   22 x\n\n3. third\t\t4",
    "x²+y³ ½ ٣ 四 Ⅳ",
    "naïve café, Straße, Ελλάδα, Привет мир",
    "日本語のテキスト。中文句子 한국어 문장",
    "العربية עברית हिन्दी ไทย",
    "🌍🚀 family: 👨‍👩‍👧‍👦 flag: 🇫🇷",
    "e\u0301 decomposed and é composed",
    "zero\u200bwidth and nbsp\u00a0here \u2028 line separator",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|im_start|> <|im_end|>x<|im_end|>",
    "<|im_start |> not special <im_end>",
    "https://example.org/a?b=c&d=%20#frag",
    "ALLCAPS camelCase snake_case kebab-case",
    "!!! ??? ... --- ___ ``` ~~~ $$$",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "\x00\x01\x7f control",
    "\U0010ffff \ufffd \ud7ff",
    "",
    " ",
    "\n",
]


def load():
    """The tokenizer that transformers builds from the GGUF file, with SmolLM2's own pre-tokenizer.

    transformers does not know `smollm` and falls back to GPT-2's rule. It differs where white space comes before a
    digit: the model's tokenizer.json cuts digits out first, as llama.cpp does.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(GGUF.parent), gguf_file=GGUF.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


if __name__ == "__main__":
    peer = load()
    lines = [json.dumps({"text": text, "ids": peer(text).input_ids}) for text in TEXTS]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n")
