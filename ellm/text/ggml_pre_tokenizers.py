"""The pre-tokenizers of llama.cpp by the names that `tokenizer.ggml.pre` has for them (llama.cpp, src/llama-vocab.cpp).

Several cut elsewhere than the models' own tokenizer.json files do. GGUF files are made for llama.cpp, so it decides.
"""

from __future__ import annotations

from ellm.text.pre_tokenizer import PreTokenizer, Threes

_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s+(?!\S)|\s+"
_NEWLINES = rf"\s*[\r\n]+|{_SPACES}"
_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_SYMBOLS}|\s+(?!\S)"
_LLAMA3_WORDS = rf"{_CONTRACTION}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]+"
_LLAMA3 = rf"{_LLAMA3_WORDS}|{_SPACES}"
_QWEN2_BARE = rf"{_LEAD}\p{{L}}+|\p{{N}}|{_SYMBOLS}[\r\n]*|{_NEWLINES}"
_QWEN2 = rf"{_CONTRACTION}|{_QWEN2_BARE}"
_CASED = rf"{_LEAD}[\p{{Upper}}]*[\p{{Lower}}]+%s|{_LEAD}[\p{{Upper}}]+[\p{{Lower}}]*%s"
_O200K_REST = rf"\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n/]*|{_NEWLINES}"
_O200K = rf"{_CASED % (_CONTRACTION + '?', _CONTRACTION + '?')}|{_O200K_REST}"
_MARKED = rf"{_LEAD}[\p{{L}}\p{{M}}]+{_CONTRACTION}?"
_KANA_HAN = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
)
_DEEPSEEK3 = rf"{_DEEPSEEK3_WORDS}[\r\n]*|{_NEWLINES}"
_LINES = r"[^\n]+|\n+"
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_CASED_LETTERS = (
    r"A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    r"\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    r"\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    r"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    r"\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    r"\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    r"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    r"\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    r"\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    r"\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_HANGUL_AND_MARKS = (
    r"[\uac00-\ud7a3\u3131-\u318e]+|[\u3105-\u312f]+"
    r"|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
)
_ASIAN_SCRIPTS = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    r"\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)

_PLAIN_GPT2 = PreTokenizer((_GPT2,))
_DIGITS_GPT2 = PreTokenizer((r"\p{N}", _GPT2))
_GLM = PreTokenizer((_LLAMA3,))
_QWEN = PreTokenizer((_QWEN2,))
_DEEPSEEK_V3 = PreTokenizer((r"\p{N}{1,3}", _KANA_HAN, _DEEPSEEK3))
_BAILING = PreTokenizer(
    (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_LEAD}\p{{L}}+|\p{{N}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]|{_SPACES}",)
)
_EXAONE_MOE = rf"{_LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|{_SYMBOLS}[\r\n/]?|\s*[\r\n]|{_SPACES}"
_MARKED_CASED = _CASED.replace(r"\p{Upper}", r"\p{Upper}\p{M}").replace(r"\p{Lower}", r"\p{Lower}\p{M}")
_JAIS2_SPACES = "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
_BY_NAMES = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (_LLAMA3,), whole_words=True, add_bos=True
    ),
    "dbrx smaug-bpe chatglm-bpe": _GLM,
    "glm4 glm5": PreTokenizer((_LLAMA3,), whole_words=True),
    "jais-2": PreTokenizer((rf"{_LLAMA3_WORDS}|{_JAIS2_SPACES}|\s",)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), whole_words=True),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+\Z",
            r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
    ),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _DEEPSEEK_V3,
    "spark2_5": PreTokenizer((r"\p{N}{1,3}", _KANA_HAN, rf"{_DEEPSEEK3_WORDS}|[\r\n]|{_SPACES}", r"\p{N}")),
    "youtu": PreTokenizer(
        (f"{_HANGUL_AND_MARKS}|{_KANA_HAN}", rf"{_MARKED}|{_O200K_REST}".replace("{1,3}", "")), whole_words=True
    ),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": _DIGITS_GPT2,
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert": _PLAIN_GPT2,
    "jina-v1-en jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling exaone4": _PLAIN_GPT2,
    "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan solar-open megrez grok-2": _QWEN,
    "qwen35": PreTokenizer((_QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"),)),
    "ufakzeka": PreTokenizer((_QWEN2_BARE,)),
    "seed-coder": PreTokenizer((_QWEN2.replace(r"]+[\r\n]*", "]+"),)),
    "laguna": PreTokenizer((_LINES, _QWEN2)),
    "poro-chat bloom gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "tekken": PreTokenizer(
        (rf"{_CASED % ('', '')}|{_O200K_REST}".replace("{1,3}", ""),), whole_words=True, add_bos=True
    ),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer((_O200K,)),
    "granite-embed-multi-97m": PreTokenizer(
        (rf"{_MARKED_CASED % (_CONTRACTION + '?', _CONTRACTION + '?')}|{_O200K_REST}",), whole_words=True
    ),
    "tiny_aya cohere2moe": PreTokenizer((Threes(r"\p{N}+", keeps_lead=True), rf"{_MARKED}|{_O200K_REST}")),
    "afmoe": PreTokenizer((Threes(r"\p{N}+", keeps_lead=True), _ASIAN_SCRIPTS, _DEEPSEEK3)),
    "superbpe": PreTokenizer((r"\p{N}+", Threes("[0-9]+", keeps_lead=False))),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            r"[\t\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    "kimi-k2": PreTokenizer(
        (rf"\p{{Han}}+|{_LEAD}\p{{L-Han}}+{_CONTRACTION}?|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|{_NEWLINES}",)
    ),
    "bailingmoe bailingmoe2 llada-moe": _BAILING,
    "exaone-moe": PreTokenizer((rf"{_CONTRACTION}|{_EXAONE_MOE}",)),
    "gemma4 granite-embed-multi-311m": PreTokenizer(
        (_LINES,), whole_newlines=True, add_bos=True, byte_level=False, escape_spaces=True
    ),
    "sarvam-moe": PreTokenizer((_LINES,), byte_level=False, escape_spaces=True),
}
PRE_TOKENIZERS = {name: one for names, one in _BY_NAMES.items() for name in names.split()}
"""By the values of `tokenizer.ggml.pre`."""
