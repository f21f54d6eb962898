"""`gensar inspect` tells what a data set holds, as counted by hand."""

import json

import pytest

from gensar_core.cli.inspection import inspection
from gensar_core.config.datasets import SampleSettings
from gensar_core.errors import UserError
from gensar_core.samples.build import build_samples
from tests.support.samples_logs import REPEATED, write_canonical
from tests.support.sources_files import Shop, page, review


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two users who review five items and search for each, one broken review, one item without text."""
    folder = tmp_path_factory.mktemp("inspect") / "results" / "toys"
    shop = Shop(folder)
    shop.output = folder / "canonical"
    reviews = [review(user, f"i{item}", 100 * item + 1) for user in ("ann", "bob") for item in range(5)]
    pages = [page(f"i{item}", f"Kite {item}", ["Toys", "Kites"]) for item in range(5)]
    shop.reviews(*reviews, "{", review("bob", "bare", 700)).metadata(*pages, page("bare", None))
    shop.canonicalize(search_share=1.0, expected_rows={"reviews_read": 12})
    build_samples(folder / "canonical", folder / "samples", SampleSettings(negatives=2), 1)
    return folder


def section(folder, title):
    """The lines below a title, as words."""
    lines = list(inspection(folder))
    (start,) = [place for place, line in enumerate(lines) if line.startswith(title)]
    end = lines.index("", start) if "" in lines[start:] else len(lines)
    return {tuple(line.split()) for line in lines[start + 1 : end]}


def test_the_log_and_what_was_left_out(dataset):
    assert section(dataset, "What the log holds") == {
        ("users", "2"), ("items", "5"), ("queries", "1"), ("recommendation", "clicks", "10"), ("search", "clicks", "10"),
    }  # fmt: skip
    assert section(dataset, "Left out") == {
        ("reviews", "broken", "lines", "1"), ("items", "without", "text", "1"),
        ("reviews", "on", "dropped", "items", "1"),
    }  # fmt: skip


def test_samples_by_task_and_split_with_the_audit(dataset):
    found = section(dataset, "Samples and their audit (strict protocol, split by leave one out)")
    # Of a user's five clicks of a task, four have both kinds before them; the last two are held out, with their items.
    assert ("samples", "4", "2", "2", "4", "2", "2") in found
    assert ("leaks", "0", "0", "0", "0", "0", "0") in found
    # Each user has met all five items: there is nothing to sample, and BM25 finds four others.
    assert ("candidate", "lists", "short", "-", "2", "2", "-", "0", "0") in found
    assert ("targets", "held", "out", "0", "-", "-", "0", "-", "-") in found
    # Nobody reviews an item twice; each search stands beside its review, so recommendation goes on for nobody.
    assert ("clicked", "before", "-", "0", "0", "-", "0", "0") in found
    assert ("only", "candidate", "in", "history", "-", "0", "0", "-", "0", "0") in found
    assert ("later", "training", "share", "-", "0.0%", "0.0%", "-", "0.0%", "0.0%") in found


def test_samples_of_a_log_with_repeats_and_a_training_cutoff(tmp_path):
    write_canonical(tmp_path / "canonical", REPEATED)
    build_samples(tmp_path / "canonical", tmp_path / "samples", SampleSettings(negatives=2), 1)
    found = section(tmp_path, "Samples and their audit (strict protocol, split by leave one out)")
    assert ("clicked", "before", "-", "1", "0", "-", "1", "0") in found
    assert ("later", "training", "share", "-", "0.0%", "0.0%", "-", "100.0%", "100.0%") in found
    cut = SampleSettings(negatives=2, training_cutoff="per_user")
    build_samples(tmp_path / "canonical", tmp_path / "samples", cut, 1)
    found = section(
        tmp_path, "Samples and their audit (strict protocol, split by leave one out, training cut off per user)"
    )
    assert ("later", "training", "share", "-", "0.0%", "0.0%", "-", "0.0%", "0.0%") in found


def test_tables_and_stages_with_warnings(dataset):
    tables = {words[0]: words[1:3] for words in section(dataset, "Tables")}
    assert tables["canonical/events.parquet"] == ("20", "rows")
    assert tables["samples/samples.parquet"] == ("16", "rows")
    assert tables["samples/candidates.parquet"] == ("8", "rows")
    stages = section(dataset, "Stages")
    assert {words[0] for words in stages} == {"canonical", "samples", "warning:"}
    assert ("warning:", "step", "reviews_read:", "11", "rows,", "expected", "12") in stages
    record = json.loads((dataset / "samples" / "stage.json").read_text())
    assert ("samples", f"{record['seconds']:.1f}", "s", f"{record['peak_memory_gb']:.2f}", "GB") in stages


def test_statistics_are_shown_where_they_are(dataset):
    assert not any(line.startswith("Statistics") for line in inspection(dataset))
    tables = dataset.parent / "tables"
    tables.mkdir()
    (tables / "toys_statistics.csv").write_text("dataset,density_rec,items_with_description\ntoys,0.123456,1234\n")
    found = section(dataset, "Statistics")
    assert found == {
        ("density", "of", "recommendation", "clicks", "0.1235"), ("items", "with", "a", "description", "1,234"),
    }  # fmt: skip


def test_an_unfinished_data_set_shows_what_there_is(dataset, tmp_path):
    (tmp_path / "toys" / "canonical").mkdir(parents=True)
    for file in (dataset / "canonical").iterdir():
        (tmp_path / "toys" / "canonical" / file.name).write_bytes(file.read_bytes())
    titles = [line for line in inspection(tmp_path / "toys") if line and not line.startswith(" ")]
    assert [title.split(" (")[0] for title in titles] == ["What the log holds", "Left out", "Tables", "Stages"]


def test_a_wrong_folder_and_a_damaged_record_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder; data sets lie under results/"):
        list(inspection(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no finished stage in it; build one"):
        list(inspection(tmp_path))
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(UserError, match=r"stage\.json: not readable as JSON; delete it"):
        list(inspection(tmp_path))
