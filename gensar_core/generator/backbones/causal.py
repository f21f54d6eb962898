"""A causal language model over user logs: every entry of a log is a target in one pass.

The folder of a trained model is that of the Hugging Face library. What the library does not know lies beside it in
`catalogue.safetensors`: vectors of the trie's nodes and of queries, and the weights of click evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from gensar_core.config.generators import OnePassSettings
from gensar_core.errors import UserError
from gensar_core.generator.backbones.token_rows import add_corpus_tokens
from gensar_core.generator.click_evidence import FEATURES, NEW
from gensar_core.generator.log_rows import AskedWords
from gensar_core.nn.dropout import dropout
from gensar_core.nn.t5 import unloadable
from gensar_core.runtime.hub import Hub
from gensar_core.runtime.seeds import derive_seed

#: File of the vectors and weights beside the Hugging Face folder.
CATALOGUE_FILE: Final = "catalogue.safetensors"
#: Name of `attention` among those of the Hugging Face library; masks are made as for its default.
_ATTENTION: Final = "gensar"
#: Families of pretrained models: the layers of each are named as in a Llama, and a mask of any shape is kept.
_FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
#: Initial weights of the evidence of co-clicks; that of queries begins with them in search and at 0 in rec, that of
#: items not clicked before at 0.
_EVIDENCE: Final = 0.3


class CausalGenerator(torch.nn.Module):
    """Join a causal language model with vectors of nodes and queries, and with weights of click evidence.

    A node's vector is added to the embedding of its last code, where it is read and where it is predicted; a query's to
    the behavior token that asks for its item. Both begin at zero. Shapes: B rows, T tokens, d hidden size.
    """

    def __init__(self, lm: Any, settings: OnePassSettings, n_nodes: int, n_queries: int, depth: int) -> None:
        super().__init__()
        width = lm.config.hidden_size
        self.lm = lm
        self.settings = settings
        self.node_vectors = torch.nn.Parameter(torch.zeros(n_nodes if settings.node_vectors else 0, width))
        self.query_vectors = torch.nn.Parameter(torch.zeros(n_queries if settings.query_vectors else 0, width))
        # By task, level of the trie, and feature of click evidence.
        self.evidence_weight = torch.nn.Parameter(torch.full((2, depth, FEATURES), _EVIDENCE))
        self.evidence_floor = torch.nn.Parameter(torch.full((2, depth, FEATURES), -3.0))
        with torch.no_grad():
            self.evidence_weight[0, :, 0] = 0.0
            self.evidence_weight[:, :, NEW] = 0.0
            self.evidence_floor[:, :, 0] = -1.0
        self._dropout = settings.dropout
        transformers.AttentionInterface.register(_ATTENTION, attention)
        transformers.AttentionMaskInterface.register(_ATTENTION, transformers.AttentionMaskInterface()["sdpa"])  # type: ignore[no-untyped-call]
        lm.set_attn_implementation(_ATTENTION)
        for layer in lm.model.layers:
            layer.self_attn.o_proj.register_forward_hook(self._drop)
            layer.mlp.down_proj.register_forward_hook(self._drop)

    def _drop(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return dropout(output, self._dropout, self.training)

    def save(self, folder: Path) -> None:
        """Write the Hugging Face folder, and the other parameters beside it."""
        self.lm.save_pretrained(folder)
        own = {name: value.contiguous() for name, value in self.state_dict().items() if not name.startswith("lm.")}
        save_file(own, folder / CATALOGUE_FILE)

    @classmethod
    def load(cls, folder: Path, training: OnePassSettings | None = None) -> CausalGenerator:
        """Read what `save` wrote, to train it further by the settings ``training`` if given.

        Raises UserError when a file is missing or damaged.
        """
        try:
            lm = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            own = load_file(folder / CATALOGUE_FILE)
            settings = OnePassSettings.model_validate(lm.config.one_pass)
            settings = training.shaped_as(settings) if training is not None else settings
            counts = len(own["node_vectors"]), len(own["query_vectors"]), own["evidence_weight"].shape[1]
            model = cls(lm, settings, *counts)
            model.load_state_dict(own, strict=False)
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder}: holds no causal generator that opens ({error}); train it again") from error
        return model

    @property
    def embeddings(self) -> torch.Tensor:
        """Return the token embeddings [vocabulary, d]."""
        weight: torch.Tensor = self.lm.get_input_embeddings().weight
        return weight

    @property
    def outputs(self) -> torch.Tensor:
        """Return the output matrix [vocabulary, d]."""
        weight: torch.Tensor = self.lm.get_output_embeddings().weight
        return weight

    def drawn_nodes(self) -> torch.Tensor:
        """Return the node vectors, in training with the dropout of one step, [nodes, d]."""
        return dropout(self.node_vectors, self.settings.node_dropout, self.training)

    def states(
        self,
        tokens: torch.Tensor,
        nodes: torch.Tensor,
        queries: torch.Tensor | None,
        positions: torch.Tensor,
        mask: torch.Tensor,
        node_vectors: torch.Tensor,
        cache: transformers.DynamicCache | None = None,
        words: AskedWords | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states [B, T, d].

        ``tokens``, ``nodes`` and ``queries`` int64 [B, T] are the ids of each token, of its node and of the query
        whose item it asks for (negative: none); ``mask`` bool [B, T, S] says which of the S tokens, those in ``cache``
        first, each token sees; ``positions`` [B, T]; ``words`` are those of the queries.
        """
        inputs = functional.embedding(tokens, self.embeddings)
        if len(node_vectors):
            inputs = inputs + functional.embedding(nodes.clamp_min(0), node_vectors) * (nodes >= 0)[:, :, None]
        if queries is not None and len(self.query_vectors):
            asked = (queries >= 0) & (queries < len(self.query_vectors))
            places = torch.where(asked, queries, 0)
            inputs = inputs + functional.embedding(places, self.query_vectors) * asked[:, :, None]
        if words is not None and self.settings.query_words:
            vectors = functional.embedding(words.token, self.embeddings) * words.weight[:, None]
            inputs = inputs.flatten(0, 1).index_add(0, words.place, vectors).view_as(inputs)
        inputs = dropout(inputs, self._dropout, self.training)
        found: torch.Tensor = self.lm.model(
            inputs_embeds=inputs,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return found

    def with_evidence(self, task: int, depth: int, evidence: torch.Tensor) -> torch.Tensor:
        """Weigh the evidence [j, K] of continuations at a level of the trie: what it adds to their logits [j]."""
        floor = functional.softplus(self.evidence_floor[task, depth])
        return (torch.log(floor + evidence) * self.evidence_weight[task, depth]).sum(1)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Mix the values that each query sees, [B, T, H, D] of ``query`` [B, H, T, D]; ``mask`` bool [B, 1, T, S].

    On a CPU, torch's fused attention takes six times as long for its gradient in bfloat16 as the products do that it
    is made of. In float32 it is the faster way.
    """
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        fused: tuple[torch.Tensor, None] = transformers.AttentionInterface()["sdpa"](  # type: ignore[no-untyped-call]
            module, query, key, value, mask, scaling=scaling, **options
        )
        return fused
    # Heads that share keys and values stand one after the other.
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    hidden = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    scores = (query * scaling) @ key.transpose(-1, -2) + hidden
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def pretrained(name: str, tokenizer: Any, corpus: Path, seed: int) -> Any:
    """Load a pretrained causal language model, float32, with rows for the tokens of a corpus.

    Raises UserError when it cannot be loaded, is of a family whose layers are not known here, or does not have the
    tokenizer of the corpus.
    """
    hub = Hub(name)
    try:
        family = transformers.AutoConfig.from_pretrained(name, **hub.options).model_type
        if family not in _FAMILIES:
            raise UserError(f"backbone: 'causal:{name}' is a {family}; name one of {', '.join(_FAMILIES)}")
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **hub.options)
    except UserError:
        raise
    except Exception as error:
        # The hub's client has no common exception for missing and unreachable files.
        raise unloadable(f"causal:{name}", hub.reason(error)) from error
    add_corpus_tokens(model, name, tokenizer, corpus, seed)
    # Identifiers end with the tokenizer's end of sequence, whatever the model was trained to end its texts with.
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model


def from_scratch(settings: OnePassSettings, vocabulary: int, tokenizer: Any, seed: int) -> Any:
    """Build a Llama-shaped model, its weights drawn from ``seed``.

    Embeddings have unit variance, and the last norm scales states by hidden_size**-0.5: the first logits have about
    unit variance. Maps back into the residual stream begin small.
    """
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=settings.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        model = transformers.LlamaForCausalLM(config)
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
        for layer in model.model.layers:
            for into in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                torch.nn.init.kaiming_uniform_(into.weight, a=5**0.5)
            for into in (layer.mlp.gate_proj, layer.mlp.up_proj):
                torch.nn.init.kaiming_uniform_(into.weight, a=5**0.5)
    torch.nn.init.constant_(model.model.norm.weight, config.hidden_size**-0.5)
    return model
