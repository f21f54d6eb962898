"""A sentence-transformers model of one small BERT layer over whole words."""

from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast


def save_tiny_bert(folder: Path, words: Sequence[str], size: int, seed: int = 0, **options: object) -> Path:
    """Save a model of random weights that knows these words, the first two for padding and unknown words."""
    padding, unknown = words[:2]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=padding, unk_token=unknown)
    fast.save_pretrained(folder / "bert")
    torch.manual_seed(seed)
    sizes = {"hidden_size": size, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * size}
    BertModel(BertConfig(vocab_size=len(words), **sizes, **options)).save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(size)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "tiny"))
    return folder / "tiny"
