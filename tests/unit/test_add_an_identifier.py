"""docs/add-an-identifier.md, followed to the letter: its prompt file, its entries, and what it says they give."""

import re
from pathlib import Path

import pytest
import yaml

from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.corpora.readable import readable
from tests.support.shop import write_corpus_inputs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-an-identifier.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROMPTS, ENTRIES = (text for language, text in BLOCKS if language == "yaml")
(SHOWN,) = (text for language, text in BLOCKS if language == "text")


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / re.search(r"`(my_prompts\.yaml)`:", PAGE).group(1)).write_text(PROMPTS, encoding="utf-8")
    return tmp_path


def test_the_page_is_short():
    assert len(PAGE.splitlines()) < 80


def test_the_entries_are_valid_beside_those_of_the_project():
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for section, entries in yaml.safe_load(ENTRIES).items():
        config[section] |= entries
    experiments = load_experiments(config)
    assert experiments.corpora["mine"].active_tasks() == ["personal_search", "naming"]
    assert experiments.corpora["mine"].identifier == "joint_demo"
    assert experiments.generators["mine"].task_weights == {"naming": 0.5}
    config["generators"]["mine"]["base"] = "gensar"
    assert "nsip" in load_experiments(config).generators["mine"].task_weights


def test_the_corpus_holds_what_the_page_shows(working_folder):
    shop = write_corpus_inputs(working_folder / "shop")
    settings = MaterializationSettings(prompts="my_prompts.yaml", tokenizer="trained", vocabulary_size=400)
    build_corpus(shop, shop, shop, working_folder / "corpus", settings, 7)
    assert readable(working_folder / "corpus", 1).startswith(SHOWN)
    assert prompted_tasks(working_folder / "corpus") == ["search"]
