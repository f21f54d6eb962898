"""Describe the public releases of Amazon reviews: 2014 (McAuley et al.), 2018 (Ni et al.), 2023 (Hou et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"


@dataclass(frozen=True)
class ReviewKeys:
    """Name the keys of a review's JSON object that are read; times are unix seconds, or ``milliseconds``."""

    user: str
    item: str
    time: str
    rating: str
    milliseconds: bool = False


@dataclass(frozen=True)
class ProductKeys:
    """Name the keys of a product's JSON object that are read, beside `title` and `description`.

    ``brand_detail`` is the key of the object `details` that holds the brand; where it is missing, ``brand`` does.
    """

    item: str
    brand: str
    features: str
    categories: str
    brand_detail: str | None = None


@dataclass(frozen=True)
class Release:
    """Describe a release: the homes of its files (`{category}` stands for a category), and their keys.

    ``core`` is the published 5-core of the reviews, where there is one. ``product_keys`` is None where metadata are
    Python literals with the keys of 2014.
    """

    reviews: str
    core: str | None
    metadata: str
    review_keys: ReviewKeys
    product_keys: ProductKeys | None


_KEYS_2014 = ReviewKeys("reviewerID", "asin", "unixReviewTime", "overall")

RELEASES: Final[Mapping[int, Release]] = {
    2014: Release(
        f"{_SNAP}/reviews_{{category}}.json.gz",
        f"{_SNAP}/reviews_{{category}}_5.json.gz",
        f"{_SNAP}/meta_{{category}}.json.gz",
        _KEYS_2014,
        None,
    ),
    2018: Release(
        f"{_UCSD}/amazon_v2/categoryFiles/{{category}}.json.gz",
        f"{_UCSD}/amazon_v2/categoryFilesSmall/{{category}}_5.json.gz",
        f"{_UCSD}/amazon_v2/metaFiles2/meta_{{category}}.json.gz",
        _KEYS_2014,
        ProductKeys("asin", "brand", "feature", "category"),
    ),
    2023: Release(
        f"{_UCSD}/amazon_2023/raw/review_categories/{{category}}.jsonl.gz",
        None,
        f"{_UCSD}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz",
        ReviewKeys("user_id", "parent_asin", "timestamp", "rating", milliseconds=True),
        ProductKeys("parent_asin", "store", "features", "categories", brand_detail="Brand"),
    ),
}


def raw_homes(category: str, release: int = 2014) -> dict[str, str]:
    """Map the names of a category's files to their web addresses: all reviews, their 5-core if any, the metadata."""
    files = RELEASES[release]
    homes = [home.format(category=category) for home in (files.reviews, files.core, files.metadata) if home]
    return {home.rpartition("/")[2]: home for home in homes}


def raw_names(category: str, release: int = 2014, every_review: bool = False) -> tuple[str, str]:
    """Return the file names of a category's reviews (all, or their published 5-core) and metadata."""
    names = list(raw_homes(category, release))
    return names[0 if every_review else -2], names[-1]


def raw_folder(release: int) -> str:
    """Return the name of the folder that a release is downloaded to."""
    return "amazon" if release == 2014 else f"amazon_{release}"
