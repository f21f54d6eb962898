"""Settings of identifiers: the joint RQ-VAE (paper, section 3.2)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gensar_core.config.base import Count, Name, Positive, Rate, Settings, Share


class RQVAESettings(Settings):
    """What the stage `identifiers` reads; the embeddings themselves arrive as files."""

    #: L_m levels shared by both identifiers, then L_n levels of each side's own; K codes a level.
    shared_levels: Count = 2
    specific_levels: Count = 2
    codebook_size: Annotated[int, Field(ge=2)] = 256
    #: d, the latent size of one side; shared codes have twice as many dimensions when there are two sides.
    latent_size: Positive = 32
    hidden_sizes: list[Positive] = [512, 256, 128, 64]
    #: alpha of Eq. 9.
    commitment: Rate = 0.25
    epochs: Positive = 500
    batch_size: Positive = 1024
    learning_rate: Rate = 1.0e-3
    #: The rate rises over this share of the steps and then falls to zero along a cosine.
    warmup_share: Share = 0.01
    weight_decay: Annotated[float, Field(ge=0.0)] = 1.0e-5
    gradient_clip: Rate = 1.0
    #: Let residuals past the first level carry gradient to the encoder. The released code does not; over 20 epochs on
    #: Amazon Beauty that had fewer collisions and less unexplained variance on both sides.
    residual_gradient: bool = False
    #: Begin each autoencoder as the projection on its vectors' principal components; false: at random.
    principal_start: bool = True
    #: Replace codes unused for a whole epoch by residuals of badly quantized items.
    revive_dead_codes: bool = True
    #: At each validation, at most this share of a side's last codes is moved to tell colliding items apart (0: none).
    separation_share: Share = 0.125
    #: Validate (collision rate over all items) every so many epochs; the best checkpoint is kept.
    evaluate_every: Positive = 10
    #: Share of the items within which k-means initializes each codebook; 1.0 takes all items.
    initialization_share: Share = 1.0

    @model_validator(mode="after")
    def _at_least_one_level(self) -> RQVAESettings:
        if self.shared_levels + self.specific_levels == 0:
            raise ValueError("shared_levels and specific_levels are both 0; an identifier needs at least one level")
        return self


class IdentifierSettings(RQVAESettings):
    """An entry of `identifiers`. With one embedding alone, both identifiers are learned from it."""

    semantic: Name | None = None
    collaborative: Name | None = None

    @model_validator(mode="after")
    def _at_least_one_embedding(self) -> IdentifierSettings:
        if self.semantic is None and self.collaborative is None:
            raise ValueError("name an embedding as 'semantic', as 'collaborative', or one of each")
        return self

    def rqvae(self) -> RQVAESettings:
        """The part of these settings that the stage reads."""
        return RQVAESettings(**{name: getattr(self, name) for name in RQVAESettings.model_fields})
