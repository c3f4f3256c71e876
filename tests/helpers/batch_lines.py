"""A batch of lines of all kinds, some of them bad."""

import json
import random

DOCUMENT = "Once upon a time there was a document."


def write_batch(folder, count, tokens):
    """in.jsonl, whose answers have up to so many tokens, and the document that some lines are about."""
    (folder / "document.txt").write_text(DOCUMENT)
    (folder / "in.jsonl").write_text("\n".join(_lines(count, tokens)))


def _lines(count, tokens):
    chosen = random.Random(0)
    for i in range(count):
        most = chosen.randint(1, tokens)
        chat = {"messages": [{"role": "user", "content": f"say {i}"}], "max_tokens": most, "temperature": 1.3}
        yield chosen.choice(
            [
                json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": chat}),
                json.dumps({"url": "/v1/completions", "body": {"prompt": f"{i}, ", "max_tokens": most}}),
                json.dumps({"prompt": f"what is {i}?", "document": "document.txt", "max_tokens": most}),
                json.dumps({"prompt": "seeded", "temperature": 2, "seed": i, "max_tokens": most}),
                json.dumps({"prompt": "hot", "temperature": -i - 1}) + "\n",
                '{"prompt": "torn',
            ]
        )
