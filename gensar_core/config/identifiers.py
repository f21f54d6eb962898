"""Configure identifiers: the joint RQ-VAE (paper, section 3.2), and the kinds it is compared with.

Each kind has a model of the settings that its file in identifiers/kinds/ reads. Where an entry of `identifiers` holds
more, such as a seed or names of embeddings, which only the workflow reads, it has a second model. Both name the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from gensar_core.config.base import Count, Name, Positive, Rate, Settings, Share
from gensar_core.config.generators import ScratchSize
from gensar_core.schema import SIDES, Side


def _check_sizes(sizes: object) -> object:
    """Report invalid sizes with one message for both ways to write them, instead of one message for each."""
    for size in sizes if isinstance(sizes, list) else [sizes]:
        if type(size) is not int or size < 2:
            raise ValueError("a level needs a whole number of codes, 2 or more (or a list with one a level)")
    return sizes


_Size = Annotated[int, Field(ge=2)]
CodebookSizes = Annotated[_Size | list[_Size], BeforeValidator(_check_sizes)]


class SinkhornSettings(Settings):
    """Balance the choice of codes in training: every code takes an equal share of the batch (LC-Rec)."""

    levels: Positive = 1
    """Number of levels to balance: the last specific levels of each side."""
    epsilon: Annotated[float, Field(ge=0.003)] = 0.003
    """Weight of the plan's entropy, relative to half the range of the distances; below 0.003 numbers underflow."""
    iterations: Positive = 50


class KindSettings(Settings):
    """Hold what a kind of identifiers reads.

    ``inputs`` names the data that it is built from, by keys of `identifiers.interface.INPUTS`; ``tells`` the sides that
    it is learned from, where no embedding is named; ``leaves_curve`` says whether its training writes curve.json. They
    stand here, and not in the kind's file, because the workflow asks for them before it loads any code of a kind.
    """

    inputs: ClassVar[tuple[str, ...]]
    tells: ClassVar[tuple[Side, ...]] = ()
    leaves_curve: ClassVar[bool] = False

    kind: str

    def of_stage(self) -> KindSettings:
        """Return the settings that the stage reads: all, where an entry has no others."""
        return self


class QuantizerSettings(KindSettings):
    """Quantize vectors level by level, each level what the levels before it left over; one or two sides."""

    inputs = ("vectors",)
    leaves_curve = True

    kind: Literal["rqvae", "rq_kmeans"] = "rqvae"
    """`rqvae` learns encoders, decoders and codebooks; `rq_kmeans` clusters the vectors themselves, without
    training."""
    shared_levels: Count = 2
    """L_m levels shared by both identifiers, then L_n levels specific to each side; K codes per level, or a list with
    one number per level, shared levels first."""
    specific_levels: Count = 2
    codebook_size: CodebookSizes = 256
    collisions: Literal["unique", "extra_digit", "sinkhorn_repair", "none"] = "unique"
    """Treatment of items that share an identifier. `unique` moves the fewest to the nearest free identifiers;
    `extra_digit` numbers them with one more code (TIGER); `sinkhorn_repair` is the authors' way, which may leave
    some colliding; `none` leaves all."""
    separation_share: Share = 0.125
    """Maximum share of a side's last codes to move at each validation, to separate colliding items (0: none)."""
    initialization_share: Share = 1.0
    """Share of the items from which k-means initializes each codebook; 1.0 uses all items."""
    sinkhorn: SinkhornSettings | None = None
    """Balanced codes in training, and how `sinkhorn_repair` balances; null trains with nearest codes only."""

    latent_size: Positive = 32
    """d, the latent size of one side; shared codes have twice as many dimensions when there are two sides."""
    hidden_sizes: list[Positive] = [512, 256, 128, 64]
    commitment: Rate = 0.25
    """alpha of Eq. 9."""
    epochs: Positive = 500
    batch_size: Positive = 1024
    learning_rate: Rate = 1.0e-3
    warmup_share: Share = 0.01
    """The rate rises over this share of the steps, then falls to zero along a cosine or a straight line."""
    rate_schedule: Literal["cosine", "linear"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0.0)] = 1.0e-5
    gradient_clip: Rate = 1.0
    residual_gradient: bool = False
    """Let residuals past the first level carry gradient to the encoder. The released code does not; over 20 epochs on
    Amazon Beauty, doing so reduced collisions and unexplained variance on both sides."""
    principal_start: bool = True
    """Initialize each autoencoder as the projection on its vectors' principal components; false: at random."""
    revive_dead_codes: bool = True
    """Replace codes unused for a whole epoch with residuals of badly quantized items."""
    evaluate_every: Positive = 10
    """Epochs between validations (collision rate over all items); the best checkpoint is kept."""

    @model_validator(mode="after")
    def _levels_and_sizes_agree(self) -> QuantizerSettings:
        if self.levels == 0:
            raise ValueError("shared_levels and specific_levels are both 0; an identifier needs at least one level")
        if isinstance(self.codebook_size, list) and len(self.codebook_size) != self.levels:
            raise ValueError(
                f"codebook_size lists {len(self.codebook_size)} sizes for {self.levels} levels; write one a level, "
                "shared levels first"
            )
        if self.sinkhorn is not None and self.sinkhorn.levels > self.specific_levels:
            raise ValueError(
                f"sinkhorn.levels is {self.sinkhorn.levels}, but there are {self.specific_levels} specific levels"
            )
        return self

    @property
    def levels(self) -> int:
        """Return L_m + L_n, the length of an identifier."""
        return self.shared_levels + self.specific_levels

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each level, shared levels first."""
        size = self.codebook_size
        return tuple(size) if isinstance(size, list) else (size,) * self.levels


class ClusterSettings(KindSettings):
    """Cluster the graph of items clicked by the same users; an identifier is the path to an item's cluster (P5-CID)."""

    inputs = ("clicks", "items")
    tells = ("collaborative",)

    kind: Literal["clusters"]
    parts: Annotated[int, Field(ge=2)] = 20
    """N, the number of parts that a cluster is divided into."""
    leaf_size: Positive = 500
    """k, the largest number of items in a cluster that is not divided, and the number of different codes."""
    last_code: Literal["sequential", "random"] = "sequential"
    """Tell the items of a leaf apart by 0, 1, ... in the order of their ids, or different numbers below k."""

    @model_validator(mode="after")
    def _siblings_have_different_codes(self) -> ClusterSettings:
        if self.leaf_size <= self.parts:
            raise ValueError(
                f"leaf_size is {self.leaf_size}; with {self.parts} parts and one for items without clicks, write "
                f"{self.parts + 1} or more, so that clusters side by side have different codes"
            )
        return self


class NumberSettings(KindSettings):
    """Number the items at random; an identifier is the number's text (DSI-QG)."""

    inputs = ("items",)

    kind: Literal["numbers"]
    below: Positive | None = None
    """Draw from 0 to this number, excluded; null takes as many numbers as there are items."""


class TitleSettings(KindSettings):
    """Take the words of an item's title; an identifier is this text (WebUltron's URL)."""

    inputs = ("items",)
    tells = ("semantic",)

    kind: Literal["titles"]
    max_words: Positive = 16
    """Number of words kept, without the number that tells equal titles apart."""


class ProductSettings(KindSettings):
    """Quantize parts of a vector on their own; an identifier has one code a part (WebUltron's product quantization)."""

    inputs = ("vectors",)

    kind: Literal["product"]
    subspaces: Positive = 24
    """Number of equal parts of a vector, and of codes of an identifier."""
    codebook_size: _Size = 256
    rotate: bool = False
    """First rotate the vectors so that the parts carry equal shares of the variance, learned (OPQ)."""
    collisions: Literal["unique", "extra_digit", "none"] = "unique"
    """Treatment of items that share an identifier, as for `rqvae`; the paper leaves them (`none`)."""


class GenRetSettings(KindSettings):
    """Learn codes of item texts from training searches by discrete auto-encoding, one level after another (GenRet)."""

    inputs = ("searches", "items")
    tells = ("semantic",)
    leaves_curve = True

    kind: Literal["genret"]
    levels: Positive = 3
    """Learned levels, of `codebook_size` codes each; one more code numbers the items that share all of them."""
    codebook_size: _Size = 512
    backbone: str = "google-t5/t5-small"
    """A hub name or local folder of a T5, or `scratch`; and its tokenizer (`trained`: on this data)."""
    size: ScratchSize = ScratchSize()
    tokenizer: str = "google-t5/t5-small"
    vocabulary_size: Annotated[int, Field(ge=300)] = 8000
    max_item_tokens: Positive = 128
    """Maximum text lengths; texts are cut after the last word that fits."""
    max_query_tokens: Positive = 32
    held_out: Share = 0.05
    """Share of the pairs of a query and a clicked item that only serve to choose the weights to keep; one at least."""
    first_warmup_epochs: Positive = 1
    """Epochs before the codebook of the first level is initialized, and before that of each later level."""
    warmup_epochs: Positive = 10
    epochs: Positive = 200
    """Maximum epochs of each level after that; each reads every item once, with one of its queries."""
    patience: Positive | None = 10
    """Stop a level after this many validations without improvement; null never stops early."""
    evaluate_every: Positive = 1
    """Epochs between validations (recall of held-out pairs); the best weights are kept."""
    batch_size: Positive = 128
    learning_rate: Rate = 5.0e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    gradient_clip: Rate = 1.0


#: Settings that `rq_kmeans` ignores.
_OF_TRAINING = (
    "latent_size", "hidden_sizes", "commitment", "epochs", "batch_size", "learning_rate", "warmup_share",
    "rate_schedule", "weight_decay", "gradient_clip", "residual_gradient", "principal_start", "revive_dead_codes",
    "evaluate_every",
)  # fmt: skip


class _Drawn(Settings):
    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""


class _FromVectors(_Drawn):
    semantic: Name | None = None
    collaborative: Name | None = None

    @model_validator(mode="after")
    def _at_least_one_embedding(self) -> _FromVectors:
        if self.semantic is None and self.collaborative is None:
            raise ValueError("name an embedding as 'semantic', as 'collaborative', or one of each")
        return self


class RqvaeIdentifiers(QuantizerSettings, _FromVectors):
    """Configure an entry of `identifiers`. With a single embedding, both identifiers are learned from it."""

    kind: Literal["rqvae"] = "rqvae"

    def of_stage(self) -> QuantizerSettings:
        """Return the settings that the stage reads."""
        return self.part(QuantizerSettings)


class RqKmeansIdentifiers(QuantizerSettings, _FromVectors):
    """Configure an entry like `rqvae`; settings of training are ignored."""

    kind: Literal["rq_kmeans"]

    def of_stage(self) -> QuantizerSettings:
        """Return the settings that the stage reads; those it ignores keep their defaults."""
        read = self.part(QuantizerSettings)
        return QuantizerSettings(**{name: value for name, value in read if name not in _OF_TRAINING})


class ClusterIdentifiers(ClusterSettings, _Drawn):
    """Configure an entry; both identifiers are the same."""

    def of_stage(self) -> ClusterSettings:
        """Return the settings that the stage reads."""
        return self.part(ClusterSettings)


class NumberIdentifiers(NumberSettings, _Drawn):
    """Configure an entry; both identifiers are the same."""

    def of_stage(self) -> NumberSettings:
        """Return the settings that the stage reads."""
        return self.part(NumberSettings)


class ProductIdentifiers(ProductSettings, _FromVectors):
    """Configure an entry; both identifiers are those of the one embedding that it names."""

    @model_validator(mode="after")
    def _at_most_one_embedding(self) -> ProductIdentifiers:
        if self.semantic is not None and self.collaborative is not None:
            raise ValueError("name one embedding, as 'semantic' or as 'collaborative'; write null for the other")
        return self

    def of_stage(self) -> ProductSettings:
        """Return the settings that the stage reads."""
        return self.part(ProductSettings)


class GenRetIdentifiers(GenRetSettings, _Drawn):
    """Configure an entry; both identifiers are the same."""

    pseudo_queries: Name | None = None
    """Entry of `pseudo_queries` that supplies more queries of each item (the paper: docTTTTTquery); null: only those of
    training searches."""

    def of_stage(self) -> GenRetSettings:
        """Return the settings that the stage reads."""
        return self.part(GenRetSettings)


def _with_kind(entry: object) -> object:
    """Complete an entry that names no kind: it is an `rqvae`."""
    return {"kind": "rqvae", **entry} if isinstance(entry, Mapping) else entry


IdentifierSettings = Annotated[
    RqvaeIdentifiers
    | RqKmeansIdentifiers
    | ClusterIdentifiers
    | NumberIdentifiers
    | TitleSettings
    | ProductIdentifiers
    | GenRetIdentifiers,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]


def sides_told(entry: KindSettings) -> tuple[Side, ...]:
    """Name the sides of an item that an entry's identifiers tell of: its texts, its clicks, both or neither."""
    return tuple(side for side in SIDES if getattr(entry, side, None) is not None) or entry.tells
