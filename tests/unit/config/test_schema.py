"""The schema of config.yaml agrees with the models that read it."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from gensar_core.cli.config_schema import config_schema
from gensar_core.cli.main import schema_of_config
from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def schema():
    return config_schema()


def test_docstrings_of_fields_are_their_descriptions(schema):
    fields = schema["$defs"]["GeneratorSettings"]["properties"]
    assert fields["warmup_share"].get("description") is None
    assert fields["backbone"]["description"].startswith("A hub name or local folder of a T5, or `scratch`. Or `causal`")


def test_the_command_writes_it(schema, tmp_path):
    schema_of_config(tmp_path / "config.schema.json")
    assert json.loads((tmp_path / "config.schema.json").read_text()) == schema


def test_the_schema_is_one_and_takes_the_configurations_here(schema):
    jsonschema.validate(yaml.safe_load((ROOT / "config.yaml").read_text()), schema)


@pytest.mark.parametrize(
    ("section", "entry", "key", "value"),
    [
        ("generators", "gensar", "learning_rat", 1e-3),
        ("generators", "gensar", "epochs", "many"),
        ("identifiers", "joint", "codebook_size", 1),
        ("corpora", "demo", "drop", "nrip"),
        ("generators", "gensar_wo_nrip", "corpus", {"drop": "nrip"}),
        ("generators", "gensar_shared1", "identifier", {"shared_level": 1}),
        ("datasets", "demo", "raw", "/data"),
        ("methods", "sasrec", "no_such_key", 1),
        ("methods", "popularity", "kind", "popular"),
        ("figures", "tradeoff", "kind", "pie"),
    ],
)
def test_what_the_models_refuse_the_schema_refuses(schema, section, entry, key, value):
    values = copy.deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))
    values[section][entry][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(values)
    if section != "methods":
        with pytest.raises(UserError):
            load_experiments(values)
