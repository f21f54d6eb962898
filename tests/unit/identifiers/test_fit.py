"""Fitting: where it starts, dead codes, separation, determinism, and continuing after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.identifiers import fit as fitting
from gensar_core.identifiers.fit import fit_rqvae
from gensar_core.identifiers.initialize import initialize_codebooks, kmeans, start_as_principal_components
from gensar_core.identifiers.quality import code_use, collision_rate
from gensar_core.identifiers.quantize import encode, nearest
from gensar_core.identifiers.revival import CodeUse, revive
from gensar_core.identifiers.rqvae import RQVAE, Codes
from gensar_core.identifiers.separation import separate

SMALL = QuantizerSettings(
    latent_size=4,
    hidden_sizes=[16, 8],
    codebook_size=8,
    shared_levels=1,
    specific_levels=2,
    epochs=6,
    batch_size=64,
    evaluate_every=2,
)


def changed(**changes: object) -> QuantizerSettings:
    return QuantizerSettings.model_validate({**SMALL.model_dump(), **changes})


def clustered(items: int = 200, seed: int = 0) -> dict[str, torch.Tensor]:
    source = np.random.default_rng(seed)
    topics = source.standard_normal((12, 5))
    topic = topics[source.integers(12, size=items)]

    def view(size: int) -> torch.Tensor:
        mixed = topic @ source.standard_normal((5, size)) + 0.3 * source.standard_normal((items, size))
        return torch.from_numpy(mixed.astype(np.float32))

    return {"semantic": view(10), "collaborative": view(7)}


def weights(model: RQVAE) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------------ initialization


def test_a_principal_start_reconstructs_as_principal_components_do() -> None:
    vectors = clustered()
    model = RQVAE({side: matrix.shape[1] for side, matrix in vectors.items()}, SMALL)
    model.fit_scale(vectors)
    scaled = model.scale(vectors)
    start_as_principal_components(model, scaled)
    with torch.no_grad():
        decoded = model.decode(model.latents(scaled))
    for side, matrix in scaled.items():
        spectrum = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
        error = float((matrix - decoded[side]).square().sum())
        assert error == pytest.approx(float(spectrum[4:].sum()), rel=1e-3)


@pytest.mark.parametrize("hidden", [[], [6], [16, 6, 8]])
def test_a_principal_start_keeps_as_many_components_as_the_narrowest_layer_carries(hidden: list[int]) -> None:
    vectors = clustered()
    model = RQVAE({"semantic": 10}, changed(hidden_sizes=hidden))
    model.fit_scale({"semantic": vectors["semantic"]})
    scaled = model.scale({"semantic": vectors["semantic"]})
    start_as_principal_components(model, scaled)
    with torch.no_grad():
        error = float((scaled["semantic"] - model.decode(model.latents(scaled))["semantic"]).square().sum())
    carried = 4 if not hidden else 3
    spectrum = np.linalg.svd(scaled["semantic"].numpy(), compute_uv=False) ** 2
    assert error == pytest.approx(float(spectrum[carried:].sum()), rel=1e-3)


def test_units_without_effect_at_the_start_still_learn() -> None:
    vectors = clustered()
    model = RQVAE({side: matrix.shape[1] for side, matrix in vectors.items()}, SMALL)
    model.fit_scale(vectors)
    scaled = model.scale(vectors)
    start_as_principal_components(model, scaled)
    initialize_codebooks(model, scaled, seed=0)
    model.losses(scaled)[0]["loss"].backward()
    last = model.decoders["semantic"][-1].weight
    assert float(last[:, 8:].detach().abs().max()) == 0.0
    assert last.grad is not None
    assert float(last.grad[:, 8:].abs().max()) > 0.0


def test_kmeans_centers_are_the_means_of_their_vectors_and_repeat_themselves() -> None:
    vectors = clustered()["semantic"].numpy()[:60]
    found = kmeans(vectors, 5, seed=1)
    nearest_center = ((vectors[:, None] - found[None]) ** 2).sum(axis=2).argmin(axis=1)
    for center in range(5):
        np.testing.assert_allclose(found[center], vectors[nearest_center == center].mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(found, kmeans(vectors, 5, seed=1))
    assert not np.array_equal(found, kmeans(vectors, 5, seed=2))


def test_more_clusters_than_distinct_vectors_keep_every_vector_as_a_center() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
    found = kmeans(vectors, 8, seed=0)
    assert found.shape == (8, 3)
    assert len(np.unique(found, axis=0)) == 8
    for row in np.eye(3):
        assert (np.abs(found - row).max(axis=1) == 0).any()
    # The spare centers are near the data, where the unique assignment can use them.
    assert np.abs(found[:, None] - np.eye(3)).max(axis=2).min(axis=1).max() < 0.3


def test_every_code_of_every_level_is_used_after_initialization() -> None:
    vectors = clustered(400)
    model = RQVAE({side: matrix.shape[1] for side, matrix in vectors.items()}, SMALL)
    model.fit_scale(vectors)
    scaled = model.scale(vectors)
    initialize_codebooks(model, scaled, seed=0)
    codes = model.encode_latents(model.all_latents(scaled))
    for side in model.sides:
        assert code_use(codes.identifier(side), [8, 8, 8])["usage"] == [1.0, 1.0, 1.0]


# ---------------------------------------------------------------------------------------------------------- dead codes


def test_dead_codes_move_to_residuals_of_the_batch_and_others_stay() -> None:
    vectors = clustered()
    model = RQVAE({side: matrix.shape[1] for side, matrix in vectors.items()}, SMALL)
    model.fit_scale(vectors)
    scaled = model.scale(vectors)
    initialize_codebooks(model, scaled, seed=0)
    optimizer = torch.optim.AdamW(model.parameters())
    use = CodeUse(model)
    losses, codes = model.losses(scaled)
    losses["loss"].backward()
    optimizer.step()
    use.count(codes)
    use.of("shared", 0)[[2, 5]] = 0
    before = model.shared[0].detach().clone()
    torch.manual_seed(0)
    revive(model, use, scaled, optimizer)
    after, latents = model.shared[0].detach(), model.all_latents(scaled)
    untouched = [code for code in range(8) if code not in (2, 5)]
    assert torch.equal(after[untouched], before[untouched])
    for code in (2, 5):
        assert (latents - after[code]).abs().amax(dim=1).min() < 1e-5
        assert float(optimizer.state[model.shared[0]]["exp_avg"][code].abs().max()) == 0.0
    assert float(optimizer.state[model.shared[0]]["exp_avg"][untouched].abs().max()) > 0.0


def test_training_revives_codes_that_nothing_is_near() -> None:
    """With all codes of a level but one set far away, only revival can bring them back."""
    vectors = {"semantic": clustered(256)["semantic"]}
    used = {}
    for wanted in (True, False):
        task = fitting._Fitting(vectors, changed(revive_dead_codes=wanted), seed=0)
        with torch.no_grad():
            task.model.shared[0][1:] += 1000.0
        batches = task.batches(0)
        for step in range(5 * task.steps_per_epoch):
            torch.manual_seed(step)
            task.optimizer.zero_grad()
            task.backward(next(batches))
            task.optimizer.step()
        codes = task.model.encode_latents(task.model.all_latents(task.scaled))
        used[wanted] = code_use(codes.identifier("semantic"), [8, 8, 8])["usage"][0]
    assert used[False] == 1 / 8
    assert used[True] >= 6 / 8


def test_code_use_counts_by_chain_and_level() -> None:
    model = RQVAE({"semantic": 10, "collaborative": 7}, SMALL)
    use = CodeUse(model)
    own = torch.tensor([[1, 2], [1, 3]])
    batch = Codes(torch.tensor([[7], [7]]), {"semantic": own, "collaborative": own.flip(1)})
    use.count(batch)
    use.count(batch)
    assert use.of("shared", 0).tolist() == [0, 0, 0, 0, 0, 0, 0, 4]
    assert use.of("semantic", 0).tolist() == [0, 4, 0, 0, 0, 0, 0, 0]
    assert use.of("semantic", 1).tolist() == [0, 0, 2, 2, 0, 0, 0, 0]
    assert use.of("collaborative", 0).tolist() == [0, 0, 2, 2, 0, 0, 0, 0]
    use.clear()
    assert all(int(counts.sum()) == 0 for counts in use.buffers())


# ---------------------------------------------------------------------------------------------------------- separation


def test_one_spare_code_parts_a_colliding_pair() -> None:
    # Items 0 and 1 share node 0 and code 0; codes 2 and 3 serve nobody.
    residual = torch.tensor([[0.1, 0.0], [0.4, 0.0], [5.0, 0.0]])
    codebook = torch.tensor([[0.0, 0.0], [5.0, 0.0], [90.0, 90.0], [91.0, 91.0]])
    node = torch.tensor([0, 0, 1])
    parted = separate(node, residual, codebook, share=0.25)
    assert nearest(residual, parted).tolist() == [0, 2, 1]
    assert torch.equal(parted[:2], codebook[:2])
    assert torch.equal(separate(node, residual, codebook, share=0.0), codebook)


@pytest.mark.parametrize("seed", range(5))
def test_separation_never_adds_collisions_and_keeps_its_budget(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    residual = torch.randn(400, 3, generator=source)
    node = torch.randint(40, (400,), generator=source)
    codebook = torch.from_numpy(kmeans(residual.numpy(), 16, seed=0))
    parted = separate(node, residual, codebook, share=0.25)

    def collisions(book: torch.Tensor) -> int:
        return 400 - len({(int(n), int(c)) for n, c in zip(node, nearest(residual, book), strict=True)})

    assert collisions(parted) <= collisions(codebook)
    assert int((parted != codebook).any(dim=1).sum()) <= 4


def test_items_with_the_same_residual_cannot_be_parted() -> None:
    codebook = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    residual = torch.tensor([[0.2], [0.2]])
    assert torch.equal(separate(torch.zeros(2, dtype=torch.int64), residual, codebook, share=1.0), codebook)


# ------------------------------------------------------------------------------------------------------------- fitting


def test_fitting_lowers_the_reconstruction_error() -> None:
    vectors = clustered(400)
    _, record = fit_rqvae(vectors, changed(epochs=40, evaluate_every=10, principal_start=False), seed=3)
    first, last = record.history[0], record.history[-1]
    for side in ("semantic", "collaborative"):
        assert last[f"unexplained_variance_{side}"] < 0.8 * first[f"unexplained_variance_{side}"]


def test_the_rate_falls_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr(fitting, "train", lambda _, schedule, **__: rates.append(schedule.rate))
    for schedule in ("linear", "cosine"):
        fit_rqvae(clustered(), changed(epochs=10, batch_size=50, warmup_share=0.1, rate_schedule=schedule), seed=1)
    # 40 steps, of which 4 rise; a third of the way down.
    linear, cosine = ([rate(step) for step in (0, 3, 16)] for rate in rates)
    assert linear == pytest.approx([0.25, 1.0, 2 / 3])
    assert cosine == pytest.approx([0.25, 1.0, 0.75])


def test_the_weights_that_come_back_have_the_lowest_collision_rate_seen() -> None:
    vectors = clustered(400)
    model, record = fit_rqvae(vectors, SMALL, seed=3)
    codes = model.encode_latents(model.all_latents(model.scale(vectors)))
    rates = [(entry["collision_rate_semantic"] + entry["collision_rate_collaborative"]) / 2 for entry in record.history]
    found = sum(collision_rate(codes.identifier(side)) for side in model.sides) / 2
    assert len(rates) == 3
    assert found == pytest.approx(min(rates))
    assert record.best_step == record.history[int(np.argmin(rates))]["step"] or rates.count(min(rates)) > 1


def test_equal_collision_rates_are_decided_by_the_reconstruction() -> None:
    """With room for all, no epoch collides; the score then follows the unexplained variance."""
    vectors = clustered(20)
    _, record = fit_rqvae(vectors, changed(codebook_size=32, epochs=10), seed=0)
    assert all(entry["collision_rate_semantic"] == 0 for entry in record.history)
    assert all(entry["collision_rate_collaborative"] == 0 for entry in record.history)
    errors = [
        entry["unexplained_variance_semantic"] + entry["unexplained_variance_collaborative"] for entry in record.history
    ]
    assert record.best_step == record.history[int(np.argmin(errors))]["step"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    vectors = clustered()
    first, second, other = (weights(fit_rqvae(vectors, SMALL, seed)[0]) for seed in (1, 1, 2))
    assert first == second
    assert first != other


class Killed(Exception):
    pass


@pytest.mark.parametrize("dies_at", [5, 9])
def test_a_killed_fitting_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    vectors = clustered()
    whole, record = fit_rqvae(vectors, SMALL, seed=1)
    original = fitting._Fitting.backward

    def dying(self: fitting._Fitting, batch: tuple[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        if batch[0] == dies_at:
            raise Killed
        return original(self, batch)

    # A checkpoint after every step.
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(fitting._Fitting, "backward", dying)
    with pytest.raises(Killed):
        fit_rqvae(vectors, SMALL, 1, tmp_path, "key")
    steps: list[int] = []

    def counting(self: fitting._Fitting, batch: tuple[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(batch[0])
        return original(self, batch)

    monkeypatch.setattr(fitting._Fitting, "backward", counting)
    continued, again = fit_rqvae(vectors, SMALL, 1, tmp_path, "key")
    assert weights(continued) == weights(whole)
    assert again.history == record.history
    assert steps[0] == dies_at


@pytest.mark.parametrize("items", [1, 2, 5])
def test_catalogues_smaller_than_a_codebook_are_fitted(items: int) -> None:
    vectors = {side: matrix[:items] for side, matrix in clustered().items()}
    model, _ = fit_rqvae(vectors, SMALL, seed=0)
    codes = model.encode_latents(model.all_latents(model.scale(vectors)))
    for side in model.sides:
        assert collision_rate(codes.identifier(side)) == 0.0


def test_items_that_are_all_alike_are_fitted() -> None:
    vectors = {"semantic": torch.ones(50, 6), "collaborative": torch.zeros(50, 4)}
    model, _ = fit_rqvae(vectors, SMALL, seed=0)
    latents = model.all_latents(model.scale(vectors))
    assert torch.isfinite(latents).all()
    assert encode(latents, list(model.shared))[0].shape == (50, 1)


# ------------------------------------------------------------------------------------------------------------- counts


def test_quality_figures_by_hand() -> None:
    identifiers = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 2]])
    assert collision_rate(identifiers) == pytest.approx(1 / 4)
    use = code_use(identifiers, [4, 4])
    assert use["usage"] == [0.5, 0.5]
    # Shares 3/4 and 1/4: 2 ** H with H = 0.8113 bits; an even split of two codes has perplexity 2.
    assert use["perplexity"] == pytest.approx([2**0.8112781, 2.0], rel=1e-5)
