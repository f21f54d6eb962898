"""Cluster the scaled vectors by residual k-means, level by level, without training; else as `rqvae`."""

from __future__ import annotations

from typing import Final

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.identifiers.interface import Kind
from gensar_core.identifiers.quantizer import quantized_sides

KIND: Final = Kind(
    settings=QuantizerSettings,
    paper="GenSAR (2025), section 3.2, with the encoders left out",
    build=quantized_sides,
)
