"""Folders of tokenizer files in many forms, drawn from a seed, and what transformers makes of them.

Run from the root it rewrites tokenizer_folders.json: python tests/helpers/tokenizer_folders.py  (needs transformers 5)
"""

import json
import random
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

FILE = Path(__file__).parents[1] / "checkpoint" / "tokenizer_folders.json"
SEEDS = range(80)
SPECIAL = ["<s>", "</s>", "<unk>", "<|user|>"]
MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("o", "n"), ("h", "e"), ("l", "l"), ("he", "ll")]
SPLIT = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = ["the", " an", "hello ", "  ", "\n", " 1234", "é", "日本", "🙂", ".", "can't", "\t", "<", "|>", "x", "\u2581"]
NEW = ["<new>", "<|im_start|>", "<|im_end|>", "plain", "[PAD]"]


def backend(base: str, template: list[str] | None) -> Tokenizer:
    """A small tokenizer of a kind that models have, which puts the tokens of `template` around a text."""
    made = _sentencepiece(base) if base.startswith("metaspace") or base == "prepend" else _byte_level(base)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.add_tokens([AddedToken("<tool>", special=False, normalized=base == "gpt2")])
    if template is not None:
        tokens = [(text, made.token_to_id(text)) for text in template if text != "$A"]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    elif base == "split":
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def _byte_level(base: str) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *(left + right for left, right in MERGES)]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if base == "split":
        split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(base: str) -> Tokenizer:
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz.,'"]
    merges = [*MERGES, ("\u2581", "the"), ("\u2581", "\u2581")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += [*(left + right for left, right in merges), "<|user|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if base == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=base.removeprefix("metaspace-"), split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return made


def write(folder: Path, seed: int) -> None:
    """config.json, tokenizer.json and what may lie beside it."""
    draw = random.Random(seed)
    base = draw.choice(["gpt2", "split", "metaspace-first", "metaspace-never", "prepend"])
    template = draw.choice([None, None, ["<s>", "$A"], ["<s>", "$A", "</s>"]])
    made = backend(base, template)
    if draw.random() < 0.2:
        made.enable_truncation(4)
        made.enable_padding(length=9, pad_token="<unk>")
    made.save(str(folder / "tokenizer.json"))
    vocab = made.get_vocab_size()
    settings = _settings(draw)
    new = draw.sample(NEW, draw.randint(0, 3))
    form = draw.choice(["decoder", "decoder", "legacy", "both", "none"])
    if form in ("decoder", "both"):
        settings["added_tokens_decoder"] = _decoder(draw, made, vocab, new)
    if form in ("legacy", "both"):
        (folder / "added_tokens.json").write_text(json.dumps({text: vocab + i for i, text in enumerate(new)}))
        (folder / "special_tokens_map.json").write_text(json.dumps(_special_tokens_map(draw, new)))
    if form != "none" and new and draw.random() < 0.5:
        settings["eos_token"] = new[0]
    if draw.random() < 0.9:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": vocab + 16}))


def _settings(draw: random.Random) -> dict:
    settings = {
        "tokenizer_class": draw.choice(["PreTrainedTokenizerFast", "TokenizersBackend", None]),
        "bos_token": draw.choice([None, "<s>", {"__type": "AddedToken", "content": "<s>", "lstrip": True}]),
        "eos_token": draw.choice([None, "</s>"]),
        "unk_token": draw.choice([None, "<unk>"]),
        "pad_token": draw.choice([None, "[PAD]", "</s>"]),
        "model_max_length": draw.choice([None, 3, 1e30]),
        "add_prefix_space": draw.choice([None, False, True]),
        "clean_up_tokenization_spaces": draw.choice([None, False, True]),
        "split_special_tokens": draw.choice([None, False, False, True]),
        "add_bos_token": draw.choice([None, False, True]),
        "add_eos_token": draw.choice([None, False, True]),
        "legacy": draw.choice([None, False, True]),
        "image_token": draw.choice([None, None, "<image>"]),
        "additional_special_tokens": draw.choice([None, [], ["<tool>"], ["<|user|>", "<more>"]]),
        "extra_special_tokens": draw.choice([None, None, {}, {"audio_token": "<audio>"}, ["<tool>", "<again>"]]),
    }
    return {key: value for key, value in settings.items() if value is not None}


def _decoder(draw: random.Random, made: Tokenizer, vocab: int, new: list[str]) -> dict:
    entries = {number: token.content for number, token in made.get_added_tokens_decoder().items()}
    if draw.random() < 0.3:  # what is not said of a token is as tokenizer.json has it
        entries.pop(draw.choice(list(entries)))
    entries |= {vocab + i: text for i, text in enumerate(new)}
    flags = ["lstrip", "rstrip", "single_word", "normalized"]
    return {
        str(number): {"content": text, "special": draw.random() < 0.7} | {flag: draw.random() < 0.2 for flag in flags}
        for number, text in entries.items()
    }


def _special_tokens_map(draw: random.Random, new: list[str]) -> dict:
    flags = {"lstrip": False, "normalized": draw.random() < 0.5, "rstrip": draw.random() < 0.3, "single_word": False}
    values = {
        "bos_token": draw.choice([None, "<s>", {"content": "<s>"} | flags]),
        "eos_token": draw.choice([None, *new, {"content": "</s>"} | flags]),
        "pad_token": draw.choice([None, "<unk>"]),
    }
    return {key: value for key, value in values.items() if value is not None}


def texts(seed: int) -> list[str]:
    """Texts of words, of the tokens that the folder of this seed may add, and of their neighbours."""
    draw = random.Random(seed + 1_000_000)
    words = [*WORDS, *SPECIAL, *NEW, "<tool>", "<image>", "<audio>", "<more>", "<again>"]
    return ["", *("".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(5))]


def peer(folder: Path, seed: int) -> dict:
    """What transformers makes of a folder: ids of texts, with and without special tokens, and texts of these."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts(seed)]
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(seed)]
    shown = [[tokenizer.decode(one, skip_special_tokens=skip) for skip in (False, True)] for one in ids]
    roles = {role: getattr(tokenizer, f"{role}_id") for role in ("bos_token", "eos_token")}
    return {"ids": ids, "bare": bare, "shown": shown, **roles}


def main() -> None:
    found = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), seed)
            found.append(json.dumps(peer(Path(folder), seed), ensure_ascii=False, separators=(",", ":")))
    FILE.write_text("[\n" + ",\n".join(found) + "\n]\n")


if __name__ == "__main__":
    main()
