"""Residual quantization and the RQ-VAE's losses, against Eq. 2-10 written out by hand or as plain loops."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.identifiers.quantize import encode, nearest, quantize
from gensar_core.identifiers.rqvae import RQVAE, load_rqvae, save_rqvae


def loop_codes(vector: np.ndarray, codebooks: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Eq. 3 for one vector: a loop over levels and codes."""
    codes = []
    left = vector.astype(np.float64)
    for codebook in codebooks:
        distances = [float(((left - entry) ** 2).sum()) for entry in codebook]
        codes.append(int(np.argmin(distances)))
        left = left - codebook[codes[-1]]
    return codes, left


def small_model(seed: int = 0, **changes: object) -> RQVAE:
    torch.manual_seed(seed)
    settings = QuantizerSettings(
        **{"latent_size": 4, "hidden_sizes": [16, 8], "codebook_size": 6, "shared_levels": 2, "specific_levels": 2}
        | changes  # type: ignore[arg-type]
    )
    model = RQVAE({"semantic": 10, "collaborative": 7}, settings)
    for codebooks in model.chains().values():
        for codebook in codebooks:
            torch.nn.init.normal_(codebook, std=0.3)
    return model


def arrays(codebooks: Iterable[torch.Tensor]) -> list[np.ndarray]:
    return [codebook.detach().numpy() for codebook in codebooks]


def some_vectors(items: int = 50, seed: int = 1) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {
        "semantic": torch.randn(items, 10, generator=source),
        "collaborative": torch.randn(items, 7, generator=source) * 3 + 1,
    }


def test_codes_and_residuals_are_those_of_a_loop_over_items_levels_and_codes() -> None:
    source = np.random.default_rng(3)
    vectors = source.standard_normal((200, 5)).astype(np.float32)
    codebooks = source.standard_normal((4, 9, 5)).astype(np.float32)
    codes, left = encode(torch.from_numpy(vectors), torch.from_numpy(codebooks))
    for row, vector in enumerate(vectors):
        expected, residual = loop_codes(vector, codebooks)
        assert codes[row].tolist() == expected
        np.testing.assert_allclose(left[row], residual, atol=1e-5)
    trained = quantize(torch.from_numpy(vectors), torch.from_numpy(codebooks), 0.25, residual_gradient=True)
    assert torch.equal(trained.codes, codes)
    torch.testing.assert_close(trained.residual, left)


def test_encoding_leaves_its_input_alone() -> None:
    vectors = torch.ones(3, 2)
    encode(vectors, torch.ones(1, 4, 2))
    assert torch.equal(vectors, torch.ones(3, 2))


def test_ties_go_to_the_lower_code() -> None:
    assert nearest(torch.zeros(1, 2), torch.tensor([[0.0, 2.0], [1.0, 0.0], [-1.0, 0.0]])).tolist() == [1]


def test_identifiers_share_their_first_codes_and_follow_eq_3_to_5() -> None:
    model = small_model()
    scaled = some_vectors()
    latents = model.all_latents(scaled)
    codes = model.encode_latents(latents)
    shared_books = arrays(model.shared)
    for row, latent in enumerate(latents.numpy()):
        shared, left = loop_codes(latent, shared_books)
        semantic, _ = loop_codes(left[:4], arrays(model.specific_codebooks("semantic")))
        collaborative, _ = loop_codes(left[4:], arrays(model.specific_codebooks("collaborative")))
        assert codes.identifier("semantic")[row].tolist() == shared + semantic
        assert codes.identifier("collaborative")[row].tolist() == shared + collaborative


def test_quantized_latents_are_the_sums_of_eq_6() -> None:
    model = small_model()
    codes = model.encode_latents(model.all_latents(some_vectors(5)))
    quantized = model.quantized(codes)
    for row in range(5):
        shared = sum(model.shared[level][codes.shared[row, level]] for level in range(2))
        own = torch.cat(
            [
                sum(model.specific_codebooks(side)[level][codes.specific[side][row, level]] for level in range(2))  # type: ignore[misc]
                for side in ("semantic", "collaborative")
            ]
        )
        torch.testing.assert_close(quantized[row], (shared + own).detach())


def test_quantization_loss_by_hand() -> None:
    # r0 = (3, 4): nearest is (3, 3), |r0 - e|^2 = 1, r1 = (0, 1); nearest is (0, 0.5), |r1 - e|^2 = 0.25.
    # r0 = (0, 0): nearest is (0, 0), 0; r1 = (0, 0): both (0, 0.5) at 0.25 and (5, 5); 0.25.
    codebooks = torch.tensor([[[0.0, 0.0], [3.0, 3.0]], [[0.0, 0.5], [5.0, 5.0]]])
    result = quantize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), codebooks, commitment=0.25, residual_gradient=True)
    assert result.codes.tolist() == [[1, 0], [0, 0]]
    # Means over the two items of 1 + 0.25 and 0 + 0.25, each once for the code and 0.25 times for the commitment.
    assert float(result.loss) == pytest.approx(1.25 * (1.25 + 0.25) / 2)


@pytest.mark.parametrize(("residual_gradient", "levels_heard"), [(True, 2), (False, 1)])
def test_commitment_gradient_reaches_the_encoder_from_all_levels_or_from_the_first(
    residual_gradient: bool, levels_heard: int
) -> None:
    codebooks = torch.tensor([[[0.0], [4.0]], [[0.0], [2.0]]])
    latent = torch.tensor([[5.0]], requires_grad=True)
    quantize(latent, codebooks, commitment=0.25, residual_gradient=residual_gradient).loss.backward()
    # Residuals 5 - 4 = 1 and then 1 - 2 = -1 or 1 - 0 = 1: the tie goes to code 0. d/dz of 0.25 * r^2 is 0.5 a level.
    assert latent.grad is not None
    assert float(latent.grad) == pytest.approx(0.5 * levels_heard)


def test_codes_learn_from_their_own_level_alone() -> None:
    codebooks = torch.tensor([[[0.0], [4.0]], [[0.0], [2.0]]], requires_grad=True)
    quantize(torch.tensor([[5.0]]), codebooks, commitment=0.25, residual_gradient=True).loss.backward()
    assert codebooks.grad is not None
    # -2 * (r - e) for the chosen codes: r0 - e = 1, r1 - e = 1.
    assert codebooks.grad.flatten().tolist() == [0.0, -2.0, -2.0, 0.0]


def test_reconstruction_and_total_loss_are_eq_8_and_10() -> None:
    model = small_model()
    scaled = some_vectors(20)
    losses, codes = model.losses(scaled)
    decoded = model.decode(model.quantized(codes))
    for side, vectors in scaled.items():
        by_hand = np.mean([float(((vectors[row] - decoded[side][row]) ** 2).sum()) for row in range(20)])
        assert float(losses[f"reconstruction_{side}"]) == pytest.approx(by_hand, rel=1e-4)
    total = losses["reconstruction_semantic"] + losses["reconstruction_collaborative"] + losses["quantization"]
    assert float(losses["loss"]) == pytest.approx(float(total), rel=1e-6)
    # Eq. 9: the three chains, each over its own residuals.
    latents = model.all_latents(scaled)
    expected = 0.0
    for row in range(20):
        left = latents[row].numpy()
        for codebooks, part in [(model.shared, slice(0, 8))]:
            for codebook in arrays(codebooks):
                left = left - codebook[loop_codes(left[part], codebook[None])[0][0]]
                expected += 1.25 * float((left**2).sum()) / 20
        for side, part in (("semantic", slice(0, 4)), ("collaborative", slice(4, 8))):
            own = left[part]
            for codebook in arrays(model.specific_codebooks(side)):
                own = own - codebook[loop_codes(own, codebook[None])[0][0]]
                expected += 1.25 * float((own**2).sum()) / 20
    assert float(losses["quantization"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("residual_gradient", [True, False])
def test_straight_through_gives_the_encoder_the_decoders_gradient(residual_gradient: bool) -> None:
    """d Recon / d z equals the gradient with respect to the quantized latents, as if quantization were the identity."""
    model = small_model(residual_gradient=residual_gradient)
    scaled = some_vectors(8)
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
    vectors = some_vectors(500)
    model.fit_scale(vectors)
    for matrix in model.scale(vectors).values():
        torch.testing.assert_close(matrix.mean(dim=0), torch.zeros(matrix.shape[1]), atol=1e-5, rtol=0)
        assert float(matrix.square().sum(dim=1).mean()) == pytest.approx(1.0, rel=1e-5)


def test_unexplained_variance_is_error_over_variance() -> None:
    model = small_model()
    scaled = some_vectors(30)
    codes = model.encode_latents(model.all_latents(scaled))
    with torch.no_grad():
        decoded = model.decode(model.quantized(codes))
    for side, share in model.unexplained_variance(scaled, codes).items():
        expected = float((scaled[side] - decoded[side]).square().sum() / scaled[side].square().sum())
        assert share == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("levels", [(2, 2), (0, 3), (3, 0)])
def test_a_saved_model_encodes_as_before(tmp_path, levels: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    model = small_model(shared_levels=levels[0], specific_levels=levels[1])
    vectors = some_vectors()
    model.fit_scale(vectors)
    save_rqvae(model, tmp_path / "model.safetensors")
    loaded = load_rqvae(tmp_path / "model.safetensors")
    for side in model.sides:
        codes = [m.encode_latents(m.all_latents(m.scale(vectors))).identifier(side) for m in (model, loaded)]
        assert torch.equal(*codes)
        assert codes[0].shape == (50, sum(levels))
