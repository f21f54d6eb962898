"""Configure data sets: where the raw logs are, how they become events, and how events become samples."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gensar_core.config.base import Count, Name, Parts, Positive, Settings, Share
from gensar_core.config.generators import Precision


class NegativesSettings(Settings):
    """Configure the number of negatives per target, and the BM25 that selects those of search targets."""

    negatives: Positive
    bm25_k1: Annotated[float, Field(gt=0.0)] = 0.9
    bm25_b: Share = 0.4


class SampleSettings(NegativesSettings):
    """Configure targets, histories and candidates (stage `samples`)."""

    negatives: Positive = 99
    """Negatives of each valid and test target: its candidates besides the target itself."""
    history_protocol: Literal["strict", "paper"] = "strict"
    """strict: no leak between a target and any input or training row; paper: the authors' order of events."""
    training_cutoff: Literal["none", "per_user"] = "none"
    """per_user: no training event or target of a user is later than any valid or test target of the same user; none:
    those of one task may be later than held-out targets of the other task."""
    max_recommendations: Positive = 50
    """Longest history that any method can see; a corpus or a model takes the last part of it."""
    max_searches: Positive = 50
    split: Literal["leave_one_out", "time"] = "leave_one_out"
    """leave_one_out: per user and task, the last target is test and the one before it is valid; time: one moment
    separates train from valid, and another valid from test, for all users and both tasks."""
    min_targets: Annotated[int, Field(ge=3)] = 3
    """With leave_one_out, users with fewer targets of a task contribute none of that task."""
    time_shares: list[float] = [0.8, 0.1, 0.1]
    """With time, the shares of train, valid and test among the targets of both tasks together."""
    cold_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the items to draw and hold out of all training; they stay targets and candidates of valid and test."""
    expected_rows: dict[str, Count] = {}
    """Step name -> rows that the step should leave; a difference is reported as a warning."""

    @field_validator("time_shares")
    @classmethod
    def _three_parts_of_a_whole(cls, shares: list[float]) -> list[float]:
        if len(shares) != 3 or not all(share > 0.0 for share in shares) or not math.isclose(sum(shares), 1.0):
            raise ValueError("expected three positive shares that sum to 1")
        return shares


class TrainingNegativesSettings(NegativesSettings):
    """Configure the negatives of training targets (stage `training_negatives`)."""

    negatives: Positive = 4


class FullRankingSettings(Settings):
    """Choose the test targets to rank among all items, and whether also without what their users clicked."""

    users: Count = 0
    """Maximum number of targets per task, evenly spread (0: all)."""
    unseen: bool = False
    """Rank each target a second time, without the items that its user clicked in training or as a valid target."""


class AnswerSettings(Settings):
    """Configure a trained generator's answers to many questions."""

    top: Positive = 10
    """Items of each answer."""
    beams: Positive | None = None
    """Width of the search, at least `top`; null means 50, or `top` if that is more. Fewer beams are faster and miss
    more."""
    items: str | None = None
    """File of raw item ids, one a line: what may be returned, such as what is in stock. Null: all items."""
    precision: Precision = "float32"
    """As in `ranking` of a generator."""

    @model_validator(mode="after")
    def _beams_reach_the_top(self) -> AnswerSettings:
        if self.beams is not None and self.beams < self.top:
            raise ValueError(f"beams must be at least top, {self.top}")
        return self


class RecommendationSettings(AnswerSettings):
    """Configure the stage `recommendations`: what is recommended to all users, or to some."""

    users: str | None = None
    """File of raw user ids, one a line: whom to recommend to. Null: all users."""
    again: bool = False
    """Return items of a user's history as well."""


class QueryAnswerSettings(AnswerSettings):
    """Configure the stage `searches`: the results of a file of queries."""

    file: str | None = None
    """Text file of the queries, one a line; each different line is answered once."""


class _SearchSettings(Settings):
    searches: Literal["made", "none"] = "made"
    """made: from the product-search files or, where they are missing, from the items' categories; none: recommendation
    clicks alone."""


class CanonicalSettings(_SearchSettings):
    """Configure how raw Amazon files become canonical tables (stage `canonical`)."""

    category: str
    release: Literal[2014, 2018, 2023] = 2014
    min_interactions: Positive | None = None
    """k of the k-core that is computed here from the file of all reviews, in which the earliest review of a user and an
    item counts; null: read the published 5-core instead, which releases 2014 and 2018 have."""
    search_share: Share = 0.76
    """Share of the reviews that become search sessions when the product-search files are missing."""
    keep_textless_items: bool = False
    """Keep reviewed items that have neither title nor description, and their reviews."""
    expected_rows: dict[str, Count] = {}
    """Step name -> rows that the step should leave; a difference is reported as a warning."""

    @model_validator(mode="after")
    def _core_is_there(self) -> CanonicalSettings:
        if self.release == 2023 and self.min_interactions is None:
            raise ValueError("release 2023 has no published 5-core; give 'min_interactions', usually 5")
        return self


class _DatasetBase(Settings):
    scatter: Parts = 1
    """Number of user parts in which samples, training negatives and the canonical tables of click logs are made, each a
    separate job; those of `amazon` and `simulated` are made by one. Results do not depend on it."""
    samples: SampleSettings = SampleSettings()
    training_negatives: TrainingNegativesSettings = TrainingNegativesSettings()
    full_ranking: FullRankingSettings = FullRankingSettings()
    recommendations: RecommendationSettings = RecommendationSettings()
    queries: QueryAnswerSettings = QueryAnswerSettings()
    table: Name = "overall"
    """Entry of `tables` shown in results/tables/{dataset}.csv."""
    published: str | None = None
    """Data set of gensar_core/evaluation/published.yaml whose figures stand below the tables among the catalogue."""
    new_items: str | None = None
    """Table of items to add to a trained generator without training it again (results/{dataset}/added/{generator}/);
    `recommendations` and `queries` are then answered with these items too."""
    experiments: list[Name] = []
    """Entries of `tables` and `figures` that `snakemake all` builds for this data set besides that table."""
    compared_identifiers: list[Name] = []
    """Entries of `identifiers` whose collision rates appear in results/figures/{dataset}_collisions.svg (Figure 5)."""


class AmazonDataset(_DatasetBase, CanonicalSettings):
    """Read a category of an Amazon release; that of 2014 with or without the product-search files of Ai et al."""

    source: Literal["amazon"]
    category: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    raw: str
    """`download`, or the folder that holds the raw files."""


class _ShopSettings(Settings):
    users: Positive
    items: Annotated[int, Field(ge=150)]
    mean_reviews: Annotated[float, Field(ge=5.0)] = 9.0
    """Mean number of reviews per user; every user writes at least five."""
    missing_descriptions: Share = 0.1
    """Share of items without a description, and share of raw lines that are broken on purpose."""
    dirty_lines: Share = 0.01


class SimulationSettings(_ShopSettings):
    """Configure the simulated shop (stage `simulate`)."""

    second_categories: Share = 0.25
    """Share of items filed under a second category as well, and therefore requested by two queries."""
    review_sentences: Count = 1
    """Options that enlarge the raw files: sentences per review, items that nobody reviews, asins that each item lists,
    and phrasings of each category's query."""
    unreviewed_items: Count = 0
    related_items: Count = 0
    query_variants: Positive = 1


class SimulatedDataset(_DatasetBase, _ShopSettings, _SearchSettings):
    """Simulate the demo: raw files in the Amazon formats, written by the project's simulator."""

    source: Literal["simulated"]
    category: Literal["Simulated"] = "Simulated"
    """Category under which the simulator files its shop."""


class ClickSettings(Settings):
    """Configure how cleaned click logs become canonical tables (stage `canonical` of the sources below)."""

    min_interactions: Count = 5
    """Minimum number of events per user and per item, over both tasks; the filter repeats until all have them. 0 keeps
    all."""
    keep_textless_items: bool = False
    """Keep items that have neither title nor description, and their events."""


class EventLogSettings(ClickSettings):
    """Configure the stage `canonical` of an event log; its tables are input files."""

    item_columns: dict[Literal["item_id", "title", "description", "brand", "categories"], str] = {}
    """Column -> its name in the item table, where the table calls it otherwise."""
    event_columns: dict[Literal["user_id", "time", "kind", "item_id", "query", "session_id"], str] = {}
    """Column -> its name in the event table, where the table calls it otherwise."""
    kinds: Literal["by_query"] | dict[str, Literal["recommendation", "search"] | None] = {}
    """Kind as the event table writes it, in any case -> what it is; null: leave its events out. by_query: there is no
    column of kinds, and an event is a search if it has a query."""
    time_unit: Literal["seconds", "milliseconds"] = "seconds"
    """Unit of times that are numbers."""


class EventLogDataset(_DatasetBase, EventLogSettings):
    """Read your own logs: a table of items and one of events, each Parquet, CSV or JSON lines (docs/own-data.md)."""

    source: Literal["eventlog"]
    items: str
    events: str


class KuaiSARSettings(ClickSettings):
    """Configure the stage `canonical` of KuaiSAR."""


class KuaiSARDataset(_DatasetBase, KuaiSARSettings):
    """Read KuaiSAR from its published files."""

    source: Literal["kuaisar"]
    raw: str
    """Folder that holds rec_inter.csv, src_inter.csv and item_features.csv."""


class QilinSettings(ClickSettings):
    """Configure the stage `canonical` of Qilin."""


class QilinDataset(_DatasetBase, QilinSettings):
    """Read Qilin from its published files."""

    source: Literal["qilin"]
    raw: str
    """Folder that holds the published folders: notes, recommendation_train and so on."""


DatasetSettings = Annotated[
    AmazonDataset | SimulatedDataset | EventLogDataset | KuaiSARDataset | QilinDataset, Field(discriminator="source")
]
