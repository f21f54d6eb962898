"""`gensar check RESULTS`: each file that is not as its stage left it is named, with the record to delete."""

import os

import pytest

from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from tests.support.command import gensar

CONTENT = {"a.bin": bytes(range(200)), "tokenizer/b.bin": b"words", "c.bin": b""}


@pytest.fixture
def results(tmp_path):
    for name, stage_json in (("one", "stage.json"), ("two", "x.stage.json")):
        with Stage("example", tmp_path / "results" / name, record_name=stage_json) as stage:
            for path, content in CONTENT.items():
                stage.path(path).write_bytes(content)
    return tmp_path / "results"


def checked(*arguments):
    done = gensar("check", *arguments)
    return done.exit_code, done.stdout, done.stderr.splitlines()


def test_untouched_results_are_right(results):
    assert checked(results) == (0, "2 stages, by sizes (digests: --whole): all files are as they were written\n", [])
    assert checked("--whole", results)[0] == 0
    # What a killed stage left does not count.
    (results / "one/.stage.partial").mkdir()
    (results / "one/.stage.partial/stage.json").write_text("{")
    assert checked("--whole", results)[0] == 0


def test_a_file_that_is_missing_or_cut_is_named_with_the_cure(results):
    (results / "one/a.bin").write_bytes(CONTENT["a.bin"][:-1])
    (results / "two/tokenizer/b.bin").unlink()
    code, shown, told = checked(results)
    assert code == 1
    assert shown == "2 stages, by sizes (digests: --whole): 2 faults\n"
    cures = [f"; delete {results / record} and run again, and its stage is made anew" for record in RECORDS]
    assert told == [
        f"{results}/one/a.bin: has 199 bytes, and was written with 200{cures[0]}",
        f"{results}/two/tokenizer/b.bin: is missing{cures[1]}",
    ]


RECORDS = ("one/stage.json", "two/x.stage.json")


@pytest.mark.parametrize("name", ["a.bin", "tokenizer/b.bin"])
def test_a_change_that_keeps_size_and_date_is_found_by_the_digest(results, name):
    file = results / "two" / name
    date = file.stat().st_mtime_ns
    content = bytearray(file.read_bytes())
    content[3] ^= 16
    file.write_bytes(content)
    os.utime(file, ns=(date, date))
    assert checked(results)[0] == 0
    code, _, told = checked("--whole", results)
    assert code == 1
    assert told == [
        f"{file}: is not what was written (its sha256 has changed); delete {results / RECORDS[1]} and run again, and its "
        "stage is made anew"
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not readable as JSON"),
        ("[]", "does not tell the digests of its outputs"),
        ('{"outputs": ["a.bin"]}', "does not tell the digests of its outputs"),
    ],
)
def test_a_record_that_tells_nothing_is_a_fault(results, text, what):
    record = results / "one/stage.json"
    record.write_text(text)
    assert checked(results)[2] == [f"{record}: {what}; delete {record} and run again, and its stage is made anew"]


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(UserError, match="no finished stage in it; name a folder of results"):
        checked(tmp_path)
