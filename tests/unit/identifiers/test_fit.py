"""Fitting: where it starts, dead codes, separation, determinism, and continuing after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gensar_core.identifiers import fit as fitting
from gensar_core.identifiers.fit import fit_rqvae
from gensar_core.identifiers.initialize import initialize_codebooks, kmeans, start_as_principal_components
from gensar_core.identifiers.quality import code_use, collision_rate
from gensar_core.identifiers.quantize import nearest
from gensar_core.identifiers.revival import CodeUse, revive
from gensar_core.identifiers.rqvae import RQVAE, Codes
from gensar_core.identifiers.separation import separate
from tests.support.killed import Killed, kill_at
from tests.support.small_quantizer import clustered_vectors, small_settings


def initialized(
    items: int = 200, *, principal: bool = False, **changes: object
) -> tuple[RQVAE, dict[str, torch.Tensor]]:
    """A model before training, with random networks unless ``principal``, and its scaled vectors."""
    model, scaled = fitting._scaled_model(clustered_vectors(items), small_settings(**changes))
    if principal:
        start_as_principal_components(model, scaled)
    initialize_codebooks(model, scaled, seed=0)
    return model, scaled


def all_codes(model: RQVAE, vectors: dict[str, torch.Tensor]) -> Codes:
    return model.encode_latents(model.all_latents(model.scale(vectors)))


@pytest.mark.parametrize(("hidden", "carried"), [([], 4), ([16, 8], 4), ([6], 3), ([16, 6, 8], 3)])
def test_a_principal_start_keeps_as_many_components_as_the_narrowest_layer_carries(
    hidden: list[int], carried: int
) -> None:
    model, scaled = initialized(principal=True, hidden_sizes=hidden)
    with torch.no_grad():
        decoded = model.decode(model.latents(scaled))
    for side, matrix in scaled.items():
        spectrum = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
        error = float((matrix - decoded[side]).square().sum())
        assert error == pytest.approx(float(spectrum[carried:].sum()), rel=1e-3)


def test_units_without_effect_at_the_start_still_learn() -> None:
    model, scaled = initialized(principal=True)
    model.losses(scaled)[0]["loss"].backward()
    last = model.decoders["semantic"][-1].weight
    assert float(last[:, 8:].detach().abs().max()) == 0.0
    assert float(last.grad[:, 8:].abs().max()) > 0.0


def test_kmeans_centers_are_the_means_of_their_vectors_and_follow_the_seed() -> None:
    vectors = clustered_vectors(60)["semantic"].numpy()
    centers = kmeans(vectors, 5, seed=1)
    nearest_center = ((vectors[:, None] - centers[None]) ** 2).sum(axis=2).argmin(axis=1)
    for number, center in enumerate(centers):
        np.testing.assert_allclose(center, vectors[nearest_center == number].mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(centers, kmeans(vectors, 5, seed=1))
    assert not np.array_equal(centers, kmeans(vectors, 5, seed=2))


def test_kmeans_keeps_every_vector_as_a_center_where_clusters_outnumber_them() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
    centers = kmeans(vectors, 8, seed=0)
    assert centers.shape == np.unique(centers, axis=0).shape == (8, 3)
    distance = np.abs(centers[:, None] - np.eye(3)).max(axis=2)
    assert (distance.min(axis=0) == 0).all()
    # The spare centers are near the data, where the unique assignment can use them.
    assert distance.min(axis=1).max() < 0.3


def test_initialization_uses_every_code_of_every_level() -> None:
    model, scaled = initialized(400)
    codes = model.encode_latents(model.all_latents(scaled))
    for side in model.sides:
        assert code_use(codes.identifier(side), [8, 8, 8])["usage"] == [1.0, 1.0, 1.0]


def test_dead_codes_move_to_residuals_of_the_batch_and_others_stay() -> None:
    model, scaled = initialized()
    optimizer, use = torch.optim.AdamW(model.parameters()), CodeUse(model)
    losses, codes = model.losses(scaled)
    losses["loss"].backward()
    optimizer.step()
    use.count(codes)
    dead, alive = [2, 5], [0, 1, 3, 4, 6, 7]
    use.of("shared", 0)[dead] = 0
    before = model.shared[0].detach().clone()
    torch.manual_seed(0)
    revive(model, use, scaled, optimizer)
    after, average = model.shared[0].detach(), optimizer.state[model.shared[0]]["exp_avg"]
    assert torch.equal(after[alive], before[alive])
    assert float(average[alive].abs().max()) > 0.0
    assert not average[dead].any()
    distances = (after[dead][:, None] - model.all_latents(scaled)[None]).norm(dim=2)
    assert distances.amin(dim=1).max() < 1e-4


def test_training_revives_codes_that_no_item_is_near() -> None:
    """With all codes of a level but one set far away, only revival can bring them back."""
    vectors = {"semantic": clustered_vectors(256)["semantic"]}
    usage = {}
    for revived in (True, False):
        task = fitting._Fitting(vectors, small_settings(revive_dead_codes=revived), seed=0)
        with torch.no_grad():
            task.model.shared[0][1:] += 1000.0
        batches = task.batches(0)
        for step in range(5 * task.steps_per_epoch):
            torch.manual_seed(step)
            task.optimizer.zero_grad()
            task.backward(next(batches))
            task.optimizer.step()
        usage[revived] = code_use(all_codes(task.model, vectors).identifier("semantic"), [8, 8, 8])["usage"][0]
    assert usage[False] == 1 / 8
    assert usage[True] >= 6 / 8


def test_code_use_counts_by_chain_and_level() -> None:
    use = CodeUse(RQVAE({"semantic": 10, "collaborative": 7}, small_settings()))
    codes = torch.tensor([[1, 2], [1, 3]])
    batch = Codes(torch.tensor([[7], [7]]), {"semantic": codes, "collaborative": codes.flip(1)})
    use.count(batch)
    use.count(batch)
    assert use.of("shared", 0).tolist() == [0, 0, 0, 0, 0, 0, 0, 4]
    assert use.of("semantic", 0).tolist() == use.of("collaborative", 1).tolist() == [0, 4, 0, 0, 0, 0, 0, 0]
    assert use.of("semantic", 1).tolist() == use.of("collaborative", 0).tolist() == [0, 0, 2, 2, 0, 0, 0, 0]
    use.clear()
    assert not any(counts.any() for counts in use.buffers())


def test_one_spare_code_separates_a_colliding_pair() -> None:
    # Items 0 and 1 share node 0 and code 0; codes 2 and 3 serve no item.
    residual = torch.tensor([[0.1, 0.0], [0.4, 0.0], [5.0, 0.0]])
    codebook = torch.tensor([[0.0, 0.0], [5.0, 0.0], [90.0, 90.0], [91.0, 91.0]])
    node = torch.tensor([0, 0, 1])
    separated = separate(node, residual, codebook, share=0.25)
    assert nearest(residual, separated).tolist() == [0, 2, 1]
    assert torch.equal(separated[:2], codebook[:2])
    assert torch.equal(separate(node, residual, codebook, share=0.0), codebook)
    # Items with the same residual cannot be separated.
    assert torch.equal(separate(node, residual[[0, 0, 2]], codebook, share=1.0), codebook)


@pytest.mark.parametrize("seed", range(5))
def test_separation_never_adds_collisions_and_keeps_its_budget(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    residual = torch.randn(400, 3, generator=rng)
    node = torch.randint(40, (400,), generator=rng)
    codebook = torch.from_numpy(kmeans(residual.numpy(), 16, seed=0))
    separated = separate(node, residual, codebook, share=0.25)
    before, after = (
        collision_rate(torch.stack([node, nearest(residual, codes)], dim=1)) for codes in (codebook, separated)
    )
    assert after <= before
    assert int((separated != codebook).any(dim=1).sum()) <= 4


def test_fitting_lowers_the_reconstruction_error() -> None:
    settings = small_settings(epochs=40, evaluate_every=10, principal_start=False)
    _, record = fit_rqvae(clustered_vectors(400), settings, seed=3)
    first, last = record.history[0], record.history[-1]
    for side in ("semantic", "collaborative"):
        assert last[f"unexplained_variance_{side}"] < 0.8 * first[f"unexplained_variance_{side}"]


def test_the_rate_follows_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr(fitting, "train", lambda _, schedule, **__: rates.append(schedule.rate))
    for schedule in ("linear", "cosine"):
        settings = small_settings(epochs=10, batch_size=50, warmup_share=0.1, rate_schedule=schedule)
        fit_rqvae(clustered_vectors(), settings, seed=1)
    # 40 steps, of which 4 rise; step 16 is a third of the way down.
    linear, cosine = ([rate(step) for step in (0, 3, 16)] for rate in rates)
    assert linear == pytest.approx([0.25, 1.0, 2 / 3])
    assert cosine == pytest.approx([0.25, 1.0, 0.75])


def test_the_returned_weights_have_the_lowest_collision_rate_of_all_validations() -> None:
    vectors = clustered_vectors(400)
    model, record = fit_rqvae(vectors, small_settings(), seed=3)
    codes = all_codes(model, vectors)
    rates = [(entry["collision_rate_semantic"] + entry["collision_rate_collaborative"]) / 2 for entry in record.history]
    assert len(rates) == 3
    assert sum(collision_rate(codes.identifier(side)) for side in model.sides) / 2 == pytest.approx(min(rates))
    assert record.best_step == record.history[int(np.argmin(rates))]["step"] or rates.count(min(rates)) > 1


def test_reconstruction_decides_between_equal_collision_rates() -> None:
    """With room for all items, no epoch collides; the score then follows the unexplained variance."""
    _, record = fit_rqvae(clustered_vectors(20), small_settings(codebook_size=32, epochs=10), seed=0)
    errors = []
    for entry in record.history:
        assert entry["collision_rate_semantic"] == entry["collision_rate_collaborative"] == 0
        errors.append(entry["unexplained_variance_semantic"] + entry["unexplained_variance_collaborative"])
    assert record.best_step == record.history[int(np.argmin(errors))]["step"]


@pytest.mark.parametrize("killed_at", [5, 9])
def test_a_killed_fitting_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    vectors = clustered_vectors()
    whole, whole_record = fit_rqvae(vectors, small_settings(), seed=1)
    steps = kill_at(killed_at, fitting._Fitting, monkeypatch)
    with pytest.raises(Killed):
        fit_rqvae(vectors, small_settings(), 1, tmp_path, "key")
    continued, record = fit_rqvae(vectors, small_settings(), 1, tmp_path, "key")
    assert steps[killed_at + 1][0] == killed_at
    assert record.history == whole_record.history
    for name, weights in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[name], weights)


@pytest.mark.parametrize(
    ("vectors", "distinct"),
    [
        (clustered_vectors(1), 1),
        (clustered_vectors(2), 2),
        (clustered_vectors(5), 5),
        ({"semantic": torch.ones(50, 6), "collaborative": torch.zeros(50, 4)}, 1),
    ],
)
def test_fewer_distinct_items_than_codes_are_fitted(vectors: dict[str, torch.Tensor], distinct: int) -> None:
    model, _ = fit_rqvae(vectors, small_settings(), seed=0)
    assert torch.isfinite(model.all_latents(model.scale(vectors))).all()
    for side in model.sides:
        assert len(all_codes(model, vectors).identifier(side).unique(dim=0)) == distinct


def test_quality_counts_match_a_hand_made_case() -> None:
    identifiers = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 2]])
    assert collision_rate(identifiers) == pytest.approx(1 / 4)
    use = code_use(identifiers, [4, 4])
    assert use["usage"] == [0.5, 0.5]
    # Shares 3/4 and 1/4: 2 ** H with H = 0.8113 bits; an even split of two codes has perplexity 2.
    assert use["perplexity"] == pytest.approx([2**0.8112781, 2.0], rel=1e-5)
