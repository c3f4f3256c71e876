"""Tokenizers of SentencePiece: tokenizer.model, a protobuf message of pieces, their scores, and how texts are cut.

The message is sentencepiece_model.proto of github.com/google/sentencepiece, here with the fields that encoding needs. A
tokenizer is built as transformers 5 does for models without a class of their own (convert_slow_tokenizer.py,
`SpmConverter`), so that it encodes as SentencePiece.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from ellm.checkpoint.json_file import check_file
from ellm.checkpoint.tokenizer_json import check_charsmap
from ellm.system.errors import InputError, one_line
from ellm.text.package_errors import refusing

_UNIGRAM, _BPE = 1, 2  # model_type
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # type of a piece
_SPACE = "\u2581"
_FIELDS: dict[str, dict[str, tuple[int, str, str]]] = {  # number, type, default
    "Piece": {"piece": (1, "STRING", ""), "score": (2, "FLOAT", "0"), "type": (3, "INT32", "1")},
    "Trainer": {
        "model_type": (3, "INT32", "1"),
        "byte_fallback": (35, "BOOL", "false"),
        "unk_id": (40, "INT32", "0"),
        "bos_id": (41, "INT32", "1"),
        "eos_id": (42, "INT32", "2"),
    },
    "Normalizer": {
        "precompiled_charsmap": (2, "BYTES", ""),
        "add_dummy_prefix": (3, "BOOL", "true"),
        "remove_extra_whitespaces": (4, "BOOL", "true"),
        "escape_whitespaces": (5, "BOOL", "true"),
    },
}
_PARTS = {"pieces": (1, "Piece"), "trainer": (2, "Trainer"), "normalizer": (3, "Normalizer")}


def read(path: Path, legacy: bool) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer in a file, and what tokenizer_config.json says unless it says otherwise.

    `legacy`: each stretch of text between added tokens begins with a space, not the first alone.

    Raises InputError if the file is broken, or neither BPE nor Unigram.
    """
    from google.protobuf.message import DecodeError  # slow to import, and few folders need it

    check_file(path)
    model = _message()()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path}: is not a SentencePiece model: {one_line(error)}") from error
    with refusing(f"{path}: broken tokenizer"):
        return _build(path, model, legacy), _defaults(model)


@cache
def _message() -> type[Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="sentencepiece.proto", package="ellm", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for key, (number, kind, default) in fields.items():
            type_ = getattr(field, f"TYPE_{kind}")
            message.field.add(name=key, number=number, type=type_, default_value=default, label=field.LABEL_OPTIONAL)
    whole = file.message_type.add(name="Model")
    for key, (number, part) in _PARTS.items():
        label = field.LABEL_REPEATED if key == "pieces" else field.LABEL_OPTIONAL
        whole.field.add(name=key, number=number, type=field.TYPE_MESSAGE, type_name=f".ellm.{part}", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ellm.Model"))


def _defaults(model: Any) -> dict[str, Any]:
    ids = {"bos_token": model.trainer.bos_id, "eos_token": model.trainer.eos_id, "unk_token": model.trainer.unk_id}
    found = {role: model.pieces[number].piece for role, number in ids.items() if 0 <= number < len(model.pieces)}
    return {**found, "add_bos_token": "bos_token" in found}


def _build(path: Path, model: Any, legacy: bool) -> Tokenizer:
    kind, trainer, rules = model.trainer.model_type, model.trainer, model.normalizer
    if kind not in (_UNIGRAM, _BPE):
        raise InputError(f"{path}: model_type is {kind}, ellm reads Unigram ({_UNIGRAM}) and BPE ({_BPE})")
    if not 0 <= trainer.unk_id < len(model.pieces):
        raise InputError(f"{path}: unk_id is {trainer.unk_id}, there are {len(model.pieces)} pieces")
    own = [piece.piece for piece in model.pieces if piece.type == _USER_DEFINED]
    backend = Tokenizer(_bpe(path, model, own) if kind == _BPE else _unigram(model))
    backend.normalizer = _normalizer(path, rules, legacy)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rules.add_dummy_prefix:
        scheme = "always" if legacy else "first"
        steps.append(pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False))
    if own:  # they are taken whole, wherever they stand
        pattern = "|".join(re.escape(piece) for piece in sorted(own, key=len, reverse=True))
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    if steps:
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    strip = [decoders.Strip(content=" ", left=1)] if rules.add_dummy_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    control = [piece.piece for piece in model.pieces if piece.type == _CONTROL]
    backend.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in control])
    return backend


def _bpe(path: Path, model: Any, own: list[str]) -> BPE:
    """The merge of two pieces comes earlier the higher the score of what they make."""
    vocab = {piece.piece: number for number, piece in enumerate(model.pieces)}
    if len(vocab) != len(model.pieces):
        raise InputError(f"{path}: two of its {len(model.pieces)} pieces are the same")
    normal = {piece.piece: (-piece.score, vocab[piece.piece]) for piece in model.pieces if piece.type == _NORMAL}
    merges = []
    for piece, order in normal.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                merges.append((*order, left, right))
    return BPE(
        vocab=vocab,
        merges=[merge[2:] for merge in sorted(merges)],
        unk_token=model.pieces[model.trainer.unk_id].piece,
        fuse_unk=True,
        byte_fallback=model.trainer.byte_fallback,
        ignore_merges=bool(own),
    )


def _unigram(model: Any) -> Unigram:
    vocab = [(piece.piece, piece.score) for piece in model.pieces]
    return Unigram(vocab=vocab, unk_id=model.trainer.unk_id, byte_fallback=model.trainer.byte_fallback)


def _normalizer(path: Path, rules: Any, legacy: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if rules.precompiled_charsmap:
        check_charsmap(path, rules.precompiled_charsmap)
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:  # spaces alone, not other white space
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.escape_whitespaces:
        steps.append(normalizers.Replace(" ", _SPACE))
    if rules.add_dummy_prefix and legacy:  # Metaspace puts no space before one, SentencePiece does
        steps.append(normalizers.Replace(Regex(rf"\A{_SPACE}"), _SPACE * 2))
    return normalizers.Sequence(steps)
