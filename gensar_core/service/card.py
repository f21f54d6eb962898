"""Describe an exported generator on a model card: a README.md with front matter for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import polars as pl
import yaml
from huggingface_hub import EvalResult, ModelCardData

from gensar_core import schema
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.evaluation.tables import FULL_METRICS, METRICS, metrics
from gensar_core.generator.open import Generator
from gensar_core.runtime.stage import read_record
from gensar_core.service.shop import Folders

_CARD: Final = """---
{front_matter}
---

# {name}

A generative model that {does} {n_items:,} items: it writes an item's identifier token by token, after a history, a
query or both. Trained with GenSAR on the data set `{dataset}`.

## Use

```python
{example}
```

This folder is all it needs, beside the package. From a hub, `huggingface_hub.snapshot_download("NAME")` returns it.
`gensar serve .` and `gensar search . WORDS` take it as well.

## Data

{data}
## Protocol

```yaml
{protocol}```

## Metrics

{metrics}
## Settings

```yaml
{settings}```

## Versions

```yaml
{versions}```

## Licence

The weights, identifiers and texts come from the data set `{dataset}`: its terms hold for them. Name its licence here
and as `license` above before you publish this folder.
"""


def model_card(dataset: Path, name: str, folders: Folders, generator: Generator) -> str:
    """Return the model card of the generator ``name`` of a data set: Markdown with YAML front matter.

    Metrics are those of the test ranks that are there: among candidates, and among all items.
    """
    model, corpus = (read_record(folder / "stage.json") for folder in (folders.model, folders.corpus))
    samples = dataset / "samples" / "stage.json"
    tasks = prompted_tasks(folders.corpus)
    of, table = dataset.resolve().name, _metrics(dataset, name)
    results = [
        EvalResult(
            task_type="recommendation" if row["task"] == "rec" else "search",
            dataset_name=f"{of}, {row['among']}",
            dataset_type=of,
            metric_type=metric,
            metric_value=round(row[metric], 4),
        )
        for row in table
        for metric in row
        if "@" in metric
    ]
    # Without results there is no index of the model.
    index: dict[str, Any] = {"model_name": name, "eval_results": results} if results else {}
    front_matter = ModelCardData(
        library_name="transformers",
        license="other",
        license_name="see-licence-section",
        tags=["generative-retrieval", "recommender-systems", "product-search", "gensar"],
        **index,
    )
    shown = [
        (row["among"], row["task"], metric, f"{row[metric]:.4f}", f"{row['samples']:,}")
        for row in table
        for metric in row
        if "@" in metric
    ]
    return _CARD.format(
        front_matter=front_matter.to_yaml().strip(),
        name=name,
        dataset=of,
        does=" and ".join({"rec": "recommends", "search": "searches"}[task] for task in tasks) + " among",
        n_items=generator.n_items,
        example=_example(folders, tasks),
        data=markdown_table(("table", "rows"), _sizes(folders.canonical)),
        protocol=_yaml(read_record(samples)["settings"] if samples.is_file() else {}),
        metrics=markdown_table(("among", "task", "metric", "value", "test targets"), shown)
        if shown
        else "Not ranked yet.\n",
        settings=_yaml({"generator": model.get("settings", {}), "corpus": corpus["settings"]}),
        versions=_yaml(model.get("versions", {})),
    )


def _metrics(dataset: Path, name: str) -> list[dict[str, Any]]:
    """Return a row for each task and ranking: what the target is ranked among, and the metrics."""
    kinds = {
        "candidates": ("ranks", schema.RANKS, METRICS),
        "all items": ("full_ranks", schema.FULL_RANKS, FULL_METRICS),
    }
    rows = []
    for among, (folder, kind, shown) in kinds.items():
        path = dataset / folder / f"{name}.parquet"
        if path.is_file():
            rows += [{"among": among, **row} for row in metrics([path], [name], kind, shown).to_dicts()]
    return rows


def _sizes(canonical: Path) -> list[tuple[str, str]]:
    tables = (schema.USERS, schema.ITEMS, schema.QUERIES, schema.EVENTS)
    return [(table.name, f"{table.open(canonical / f'{table.name}.parquet')[1]:,}") for table in tables]


def _example(folders: Folders, tasks: list[str]) -> str:
    """Return the example: ten lines that ask for both tasks, or for the one there is."""
    titles = pl.read_parquet(folders.canonical / "items.parquet", columns=["item_id", "title"]).sort("item_id")
    words = next((title for title in titles.get_column("title") if title), "words")
    query = " ".join(words.split()[:3])
    asked = {
        "rec": "hits = generator.recommend([Entry.clicked(0)], top=5)",
        "search": f"hits = generator.search({query!r}, [Entry.clicked(0)], top=5)",
    }
    lines = [
        "from pathlib import Path",
        "import polars as pl",
        "from gensar_core.corpora.live_prompts import Entry",
        "from gensar_core.generator.open import load_generator",
        "",
        'folder = Path(".")  # this folder',
        "generator = load_generator(folder)",
        'items = pl.read_parquet(folder / "items.parquet").sort("item_id")',
    ]
    for task in tasks:
        lines += [asked[task], 'print([(items["title"][hit.item], hit.score) for hit in hits])']
    return "\n".join(lines)


def _yaml(values: Any) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text
