"""Settings of identifiers: sizes by level, what `rq_kmeans` reads, and mistakes reported with their place."""

from typing import Any

import pytest

from gensar_core.config.experiments import load_experiments
from gensar_core.config.identifiers import QuantizerSettings, RqKmeansIdentifiers, RqvaeIdentifiers
from gensar_core.errors import UserError


def experiments(**identifier: Any) -> Any:
    return load_experiments(
        {
            "datasets": {"shop": {"source": "simulated", "users": 200, "items": 200, "table": "all"}},
            "embeddings": {"minilm": {"kind": "text", "model": "all-MiniLM-L6-v2"}},
            "identifiers": {"joint": {"semantic": "minilm", **identifier}},
            "tables": {"all": {"rows": []}},
        }
    )


def test_codebook_size_is_one_number_for_all_levels_or_a_list() -> None:
    assert QuantizerSettings(shared_levels=1, specific_levels=2).sizes == (256, 256, 256)
    assert experiments(codebook_size=[4, 8, 16, 32]).identifiers["joint"].sizes == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codebook_size": [4, 8]}, r"identifiers.joint: .*lists 2 sizes for 4 levels; write one a level"),
        ({"codebook_size": "256"}, r"identifiers.joint.codebook_size: .*whole number of codes, 2 or more .*not '256'"),
        ({"codebook_size": 1}, r"identifiers.joint.codebook_size: .*2 or more .*not 1"),
        ({"codebook_size": [4, 1, 4, 4]}, r"identifiers.joint.codebook_size: .*2 or more .*not \[4, 1, 4, 4\]"),
        ({"sinkhorn": {"levels": 3}}, r"sinkhorn.levels is 3, but there are 2 specific levels"),
        ({"sinkhorn": {"epsilon": 0.001}}, r"identifiers.joint.sinkhorn.epsilon: .*0.003"),
        ({"sinkhorn": {"rounds": 5}}, r"identifiers.joint.sinkhorn.rounds: unknown key"),
        ({"collisions": "digit"}, r"identifiers.joint.collisions: .*'extra_digit'"),
        ({"shared_levels": 0, "specific_levels": 0}, "at least one level"),
        ({"semantic": None}, r"identifiers.joint: .*name an embedding"),
        ({"quantizer": "rq-kmeans"}, r"identifiers.joint.quantizer: unknown key; write kind \(rqvae or rq_kmeans\)"),
        ({"kind": "numbrs"}, r"identifiers.joint.kind: 'numbrs' is no kind; did you mean 'numbers'\?"),
        ({"kind": "numbers"}, r"identifiers.joint.semantic: unknown key; known keys: below, kind, seed"),
        ({"kind": "product", "collaborative": "minilm"}, r"identifiers.joint: .*name one embedding"),
        ({"kind": "product", "subspace": 3}, r"identifiers.joint.subspace: unknown key; did you mean 'subspaces'\?"),
    ],
)
def test_mistakes_are_reported_with_their_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiments(**values)


def test_an_entry_without_a_kind_is_an_rqvae_whose_base_may_be_overridden() -> None:
    values = experiments().model_dump(mode="json")
    values["identifiers"] = {"joint": {"semantic": "minilm"}, "quick": {"base": "joint", "kind": "rq_kmeans"}}
    entries = load_experiments(values).identifiers
    assert [type(entry) for entry in entries.values()] == [RqvaeIdentifiers, RqKmeansIdentifiers]


def test_residual_kmeans_ignores_settings_of_training() -> None:
    first, second = (
        RqKmeansIdentifiers(semantic="minilm", kind="rq_kmeans", epochs=epochs, latent_size=8, codebook_size=32)
        for epochs in (5, 50)
    )
    assert first.of_stage() == second.of_stage()
    assert first.of_stage().codebook_size == 32
    assert RqvaeIdentifiers(semantic="minilm", epochs=5).of_stage().epochs == 5
