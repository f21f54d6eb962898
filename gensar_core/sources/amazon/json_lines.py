"""Read lines that hold one JSON object each: reviews of every release, and metadata since 2018."""

from __future__ import annotations

import itertools
import json
from typing import Any

from gensar_core.sources.amazon.releases import ProductKeys
from gensar_core.sources.shared.cleaning import clean_text


def json_object(line: bytes) -> dict[str, Any] | str:
    """Return the JSON object of a line, or the reason why there is none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def is_id(value: Any) -> bool:
    """Return whether a value is a non-empty text that UTF-8 can encode."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= letter <= "\udfff" for letter in value)


def parse_product(line: bytes, keys: ProductKeys) -> dict[str, Any] | str:
    """Return the item of a line with the keys and types of the 2014 release, or the reason why it is broken.

    The description is that of the page or, where it is empty, the page's features. The one category path ends before
    the first level that is also a feature or part of the description, or that holds no text: in 2018, bullet points of
    the page follow the levels. A title of 2018 that holds a page's script instead (`getTime`, as the release's own
    example filters it) becomes empty.
    """
    record = json_object(line)
    if isinstance(record, str):
        return record
    asin, title = record.get(keys.item), record.get("title")
    if asin is None:
        return "field missing"
    names = ("description", keys.features, keys.categories)
    description, features, levels = (_texts(record.get(name)) for name in names)
    details = record.get("details") if keys.brand_detail else None
    brand = (details.get(keys.brand_detail) if isinstance(details, dict) else None) or record.get(keys.brand)
    sound = is_id(asin) and all(text is None or isinstance(text, str) for text in (title, brand))
    if not sound or description is None or features is None or levels is None:
        return "field of a wrong type"
    points = {*description, *features}
    path = list(itertools.takewhile(lambda level: level not in points and clean_text(level), levels))
    return {
        "asin": asin,
        "title": "" if title and "getTime" in title else title,
        "description": next(filter(clean_text, map(" ".join, (description, features))), ""),
        "brand": brand,
        "categories": [path] if path else [],
    }


def _texts(value: Any) -> list[str] | None:
    """Return a list of texts, which may be written as one text or be missing; None if it is neither."""
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None
