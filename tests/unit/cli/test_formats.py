"""docs/formats.md says of the tables what their definitions say."""

from pathlib import Path

from gensar_core import schema
from gensar_core.cli.formats import formats_markdown
from gensar_core.samples.audit import Audit, audit_time_split
from gensar_core.sources import eventlog, kuaisar, qilin
from gensar_core.sources.amazon.releases import RELEASES, raw_homes
from gensar_core.sources.shared import click_logs as clicks
from gensar_core.sources.shared import raw_tables as tabular

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


def test_the_page_holds_the_generated_reference():
    assert formats_markdown() in PAGE.read_text(), (
        "docs/formats.md is behind the code: put the output of gensar_core.cli.formats.formats_markdown() under 'Tables'"
    )


def test_the_reference_has_every_column_of_every_table_with_type_and_meaning():
    text = formats_markdown()
    for table in schema.TABLES.values():
        assert f"### {table.name}\n" in text
        section = text.split(f"### {table.name}\n")[1].split("###")[0]
        for name, column in table.columns.items():
            (line,) = [line for line in section.splitlines() if line.startswith(f"| `{name}` ")]
            assert column.meaning in line
            assert ("may be null" in line) == column.nullable
    events = text.split("### events\n")[1]
    cells = [[cell.strip() for cell in line.split("|")] for line in events.splitlines() if line.startswith("| `")]
    types = {row[1]: row[2] for row in cells[: len(schema.EVENTS.columns)]}
    assert types["`query_id`"] == "int32, may be null"
    assert types["`task`"] == "one of rec, search"
    assert "list of list of string" in text.split("### items\n")[1].split("###")[0]


def test_the_page_names_every_count_of_the_audit():
    text = PAGE.read_text()
    nothing = (schema.EVENTS.empty().lazy(), schema.SAMPLES.empty().lazy())
    counts = {
        count for splits in Audit(nothing[0], 99).report().values() for split in splits.values() for count in split
    }
    for name in [*counts, *audit_time_split(*nothing)]:
        assert f"`{name}`" in text, name


def test_the_page_names_every_input_column_suffix_and_count():
    text = PAGE.read_text()
    columns = [
        *eventlog.ITEM_COLUMNS, *eventlog.OPTIONAL_ITEM_COLUMNS, *eventlog.EVENT_COLUMNS, *eventlog.OPTIONAL_EVENT_COLUMNS,
    ]  # fmt: skip
    counts = [
        *(f"items_{fault}" for fault in clicks.ITEM_FAULTS),
        *(f"events_{fault}" for fault in eventlog.EVENT_FAULTS),
    ]
    files = [kuaisar.RECOMMENDATIONS, kuaisar.SEARCHES, kuaisar.ITEMS, kuaisar.USERS]
    files += [*qilin.FOLDERS, *(name for release in RELEASES for name in raw_homes("{category}", release))]
    for name in [*columns, *counts, *files, *tabular.FORMATS]:
        assert f"`{name}`" in text, name
