"""Configure generators: a T5 trained on a corpus, and how it ranks (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from gensar_core.config.base import Count, Name, Parts, Positive, Rate, Settings, Share, in_turn
from gensar_core.config.search_spaces import Between
from gensar_core.errors import UserError


class ScratchSize(Settings):
    """Set the sizes of a T5 built from scratch; the names are those of the T5 configuration."""

    d_model: Positive = 128
    d_ff: Positive = 512
    d_kv: Positive = 32
    num_heads: Positive = 4
    num_layers: Positive = 3
    num_decoder_layers: Positive = 3
    dropout_rate: Annotated[Share, Between(0.0, 0.4)] = 0.1


class OnePassSettings(Settings):
    """Configure a causal model over user logs (`backbone: causal` or `causal:NAME`)."""

    hidden_size: Positive = 96
    """Sizes of a model from scratch, in the shape of a Llama; the names are those of its configuration. A pretrained
    one has its own."""
    intermediate_size: Positive = 256
    num_layers: Positive = 3
    num_heads: Positive = 4
    max_positions: Positive = 4096
    dropout: Annotated[Share, Between(0.0, 0.6)] = 0.3
    """Dropout of embeddings and of what each layer adds."""
    hidden_share: Annotated[Share, Between(0.0, 0.6)] = 0.3
    """Share of the entries of every history that a training step hides, drawn anew each time."""
    node_vectors: bool = True
    """Give each prefix of codes a vector of its own, added to the embedding of its last code."""
    item_vectors: bool = False
    """Begin the vector of an item's last code with what the vectors of its codes leave over of the item's own text and
    click vectors, in place of zero. With `node_vectors` and `warm_start` only."""
    node_dropout: Annotated[Share, Between(0.0, 0.6)] = 0.3
    query_vectors: bool = True
    """Give each query of the training log a vector of its own, beside its words."""
    query_words: bool = False
    """Add the mean embedding of a query's words to the behavior token that asks for its item. With a warm start, words
    then find the items that they describe from the first step, in queries that nobody typed before as well."""
    query_dropout: Share = 0.0
    """Share of the search targets of a training step that do without the vector and the clicks of their query, as a
    query that nobody typed before has neither: its words must tell what it asks for."""
    other_identifier_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Factor in the loss of an item's other identifier, for which every click that is a target is asked as well: the
    semantic one of a recommended item, the collaborative one of a searched item. Rows are up to twice as long."""
    click_evidence: bool = True
    """Let the model weigh what other users' training clicks say for an item: those after the same query, and those
    beside the clicks of the history. With `likelihood: catalogue` only."""

    def shaped_as(self, other: OnePassSettings) -> OnePassSettings:
        """Return these settings with those of ``other`` that decide which weights a model has."""
        return self.model_copy(update={name: getattr(other, name) for name in _SHAPE})


#: Fields of `OnePassSettings` that decide which weights a model has.
_SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "max_positions",
    "node_vectors",
    "query_vectors",
)


class ExamplesPerEpoch(Settings):
    """Set a task's weight as a number of examples."""

    examples: Count


#: Courses of the learning rate.
RateSchedule: TypeAlias = Literal["cosine", "linear", "constant", "inverse_square_root"]

TaskWeight: TypeAlias = Annotated[
    Annotated[Annotated[float, Field(ge=0.0)], Tag("factor")] | Annotated[ExamplesPerEpoch, Tag("count")],
    Discriminator(lambda value: "count" if isinstance(value, Mapping | ExamplesPerEpoch) else "factor"),
]


class TrainingSettings(Settings):
    """Configure the stage `train_generator`; the corpus is read from files."""

    backbone: str = "google-t5/t5-small"
    """A hub name or local folder of a T5, or `scratch`. Or `causal`, a causal language model from scratch, which reads
    a user's whole log in one pass; `causal:NAME` begins with the pretrained one of that hub name or local folder."""
    size: ScratchSize = ScratchSize()
    one_pass: OnePassSettings = OnePassSettings()
    untied_output: bool = False
    """Give a T5 a fresh output matrix of its own, in place of its embeddings (WebUltron)."""
    whole_word_embedding: bool = False
    """Add to each token that a T5's encoder reads a vector for the number of its word in the prompt. An identifier is
    one word (P5)."""
    epochs: Annotated[float, Field(gt=0.0)] = 200.0
    patience: Positive | None = 10
    """Stop after this many validations without improvement; null never stops early."""
    batch_size: Positive = 8192
    """Examples per optimizer step, over all devices and accumulation steps."""
    batch_tokens: Positive = 16384
    """Padded input and target tokens per forward pass; choose what fits the device's memory."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """`adafactor` moves each matrix of a T5 by a share of its size: the learning rate, or `1 / sqrt(step)` if that is
    less (Shazeer and Stern, 2018). T5 and TIGER were trained so, at 0.01."""
    learning_rate: Annotated[Rate, Between(1.0e-4, 1.0e-2, log=True)] = 1.0e-3
    embedding_rate: Annotated[Rate, Between(1.0, 30.0, log=True)] = 1.0
    """Factor on the learning rate of the token embeddings. T5 draws them with unit variance, about ten times as wide as
    its other matrices, so training from scratch needs steps about ten times as long; a pretrained model needs none."""
    weight_decay: Annotated[float, Field(ge=0.0), Between(1.0e-7, 1.0e-1, log=True)] = 1.0e-7
    warmup_share: Share = 0.01
    rate_schedule: RateSchedule = "cosine"
    """The rate rises over `warmup_share` of the steps, then falls along a cosine or a straight line to zero, or stays.
    `inverse_square_root` lets it stand still over that share, then fall with the square root of the steps (TIGER)."""
    gradient_clip: Rate = 1.0
    weight_average: Share | None = None
    """Validate and keep an exponential moving average of the weights, of which each step keeps this share (0.999; less
    in the first steps of a training). Null: the weights themselves."""
    label_smoothing: Share = 0.0
    """Share of each target token's mass that is spread evenly over all tokens that it competes with."""
    logit_adjustment: Annotated[float, Field(ge=0.0)] = 0.0
    """In training, add this times the log of an item's training clicks to the logits of its tokens when it is to be
    recommended: the scores then hold less of its popularity (Menon et al., 2021). The paper: 0."""
    likelihood: Literal["vocabulary", "catalogue"] = "vocabulary"
    """Tokens that a token of an identifier competes with, in training and in ranking: all tokens (Eq. 12), or only
    those that continue the identifier of some item of the catalogue."""
    warm_start: bool = False
    """From scratch: initialize the token embeddings from the vectors of the items that a token describes, and the
    cross-attention so that it averages the prompt."""
    task_weights: dict[Name, TaskWeight] = {}
    """Number of times a task's examples are seen in one epoch: 0.5 sees a random half of them; `{examples: N}` sees N,
    drawn anew each epoch without repetition, so all where there are fewer. Unnamed tasks: 1.0. A causal model reads
    logs whole: for `nrip`, `nsqp` and `nsip` the number is the factor of their loss. A task of the prompt file that the
    corpus lacks has no examples, whatever its weight (an ablation inherits the weights of its base)."""
    validations_per_epoch: Positive = 1
    """Validations per epoch, and the maximum number of users of each task to validate on (0: all of them): evenly
    spread, or those with the latest targets."""
    validation_users: Count = 0
    validation_choice: Literal["spread", "latest"] = "spread"
    validate_among: Literal["candidates", "catalogue"] = "candidates"
    """Rank each valid target among its 1 + 99 candidates, or among all items by a search with 50 beams."""

    @property
    def reads_logs(self) -> bool:
        """Tell whether the model reads users' whole logs, not a prompt a target."""
        return self.backbone == "causal" or self.pretrained_causal is not None

    @property
    def reads_clicks(self) -> bool:
        """Tell whether training reads the file of training events."""
        return self.reads_logs or self.logit_adjustment > 0.0

    @property
    def pretrained_causal(self) -> str | None:
        """Return the hub name or folder of the pretrained causal language model to begin with."""
        name = self.backbone.removeprefix("causal:")
        return None if name == self.backbone else name

    @model_validator(mode="after")
    def _warm_start_is_from_scratch(self) -> TrainingSettings:
        if self.warm_start and self.backbone not in ("scratch", "causal"):
            raise ValueError("warm_start needs backbone: scratch or causal; a pretrained model has trained embeddings")
        if self.reads_logs and self.one_pass.item_vectors and not (self.warm_start and self.one_pass.node_vectors):
            raise ValueError("one_pass.item_vectors needs warm_start: true and one_pass.node_vectors: true")
        return self

    @model_validator(mode="after")
    def _added_layers_are_those_of_a_t5(self) -> TrainingSettings:
        for name in ("untied_output", "whole_word_embedding"):
            if getattr(self, name) and self.reads_logs:
                raise ValueError(f"{name} is for a T5; set it to false for a causal model")
        if self.optimizer != "adamw" and self.reads_logs:
            raise ValueError(f"optimizer: {self.optimizer} is for a T5; write adamw for a causal model")
        if self.untied_output and self.warm_start:
            raise ValueError("warm_start makes the embeddings the output matrix; set untied_output: false")
        return self


#: Precision in which a trained model computes: exact, or rounded to 8 bits before each product.
Precision: TypeAlias = Literal["float32", "bfloat16"]


class OtherIdentifier(Settings):
    """Set the factor with which the log-probability of an item's other identifier is added to its score.

    Both identifiers follow the same prompt. The other identifier is the semantic one in rec and the collaborative one
    in search. The paper: none.
    """

    rec: Annotated[float, Field(ge=0.0)] = 0.0
    search: Annotated[float, Field(ge=0.0)] = 0.0


class RankingSettings(Settings):
    """Configure the stage `rank_generator`."""

    users_per_batch: Positive = 64
    """Users whose candidates are scored in one forward pass."""
    beams: Positive | None = None
    """Rank only the candidates that a beam search of this width reaches (the paper: 30); null ranks every candidate
    exactly."""
    other_identifier: OtherIdentifier = OtherIdentifier()
    """Weight of an item's other identifier in its score."""
    precision: Precision = "float32"
    """bfloat16 moves scores by a hundredth, and is twice as fast for a model as wide as t5-small where the processor
    multiplies in it; elsewhere ranking computes in float32 and logs this."""


class RetrievalSettings(Settings):
    """Configure the stage `full_rank_generator`, besides the data set's protocol."""

    beams: Annotated[int, Field(ge=20)] | None = 50
    """Beam width over the whole catalogue; items that the beam search misses have no rank. Null scores every item
    exactly, which takes as long as ranking candidate lists of all items."""
    users_per_batch: Positive = 64
    """Users per forward pass."""
    other_identifier: OtherIdentifier = OtherIdentifier()
    """As in `ranking`. With beams, items are searched by either identifier, and what is found is scored by both."""
    precision: Precision = "float32"
    """As in `ranking`."""


class GeneratorSettings(TrainingSettings):
    """Configure an entry of `generators`."""

    corpus: Name
    """An entry of `corpora`; or keys that override those of the corpus of `base`, or of the corpus that their own
    `base` names. They make a corpus with this generator's name."""
    identifier: None = None
    """Another entry of `identifiers` for the corpus; or keys that override those of the corpus's identifier, and make
    an identifier with this generator's name. Both are found in `corpus` once the configuration is read."""
    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""
    start_from: Name | None = None
    """Another entry of `generators` whose trained weights initialize this training; tokens are matched by name, new
    ones start at random. Backbone and size are then those of that entry."""
    start_from_identifiers: bool = False
    """Start from the T5 that learned the identifiers of the corpus (`kind: genret`), which has the codes as tokens.
    Backbone and size are then its own, whatever is written or inherited here; the corpus takes its tokenizer
    (`tokenizer: identifiers`)."""
    scatter: Parts = 1
    """Number of parts in which targets are ranked among their candidates or among all items, each a separate job.
    Results do not depend on it."""
    ranking: RankingSettings = RankingSettings()
    retrieval: RetrievalSettings = RetrievalSettings()

    @model_validator(mode="after")
    def _warm_start_is_of_new_weights(self) -> GeneratorSettings:
        starts = {"start_from": self.start_from is not None, "start_from_identifiers": self.start_from_identifiers}
        if self.warm_start and any(starts.values()):
            first = next(name for name, given in starts.items() if given)
            raise ValueError(f"warm_start would overwrite the weights of {first}; set warm_start: false")
        if all(starts.values()):
            raise ValueError("start_from and start_from_identifiers are both set; a training starts from one model")
        return self

    @model_validator(mode="after")
    def _beams_know_the_vocabulary_alone(self) -> GeneratorSettings:
        if self.ranking.beams is not None and self.likelihood == "catalogue":
            raise ValueError("ranking.beams searches among the candidates alone and needs likelihood: vocabulary")
        if self.ranking.beams is not None and self.ranking.other_identifier != OtherIdentifier():
            raise ValueError("ranking.beams finds some candidates only; ranking.other_identifier needs scores of all")
        return self


def with_starts(
    generators: Mapping[str, GeneratorSettings], identifiers: Mapping[str, Any], where: str
) -> dict[str, GeneratorSettings]:
    """Return all entries; those that start from another model take over its backbone and size.

    ``identifiers`` maps each generator to the settings of its identifiers. ``where`` begins every error message. Raises
    UserError on a circular `start_from`, on identifiers that no T5 learned, and on a backbone or size that contradicts
    those of the generator to start from.
    """
    resolved: dict[str, GeneratorSettings] = {}
    for name in generators:
        chain, other = {name: None}, generators[name].start_from
        while other is not None and other not in resolved:
            if other in chain:
                raise UserError(f"{where}.{name}.start_from: circular: {in_turn([*chain, other])}")
            chain[other] = None
            other = generators[other].start_from
        for one in reversed(chain):
            entry = generators[one]
            first = resolved[entry.start_from] if entry.start_from is not None else None
            if entry.start_from_identifiers:
                first = identifiers[one]
                if first.kind != "genret":
                    raise UserError(
                        f"{where}.{one}.start_from_identifiers: no T5 learned identifiers of kind {first.kind}; write "
                        "false, or give the corpus those of kind genret"
                    )
            elif first is not None:
                _check_agreement(entry, first, f"{where}.{one}")
                entry = entry.model_copy(update={"one_pass": entry.one_pass.shaped_as(first.one_pass)})
            if first is not None:
                entry = entry.model_copy(update={"backbone": first.backbone, "size": first.size})
            resolved[one] = entry
    return {name: resolved[name] for name in generators}


def _check_agreement(entry: GeneratorSettings, first: Any, where: str) -> None:
    """Raise UserError when an entry sets another backbone or size than the model it starts from."""
    written = {"backbone": entry.backbone} if "backbone" in entry.model_fields_set else {}
    written |= {f"size.{name}": getattr(entry.size, name) for name in sorted(entry.size.model_fields_set)}
    theirs = {"backbone": first.backbone, **{f"size.{name}": value for name, value in first.size}}
    if first.reads_logs:
        shape = entry.one_pass.model_fields_set.intersection(_SHAPE)
        written |= {f"one_pass.{name}": getattr(entry.one_pass, name) for name in sorted(shape)}
        theirs |= {f"one_pass.{name}": value for name, value in first.one_pass}
    for path, given in written.items():
        if given != theirs[path]:
            start = f"start_from: {entry.start_from}"
            raise UserError(f"{where}.{path}: is {given!r}, but {start} has {theirs[path]!r}; leave it out")
