"""Load a backbone's tokenizer or train one on the data set, and add a token for every code and behavior."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from gensar_core.errors import UserError
from gensar_core.runtime.hub import Hub, first_line
from gensar_core.runtime.stage import write_json

TRAINED: Final = "trained"
#: Instead of a tokenizer's name: the one in the folder of the identifiers.
OF_IDENTIFIERS: Final = "identifiers"

#: T5's first three tokens, numbered as T5's configuration expects.
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"

_BYTES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Splits after Metaspace has turned blanks into U+2581: words, numbers and punctuation are separated, and each keeps the
# blank before it, so no token spans a blank. Chinese and Japanese have none between words: there, a change from one of
# their scripts to another ends a word, lest a phrase that recurs becomes one token.
_WORDS: Final = Regex(
    "▁?\\p{Han}+|▁?\\p{Hiragana}+|▁?[\\p{Katakana}ー]+|▁?[\\p{L}\\p{M}&&[^\\p{Han}\\p{Hiragana}\\p{Katakana}ー]]+"
    "|▁?\\p{N}+|▁?[^▁\\p{L}\\p{M}\\p{N}]+|▁"
)

# Texts whose tokens show whether a tokenizer treats words alike in every position.
_PROBES: Final = ("piano keys", "USB-C cable, 6 ft.", "naïve; (2nd) edition", "钢琴 键盘")


@dataclass(frozen=True)
class NewTokens:
    """Hold the tokens added to a tokenizer, and its size (highest token id + 1) with and without them."""

    tokens: dict[str, int]
    vocabulary_size: int
    base_vocabulary_size: int

    def write(self, path: Path) -> None:
        """Write new_tokens.json."""
        names = ("vocabulary_size", "base_vocabulary_size", "tokens")
        write_json(path, {name: getattr(self, name) for name in names})


def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """Load a tokenizer by hub name or local folder; one without a padding token pads with the end of sequence.

    Raises UserError when it is missing or does not fit.
    """
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(f"tokenizer {name!r}: no such folder")
    hub = Hub(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **hub.options)
    except Exception as error:
        # The hub's client has no common exception for "missing" and "not a tokenizer".
        raise UserError(
            f"tokenizer {name!r} cannot be loaded ({hub.reason(error)}); download it while online, name a local folder "
            f"or a model of the hub that this machine can reach, or write `tokenizer: {TRAINED}`"
        ) from error
    check_tokenizer(tokenizer, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_corpus_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a corpus or a trained model. Raises UserError if the folder holds none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; build the corpus first")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UserError(f"{folder}: holds no tokenizer that opens ({first_line(error)}); build it again") from error


def word_lead(tokenizer: transformers.PreTrainedTokenizerBase) -> str | None:
    """Return what to put before a text so that its tokens are those of its words, each encoded alone in the same way.

    That is nothing for T5, which reads a blank before the first word anyway, and a blank for byte-level tokenizers,
    which tell words after a blank from words at a text's start. None: neither makes texts the sum of their words.
    """
    for lead in ("", " "):
        words = [[lead + word for word in text.split()] for text in _PROBES]
        whole = [tokenizer(lead + text, add_special_tokens=False).input_ids for text in _PROBES]
        if whole == [[i for w in part for i in tokenizer(w, add_special_tokens=False).input_ids] for part in words]:
            return lead
    return None


def check_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError unless texts joined from separately tokenized words equal texts tokenized whole."""
    cure = f"take that of the backbone, or write `tokenizer: {TRAINED}`"
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {name!r} has no fast form (tokenizer.json); {cure}")
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {name!r} has no end-of-sequence token; {cure}")
    if word_lead(tokenizer) is None:
        raise UserError(f"tokenizer {name!r} does not split text at blanks; {cure}")


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> transformers.PreTrainedTokenizerBase:
    """Train a byte-pair tokenizer of at most ``vocabulary_size`` tokens on ``texts``.

    Token 0 pads, 1 ends a sequence, 2 is unknown, as in T5; 256 byte tokens follow and write what the vocabulary lacks,
    so every text can be restored from its tokens (up to NFC and runs of blanks).
    """
    learned = Tokenizer(models.BPE(unk_token=UNKNOWN))
    learned.normalizer = _normalizer()
    learned.pre_tokenizer = _splitter()
    learned.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size - len(_BYTES),
            special_tokens=[PAD, EOS, UNKNOWN],
            # Rare characters (a catalogue may hold thousands) are left to the byte tokens.
            limit_alphabet=vocabulary_size // 4,
            min_frequency=2,
            show_progress=False,
        ),
    )
    return _as_transformers(_with_bytes(learned))


def add_tokens(tokenizer: transformers.PreTrainedTokenizerBase, tokens: Sequence[str], name: str) -> NewTokens:
    """Add ``tokens`` at the end of the vocabulary, in their order. Raises UserError when one is already in it."""
    base = len(tokenizer)
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if token in vocabulary:
            raise UserError(f"tokenizer {name!r} holds the token {token} already; name the tokenizer it was made from")
    # Blanks before a token belong to it and blanks after it to the next word, so a word after a token is tokenized like
    # a word after a word. Not normalized: tokens match the text as written.
    added = [AddedToken(token, lstrip=True, rstrip=False, normalized=False, special=True) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if ids != list(range(base, base + len(tokens))):
        raise UserError(f"tokenizer {name!r} has gaps in its vocabulary; take another")
    return NewTokens(dict(zip(tokens, ids, strict=True)), len(tokenizer), base)


def _normalizer() -> Any:
    return normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("\\s+"), " "), normalizers.Strip()])


def _splitter() -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always", split=False), pre_tokenizers.Split(_WORDS, "isolated")]
    )


def _with_bytes(learned: Tokenizer) -> Tokenizer:
    """Rebuild a tokenizer with the same merges, and byte tokens after the special ones."""
    model = json.loads(learned.to_str())["model"]
    special = (PAD, EOS, UNKNOWN)
    rest = [token for token in sorted(model["vocab"], key=model["vocab"].__getitem__) if token not in special]
    vocabulary = {token: number for number, token in enumerate((*special, *_BYTES, *rest))}
    merges = [tuple(pair) for pair in model["merges"]]
    whole = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=UNKNOWN, byte_fallback=True))
    whole.normalizer = learned.normalizer
    whole.pre_tokenizer = learned.pre_tokenizer
    whole.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    whole.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return whole


def _as_transformers(tokenizer: Tokenizer) -> transformers.PreTrainedTokenizerBase:
    wrapped: transformers.PreTrainedTokenizerBase = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
    return wrapped
