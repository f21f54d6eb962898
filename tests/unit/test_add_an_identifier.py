"""docs/add-an-identifier.md, followed to the letter in a copy of the package: its kind, prompt file and entries, and what
it says they give."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.shop import write_corpus_inputs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-an-identifier.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
KIND, SETTINGS = (text for language, text in BLOCKS if language == "python")
PROMPTS, ENTRIES = (text for language, text in BLOCKS if language == "yaml")
(SHOWN,) = (text for language, text in BLOCKS if language == "text")

FOLLOW = """
import json, sys
from pathlib import Path
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.corpora.readable import readable
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.interface import KindData, read_settings

experiments, shop = load_experiments(json.load(sys.stdin)), Path("shop")
settings = read_settings(experiments.identifiers["initials"].of_stage().canonical())
build_identifiers(KindData(item_texts=shop / "items.parquet"), Path("identifiers"), settings, 7, None)
corpus = MaterializationSettings(prompts="my_prompts.yaml", tokenizer="trained", vocabulary_size=400)
build_corpus(shop, shop, Path("identifiers"), Path("corpus"), corpus, 7)
told = {
    "tasks": experiments.corpora["mine"].active_tasks(),
    "weights": experiments.generators["mine"].task_weights,
    "identifier": experiments.corpora["mine"].identifier,
    "letters": settings.letters,
    "shown": readable(Path("corpus"), 1),
    "prompted": prompted_tasks(Path("corpus")),
}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """What a reader gets who does all that the page says."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "gensar_core", folder / "gensar_core")
    place = re.search(r"`(gensar_core/identifiers/kinds/\w+\.py)`", PAGE).group(1)
    (folder / place).write_text(KIND, encoding="utf-8")
    models = folder / re.search(r"`(gensar_core/config/\w+\.py)`", PAGE).group(1)
    text = models.read_text(encoding="utf-8")
    (name,) = re.findall(r"^class (\w+)", SETTINGS, re.MULTILINE)
    union = "IdentifierSettings = Annotated[\n"
    assert text.count(union) == 1
    models.write_text(text.replace(union, f"{SETTINGS}\n\n{union}    {name}\n    | "), encoding="utf-8")
    (folder / re.search(r"`(my_prompts\.yaml)`:", PAGE).group(1)).write_text(PROMPTS, encoding="utf-8")
    write_corpus_inputs(folder / "shop")
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for section, entries in yaml.safe_load(ENTRIES).items():
        config[section] |= entries
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_page_is_short():
    assert len(PAGE.splitlines()) < 80


def test_the_entries_are_valid_beside_those_of_the_project(followed):
    assert followed["tasks"] == ["personal_search", "naming"]
    assert followed["weights"] == {"naming": 0.5}
    assert (followed["identifier"], followed["letters"]) == ("initials", 8)


def test_the_corpus_holds_what_the_page_shows(followed):
    assert followed["shown"].startswith(SHOWN)
    assert followed["prompted"] == ["search"]
