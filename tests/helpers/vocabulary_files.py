"""Folders whose vocabulary is in another file than tokenizer.json, and what the authors' own libraries make of them.

Run from the root it rewrites vocabulary_files.json and *.model beside it: python tests/helpers/vocabulary_files.py
(needs sentencepiece, tiktoken and transformers 5)
"""

import base64
import io
import json
import random
import shutil
import tempfile
from pathlib import Path

from tokenizers import pre_tokenizers

from ellm.text import splits

PLACE = Path(__file__).parents[1] / "checkpoint"
FILE = PLACE / "vocabulary_files.json"
FORMS = ["bpe", "unigram", "kimi", "llama3", "tekken", "qwen2", "gpt2"]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A tokenizer cuts the text into the pieces that the model was trained with.",
    "There are 12 months, 365 days and 8760 hours in the year.",
    "Never trust the name of the file: look at the bytes in it.",
]
TRAINING = {"vocab_size": 320, "normalization_rule_name": "identity", "byte_fallback": True, "minloglevel": 2}
TRAINED = {
    "bpe": {"model_type": "bpe", "remove_extra_whitespaces": False, "user_defined_symbols": ["<sep>"]},
    "unigram": {"model_type": "unigram", "control_symbols": ["<end>"]},
}
LONGER = ["th", "the", " the", "in", "er", "an", "on", " a", "12", "123", "  ", "\n\n", "'t", "日", "日本", "é", "THE"]
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
WORDS = [
    "the",
    "The",
    " the",
    "an",
    " ",
    "  ",
    "\n",
    "\t",
    "é",
    "日本",
    "日本a",
    "🙂",
    "12345",
    "don't",
    ".",
    "e\u0301",
]
VISIBLE = [byte for byte in range(256) if chr(byte) in pre_tokenizers.ByteLevel.alphabet()]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]


def ranks() -> list[bytes]:
    """Tokens by rank: all bytes, then longer ones and what is needed to merge them."""
    found = [bytes([byte]) for byte in range(256)]
    for text in LONGER:
        token = text.encode()
        found += [token[:end] for end in range(2, len(token) + 1) if token[:end] not in found]
    return found


def write(folder: Path, form: str) -> None:
    """config.json, the vocabulary and tokenizer_config.json."""
    tokens = ranks()
    settings: dict = {"bos_token": "<s>", "eos_token": "</s>"}
    if form in TRAINED:
        shutil.copy(PLACE / f"{form}.model", folder / "tokenizer.model")
        settings["tokenizer_class"] = "LlamaTokenizer"
    elif form == "tekken":
        write_tekken(folder, tokens)
    else:
        settings["added_tokens_decoder"] = {
            str(len(tokens) + number): {"content": text, "special": True, "normalized": False}
            for number, text in enumerate(SPECIAL)
        }
        lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
        if form == "kimi":
            (folder / "tiktoken.model").write_bytes(b"".join(lines))
            settings["auto_map"] = {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}
        elif form == "llama3":
            (folder / "tokenizer.model").write_bytes(b"".join(lines))
        else:
            write_merges(folder, tokens)
            settings["tokenizer_class"] = {"qwen2": "Qwen2Tokenizer", "gpt2": "GPT2Tokenizer"}[form]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 512}))


def write_tekken(folder: Path, tokens: list[bytes]) -> None:
    names = ["<unk>", "<s>", "</s>", "[INST]"]
    content = {
        "config": {
            "pattern": splits.LLAMA3,
            "default_vocab_size": len(tokens) + 9,  # the last token is padding
            "default_num_special_tokens": 10,
        },
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(tokens)],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
    }
    (folder / "tekken.json").write_text(json.dumps(content))


def write_merges(folder: Path, tokens: list[bytes]) -> None:
    names = {token: name(token) for token in tokens}
    (folder / "vocab.json").write_text(json.dumps({text: rank for rank, text in enumerate(names.values())}))
    pairs = [f"{names[token[:-1]]} {names[token[-1:]]}" for token in tokens if len(token) > 1]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")


def name(token: bytes) -> str:
    """A token in GPT-2's characters for bytes."""
    return "".join(chr(byte) if byte in VISIBLE else chr(256 + HIDDEN.index(byte)) for byte in token)


def texts(form: str) -> list[str]:
    draw = random.Random(form)
    words = [*WORDS, *(["<sep>"] if form == "bpe" else []), *([] if form in TRAINED else SPECIAL)]
    return ["", *SENTENCES, *("".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(40))]


def peer(folder: Path, form: str) -> list[list[int]]:
    """Ids of the texts, nothing put around them."""
    if form in TRAINED:
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return [model.encode(text) for text in texts(form)]
    if form == "kimi":
        import tiktoken

        tokens = {token: rank for rank, token in enumerate(ranks())}
        special = {text: len(tokens) + number for number, text in enumerate(SPECIAL)}
        encoding = tiktoken.Encoding(form, pat_str=splits.KIMI, mergeable_ranks=tokens, special_tokens=special)
        return [encoding.encode(text, allowed_special="all") for text in texts(form)]
    import transformers

    kind = transformers.GPT2Tokenizer if form == "gpt2" else transformers.AutoTokenizer
    tokenizer = kind.from_pretrained(folder)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(form)]


def main() -> None:
    import sentencepiece

    for form, options in TRAINED.items():
        model = io.BytesIO()
        trainer = sentencepiece.SentencePieceTrainer
        trainer.train(sentence_iterator=iter(SENTENCES), model_writer=model, **TRAINING, **options)
        (PLACE / f"{form}.model").write_bytes(model.getvalue())
    found = []
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), form)
            found.append(f'"{form}":' + json.dumps(peer(Path(folder), form), separators=(",", ":")))
    FILE.write_text("{\n" + ",\n".join(found) + "\n}\n")


if __name__ == "__main__":
    main()
