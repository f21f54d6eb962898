"""Residual quantization and the RQ-VAE's losses, against Eq. 2-10 written out by hand or as plain loops."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from gensar_core.identifiers.quantize import encode, nearest, quantize
from gensar_core.identifiers.rqvae import RQVAE, load_rqvae, save_rqvae
from tests.support.small_quantizer import small_settings


def loop_codes(vector: np.ndarray, codebooks: Iterable[np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    """Eq. 3 and 4 for one vector, by a loop over levels and codes: the codes and the residual after each level."""
    codes, residuals = [], [vector.astype(np.float64)]
    for codebook in codebooks:
        distances = [float(((residuals[-1] - entry) ** 2).sum()) for entry in codebook]
        codes.append(int(np.argmin(distances)))
        residuals.append(residuals[-1] - codebook[codes[-1]])
    return codes, residuals[1:]


def loop_quantize(
    model: RQVAE, latent: np.ndarray
) -> tuple[list[int], dict[str, tuple[list[int], list[np.ndarray]]], list[np.ndarray]]:
    """Quantize one latent by loops: its shared codes, codes and residuals by side, and residuals of shared levels."""
    shared, residuals = loop_codes(latent, arrays(model.shared))
    parts = {"semantic": residuals[-1][:4], "collaborative": residuals[-1][4:]}
    specific = {side: loop_codes(part, arrays(model.specific_codebooks(side))) for side, part in parts.items()}
    return shared, specific, residuals


def arrays(codebooks: Iterable[torch.Tensor]) -> list[np.ndarray]:
    return [codebook.detach().numpy() for codebook in codebooks]


def small_model(**changes: object) -> RQVAE:
    torch.manual_seed(0)
    settings = small_settings(**{"codebook_size": 6, "shared_levels": 2, "specific_levels": 2} | changes)
    model = RQVAE({"semantic": 10, "collaborative": 7}, settings)
    for codebooks in model.chains().values():
        for codebook in codebooks:
            torch.nn.init.normal_(codebook, std=0.3)
    return model


def random_vectors(items: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "semantic": torch.randn(items, 10, generator=rng),
        "collaborative": torch.randn(items, 7, generator=rng) * 3 + 1,
    }


def test_codes_and_residuals_match_a_loop_over_items_levels_and_codes() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((200, 5)).astype(np.float32)
    codebooks = rng.standard_normal((4, 9, 5)).astype(np.float32)
    given_vectors = torch.from_numpy(vectors.copy())
    codes, residual = encode(given_vectors, torch.from_numpy(codebooks))
    np.testing.assert_array_equal(given_vectors, vectors, err_msg="the given vectors were changed")
    for row, vector in enumerate(vectors):
        expected, residuals = loop_codes(vector, codebooks)
        assert codes[row].tolist() == expected
        np.testing.assert_allclose(residual[row], residuals[-1], atol=1e-5)
    trained = quantize(given_vectors, torch.from_numpy(codebooks), 0.25, residual_gradient=True)
    assert torch.equal(trained.codes, codes)
    torch.testing.assert_close(trained.residual, residual)


def test_ties_go_to_the_lower_code() -> None:
    assert nearest(torch.zeros(1, 2), torch.tensor([[0.0, 2.0], [1.0, 0.0], [-1.0, 0.0]])).tolist() == [1]


def test_identifiers_and_quantized_latents_follow_eq_3_to_6() -> None:
    model = small_model()
    latents = model.all_latents(random_vectors(50))
    codes = model.encode_latents(latents)
    quantized = model.quantized(codes)
    for row, latent in enumerate(latents.numpy()):
        shared, specific, _ = loop_quantize(model, latent)
        for side, (codes_of_side, _) in specific.items():
            assert codes.identifier(side)[row].tolist() == shared + codes_of_side
        remaining = np.concatenate([residuals[-1] for _, residuals in specific.values()])
        np.testing.assert_allclose(quantized[row], latent - remaining, atol=1e-5)


@pytest.mark.parametrize(("residual_gradient", "levels_with_gradient"), [(True, 2), (False, 1)])
def test_commitment_gradient_reaches_the_encoder_from_all_levels_or_from_the_first(
    residual_gradient: bool, levels_with_gradient: int
) -> None:
    codebooks = torch.tensor([[[0.0], [4.0]], [[0.0], [2.0]]])
    latent = torch.tensor([[5.0]], requires_grad=True)
    quantize(latent, codebooks, commitment=0.25, residual_gradient=residual_gradient).loss.backward()
    # Residuals 5 - 4 = 1 and then 1 - 2 = -1 or 1 - 0 = 1: the tie goes to code 0. d/dz of 0.25 * r^2 is 0.5 a level.
    assert latent.grad is not None
    assert float(latent.grad) == pytest.approx(0.5 * levels_with_gradient)


def test_codes_learn_from_the_residual_of_their_level_alone() -> None:
    codebooks = torch.tensor([[[0.0], [4.0]], [[0.0], [2.0]]], requires_grad=True)
    quantize(torch.tensor([[5.0]]), codebooks, commitment=0.25, residual_gradient=True).loss.backward()
    assert codebooks.grad is not None
    # -2 * (r - e) for the chosen codes: r0 - e = 1, r1 - e = 1.
    assert codebooks.grad.flatten().tolist() == [0.0, -2.0, -2.0, 0.0]


def test_losses_follow_eq_8_to_10() -> None:
    model = small_model()
    scaled = random_vectors(20)
    losses, codes = model.losses(scaled)
    decoded = model.decode(model.quantized(codes))
    for side, vectors in scaled.items():
        by_hand = np.mean([float(((vectors[row] - decoded[side][row]) ** 2).sum().detach()) for row in range(20)])
        assert float(losses[f"reconstruction_{side}"]) == pytest.approx(by_hand, rel=1e-4)
    total = losses["reconstruction_semantic"] + losses["reconstruction_collaborative"] + losses["quantization"]
    assert float(losses["loss"]) == pytest.approx(float(total), rel=1e-6)
    # Eq. 9: the three chains, each over its residuals.
    expected = 0.0
    for latent in model.all_latents(scaled).numpy():
        _, specific, residuals = loop_quantize(model, latent)
        residuals += [residual for _, side_residuals in specific.values() for residual in side_residuals]
        expected += 1.25 * sum(float((residual**2).sum()) for residual in residuals) / 20
    assert float(losses["quantization"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("residual_gradient", [True, False])
def test_straight_through_gives_the_encoder_the_decoders_gradient(residual_gradient: bool) -> None:
    """d Recon / d z equals the gradient with respect to the quantized latents, as if quantization were the identity."""
    model = small_model(residual_gradient=residual_gradient)
    scaled = random_vectors(8)
    losses, codes = model.losses(scaled)
    reconstruction = losses["reconstruction_semantic"] + losses["reconstruction_collaborative"]
    weight = model.encoders["semantic"][-1].weight
    (through,) = torch.autograd.grad(reconstruction, weight)

    quantized = model.quantized(codes).requires_grad_(True)
    decoded = model.decode(quantized)
    error = sum((scaled[side] - decoded[side]).square().sum(dim=1).mean() for side in model.sides)
    (at_quantized,) = torch.autograd.grad(error, quantized)  # type: ignore[arg-type]
    (expected,) = torch.autograd.grad(model.latents(scaled), weight, grad_outputs=at_quantized)
    torch.testing.assert_close(through, expected, rtol=1e-4, atol=1e-6)


def test_scaled_vectors_have_mean_zero_and_mean_squared_norm_one() -> None:
    model = small_model()
    vectors = random_vectors(500)
    model.fit_scale(vectors)
    for matrix in model.scale(vectors).values():
        torch.testing.assert_close(matrix.mean(dim=0), torch.zeros(matrix.shape[1]), atol=1e-5, rtol=0)
        assert float(matrix.square().sum(dim=1).mean()) == pytest.approx(1.0, rel=1e-5)


def test_unexplained_variance_is_error_over_variance() -> None:
    model = small_model()
    scaled = random_vectors(30)
    codes = model.encode_latents(model.all_latents(scaled))
    with torch.no_grad():
        decoded = model.decode(model.quantized(codes))
    for side, share in model.unexplained_variance(scaled, codes).items():
        expected = float((scaled[side] - decoded[side]).square().sum() / scaled[side].square().sum())
        assert share == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("levels", [(2, 2), (0, 3), (3, 0)])
def test_a_saved_model_encodes_as_before(tmp_path: Path, levels: tuple[int, int]) -> None:
    model = small_model(shared_levels=levels[0], specific_levels=levels[1])
    vectors = random_vectors(50)
    model.fit_scale(vectors)
    save_rqvae(model, tmp_path / "model.safetensors")
    loaded = load_rqvae(tmp_path / "model.safetensors")
    for side in model.sides:
        codes = [m.encode_latents(m.all_latents(m.scale(vectors))).identifier(side) for m in (model, loaded)]
        assert torch.equal(*codes)
        assert codes[0].shape == (50, sum(levels))
