"""Small tokenizers of other programs, made with their libraries."""

import functools
import io
import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "hello world this is a test of the small model",
    "the quick brown fox jumps over the lazy dog.",
    "日本語のテキスト を少し",
    "émile café naïve \n\n  x",
    "def f(self):\n\treturn 1\n",
] * 20
SPECIAL = ["[UNK]", "</s>", "<|im|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train(model, trainer, special=SPECIAL, **parts) -> tokenizers.Tokenizer:
    """A tokenizer with these parts. It cuts and fills up what it reads, as many files do."""
    made = tokenizers.Tokenizer(model)
    for name in ("normalizer", "pre_tokenizer"):
        if name in parts:
            setattr(made, name, parts[name])
    alphabet = pre_tokenizers.ByteLevel.alphabet() if "letters" in parts else []
    options = {"initial_alphabet": alphabet} if "letters" in parts else {}
    options |= {"unk_token": "[UNK]"} if trainer is trainers.UnigramTrainer else {}
    made.train_from_iterator(
        TEXT,
        trainer(vocab_size=600, special_tokens=special, show_progress=False, **options),
    )
    for name in ("decoder", "post_processor"):
        if name in parts:
            setattr(made, name, parts[name])
    made.enable_truncation(5)
    made.enable_padding(length=9)
    return made


def gpt2(**options):
    return train(
        models.BPE(),
        trainers.BpeTrainer,
        letters=True,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
        post_processor=processors.ByteLevel(trim_offsets=True),
        **options,
    )


def wordpiece(**options):
    return train(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer,
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
        **options,
    )


def unigram():
    return train(
        models.Unigram(),
        trainers.UnigramTrainer,
        normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def llama():
    """Byte pairs in which the normalizer puts the space, and bytes stand for unknown letters."""
    made = train(
        models.BPE(byte_fallback=True, unk_token="[UNK]"),
        trainers.BpeTrainer,
        [*SPECIAL, *BYTES],
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
    )
    spec = json.loads(made.to_str())
    # bytes are entries like others
    spec["added_tokens"] = spec["added_tokens"][: len(SPECIAL)]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


JSON = {"gpt2": gpt2, "wordpiece": wordpiece, "unigram": unigram, "llama": llama}


@functools.cache
def sentencepiece_model(exact: bool = False, **options) -> bytes:
    """A sentencepiece model.

    Args:
        exact: keeps all spaces and characters, as Llama's does; else the library's defaults.
        options: of its trainer.
    """
    file = io.BytesIO()
    if exact:
        options |= {
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
        }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=file,
        vocab_size=400 if exact else 120,
        hard_vocab_limit=False,
        minloglevel=5,
        **options,
    )
    return file.getvalue()


def write(folder, kind: str):
    """The file of one of JSON, or of "sentencepiece" or "exact", in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind in JSON:
        JSON[kind]().save(str(folder / "tokenizer.json"))
        return folder
    (folder / "tiny.model").write_bytes(sentencepiece_model(exact=kind == "exact"))
    return folder / "tiny.model"
