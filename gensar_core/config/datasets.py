"""Settings of data sets: where the raw logs are, how they become events, and how events become samples."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gensar_core.config.base import Count, Name, Parts, Positive, Settings, Share


class NegativesSettings(Settings):
    """How many negatives a target has, and the BM25 that finds those of a search target."""

    negatives: Positive
    bm25_k1: Annotated[float, Field(gt=0.0)] = 0.9
    bm25_b: Share = 0.4


class SampleSettings(NegativesSettings):
    """How targets, histories and candidates are made (stage `samples`)."""

    #: Candidates besides the target, of each valid and test target.
    negatives: Positive = 99
    #: strict: no leak between a target and any input or training row; paper: the authors' order of events.
    history_protocol: Literal["strict", "paper"] = "strict"
    #: per_user: no training event or target of a user is later than any valid or test target of the same user; none:
    #: those of one task may be later than held-out targets of the other.
    training_cutoff: Literal["none", "per_user"] = "none"
    #: The longest history any method can see; a corpus or a model takes its own last part of it.
    max_recommendations: Positive = 50
    max_searches: Positive = 50
    #: leave_one_out: of a user's targets of a task the last is test, the one before valid; time: one moment for all
    #: users and both tasks parts train from valid, and another one valid from test.
    split: Literal["leave_one_out", "time"] = "leave_one_out"
    #: With leave_one_out, users with fewer targets of a task give none of that task.
    min_targets: Annotated[int, Field(ge=3)] = 3
    #: With time, the shares of train, valid and test in the targets of both tasks together.
    time_shares: list[float] = [0.8, 0.1, 0.1]
    #: Step name -> rows the step must give; a difference is reported as a warning.
    expected_rows: dict[str, Count] = {}

    @field_validator("time_shares")
    @classmethod
    def _three_parts_of_a_whole(cls, shares: list[float]) -> list[float]:
        if len(shares) != 3 or not all(share > 0.0 for share in shares) or not math.isclose(sum(shares), 1.0):
            raise ValueError("expected three positive shares that sum to 1")
        return shares


class TrainingNegativesSettings(NegativesSettings):
    """How the negatives of training targets are drawn (stage `training_negatives`)."""

    negatives: Positive = 4


class FullRankingSettings(Settings):
    """Which test targets are ranked among all items, and among which of them (table {dataset}_full.csv)."""

    #: Targets of each task at most, evenly spread (0: all).
    users: Count = 0
    #: Whether items that the user clicked in training or as a valid target are no candidates; the target always is one.
    exclude_clicked: bool = False


class CanonicalSettings(Settings):
    """How raw Amazon files become canonical tables (stage `canonical`)."""

    category: str
    #: Share of the reviews that become search sessions when no product-search files are there.
    search_share: Share = 0.76
    #: Step name -> rows the step must give; a difference is reported as a warning.
    expected_rows: dict[str, Count] = {}


class _DatasetBase(Settings):
    #: In how many parts of the users, each a job of its own, the samples are made; results do not depend on it.
    scatter: Parts = 1
    samples: SampleSettings = SampleSettings()
    training_negatives: TrainingNegativesSettings = TrainingNegativesSettings()
    full_ranking: FullRankingSettings = FullRankingSettings()
    #: Entry of `tables` that results/tables/{dataset}.csv shows.
    table: Name = "overall"
    #: Entries of `tables` and `figures` that `snakemake all` builds for this data set beside that table.
    experiments: list[Name] = []
    #: Entries of `identifiers` whose collision rates results/figures/{dataset}_collisions.svg shows (Figure 5).
    compared_identifiers: list[Name] = []


class AmazonDataset(_DatasetBase):
    """An Amazon 2014 category, with or without the product-search files of Ai et al."""

    source: Literal["amazon"]
    category: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    #: `download`, or a folder that holds the raw files.
    raw: str
    search_share: Share = 0.76
    expected_rows: dict[str, Count] = {}

    def canonical_settings(self) -> CanonicalSettings:
        """The part of these settings that the stage `canonical` reads."""
        return CanonicalSettings(
            category=self.category, search_share=self.search_share, expected_rows=self.expected_rows
        )


class SimulationSettings(Settings):
    """The simulated shop (stage `simulate`)."""

    users: Positive
    items: Annotated[int, Field(ge=150)]
    #: Mean number of reviews a user writes; nobody writes fewer than five.
    mean_reviews: Annotated[float, Field(ge=5.0)] = 9.0
    #: Share of items without a description, and of raw lines that are broken on purpose.
    missing_descriptions: Share = 0.1
    dirty_lines: Share = 0.01
    #: Share of items that stand in a second category too, and so are asked for by two queries.
    second_categories: Share = 0.25
    #: What makes raw files large: sentences a review, items that nobody reviews, asins that each item lists, and in how
    #: many ways each category is asked for.
    review_sentences: Count = 1
    unreviewed_items: Count = 0
    related_items: Count = 0
    query_variants: Positive = 1


class SimulatedDataset(_DatasetBase):
    """The demo: raw files in the Amazon formats, written by the project's own simulator."""

    source: Literal["simulated"]
    users: Positive
    items: Annotated[int, Field(ge=150)]
    mean_reviews: Annotated[float, Field(ge=5.0)] = 9.0
    missing_descriptions: Share = 0.1
    dirty_lines: Share = 0.01

    #: The category under which the simulator files its shop.
    category: Literal["Simulated"] = "Simulated"

    def simulation_settings(self) -> SimulationSettings:
        """The part of these settings that the stage `simulate` reads."""
        return SimulationSettings(
            users=self.users,
            items=self.items,
            mean_reviews=self.mean_reviews,
            missing_descriptions=self.missing_descriptions,
            dirty_lines=self.dirty_lines,
        )

    def canonical_settings(self) -> CanonicalSettings:
        """The part of these settings that the stage `canonical` reads."""
        return CanonicalSettings(category=self.category)


class ClickSettings(Settings):
    """How cleaned logs of clicks become canonical tables (stage `canonical` of the sources below)."""

    #: Only users and items with at least so many events, over both tasks, until all have them; 0 keeps all.
    min_interactions: Count = 5
    #: Keep items that have neither title nor description, and the events on them.
    keep_textless_items: bool = False


class EventLogSettings(ClickSettings):
    """What the stage `canonical` of an event log reads; the tables themselves arrive as files."""


class EventLogDataset(_DatasetBase):
    """One's own logs: a table of items and a table of events, each Parquet, CSV or JSON lines (docs/own-data.md)."""

    source: Literal["eventlog"]
    items: str
    events: str
    min_interactions: Count = 5
    keep_textless_items: bool = False

    def canonical_settings(self) -> EventLogSettings:
        """The part of these settings that the stage `canonical` reads."""
        return EventLogSettings(min_interactions=self.min_interactions, keep_textless_items=self.keep_textless_items)


class KuaiSARSettings(ClickSettings):
    """What the stage `canonical` of KuaiSAR reads."""


class KuaiSARDataset(_DatasetBase):
    """KuaiSAR in its published files."""

    source: Literal["kuaisar"]
    #: The folder that holds rec_inter.csv, src_inter.csv and item_features.csv.
    raw: str
    min_interactions: Count = 5
    keep_textless_items: bool = False

    def canonical_settings(self) -> KuaiSARSettings:
        """The part of these settings that the stage `canonical` reads."""
        return KuaiSARSettings(min_interactions=self.min_interactions, keep_textless_items=self.keep_textless_items)


DatasetSettings = Annotated[
    AmazonDataset | SimulatedDataset | EventLogDataset | KuaiSARDataset, Field(discriminator="source")
]
