"""An exported folder answers as the results do, without them; and says in one line what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.one_pass import OnePassGenerator
from gensar_core.generator.open import load_generator
from gensar_core.generator.trained import TrainedGenerator
from gensar_core.service.model import ServedModel
from gensar_core.service.shop import Folders
from tests.support.dataset_folder import ANNA, MODEL, write_dataset
from tests.support.shop import QUERIES, TEXTS, write_rows

ROOT = Path(__file__).parents[3]


def write_ranks(dataset: Path) -> None:
    """Test ranks 1 and 3 in recommendation: HR@1 is a half, and NDCG@5 (1 + 1 / log2(4)) / 2."""
    rows = [("rec", "test", sample, 0, 1, rank, 5) for sample, rank in ((0, 1.0), (1, 3.0))]
    write_rows(schema.RANKS, dataset / "ranks", rows, MODEL)


@pytest.fixture(scope="module", params=["t5", "causal"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "results" / "demo"
    write_dataset(folder, causal=request.param == "causal")
    write_ranks(folder)
    return folder


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("away") / "model"
    done = CliRunner().invoke(app, ["export", str(dataset), MODEL, str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    return folder


ASKING = """
import json, sys
from pathlib import Path
from gensar_core.corpora.live_prompts import Entry
from gensar_core.generator.one_pass import OnePassGenerator
from gensar_core.generator.trained import TrainedGenerator
folder, family, asked = json.loads(sys.argv[1])
generator = {"t5": TrainedGenerator, "causal": OnePassGenerator}[family].load(Path(folder))
for history, query in asked:
    entries = [Entry(*entry) for entry in history]
    hits = [generator.recommend(entries, top=5), generator.search(query, entries, top=5)]
    print(json.dumps([[(hit.item, hit.score) for hit in answer] for answer in hits]))
"""


def test_a_fresh_process_answers_alike_when_the_results_are_gone(dataset: Path, exported: Path, tmp_path: Path) -> None:
    folders = Folders.of(dataset, MODEL)
    generator = folders.load()
    asked = [(ANNA, QUERIES[0]), (ANNA[:2], QUERIES[1]), ([Entry.clicked(0)], "words that nobody typed")]
    expected = [
        [generator.recommend(history, top=5), generator.search(query, history, top=5)] for history, query in asked
    ]
    family = "t5" if isinstance(generator, TrainedGenerator) else "causal"
    moved = exported.rename(tmp_path / "moved")
    away = dataset.rename(dataset.with_name("gone"))
    try:
        told = [[[[entry.behavior, entry.object] for entry in history], query] for history, query in asked]
        command = [sys.executable, "-c", ASKING, json.dumps([str(moved), family, told])]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    finally:
        moved.rename(exported)
        away.rename(dataset)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [[[[hit.item, hit.score] for hit in hits] for hits in both] for both in expected]


def test_the_readme_is_a_model_card_whose_example_runs(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = ModelCard.load(exported / "README.md")
    (result,) = [one for one in card.data.eval_results or [] if one.metric_type == "ndcg@5"]
    assert (result.dataset_type, result.task_type, result.metric_value) == ("demo", "recommendation", 0.75)
    assert card.data.license == "other"
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)]
    assert blocks[1]["corpus"]["vocabulary_size"] == 400
    assert re.search(r"\| items +\| 5 ", card.text)
    example = card.text.split("```python\n")[1].split("```")[0]
    assert len(example.strip().splitlines()) <= 12
    monkeypatch.chdir(exported)
    exec(example, {})
    printed = capsys.readouterr().out
    assert all(text in printed for text in TEXTS if text)


def test_the_hugging_face_library_opens_it(exported: Path) -> None:
    assert AutoConfig.from_pretrained(exported).model_type in ("t5", "llama")
    assert "<R_I>" in AutoTokenizer.from_pretrained(exported).get_vocab()


def test_no_history_of_a_user_is_in_it(exported: Path) -> None:
    assert not [path for path in exported.rglob("*") if path.stem in ("users", "events", "user_logs", "train")]
    for path in exported.glob("click_evidence.safetensors"):
        counts = load_file(path)
        assert [len(counts[name]) for name in ("own", "own_item", "clicked", "clicked_place")] == [0] * 4
        assert counts["together_likeness"].sum() > 0


def test_commands_and_the_service_take_it(dataset: Path, exported: Path) -> None:
    def ask(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    told = ["--history", "clicked=i2", "--history", "query=piano", "--top", "3"]
    assert ask("recommend", exported, *told) == ask("recommend", dataset, MODEL, *told)
    assert ask("search", exported, "piano", *told) == ask("search", dataset, MODEL, "piano", *told)
    done = CliRunner().invoke(app, ["recommend", str(exported), "--user", "anna"])
    assert "user 'anna': an exported folder holds no users; give a history" in str(done.exception)
    served = ServedModel.load(exported, None)
    assert served.item("i0", 3) == ServedModel.load(dataset, MODEL).item("i0", 3)
    assert served.users("", 5) == []


def test_every_missing_or_damaged_file_is_one_clear_error(exported: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(exported) for path in exported.rglob("*") if path.is_file())
    assert {Path("corpus/trie.safetensors"), Path("model.safetensors"), Path("items.parquet")} <= {*files}
    for number, file in enumerate(files):
        for damage in ("missing", "changed"):
            folder = tmp_path / f"{number}-{damage}"
            shutil.copytree(exported, folder)
            if damage == "missing":
                (folder / file).unlink()
            else:
                content = bytearray((folder / file).read_bytes())
                content[len(content) // 2] ^= 1
                (folder / file).write_bytes(content)
            if file == Path("README.md"):
                load_generator(folder)
            elif file != Path("stage.json") or damage == "missing":
                with pytest.raises(UserError) as raised:
                    load_generator(folder)
                assert "\n" not in str(raised.value)
                assert "export" in str(raised.value)
                assert str(file) in str(raised.value) or file == Path("stage.json")
            shutil.rmtree(folder)


def test_a_folder_is_written_whole_or_not_at_all(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["export", str(dataset), MODEL, str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("gensar_core.service.export.model_card", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        CliRunner().invoke(app, command)
    assert list((tmp_path / "out").iterdir()) == []
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    again = CliRunner().invoke(app, command)
    assert "is there already; name a new folder" in str(again.exception)
    with pytest.raises(UserError, match="is no whole exported folder"):
        (
            TrainedGenerator if "T5" in (dataset / "models" / MODEL / "config.json").read_text() else OnePassGenerator
        ).load(dataset / "models" / MODEL)
