"""Learn encoders and codebooks by a joint RQ-VAE; items' identifiers are their codes (paper, section 3.2).

TIGER's identifiers are those of one embedding with three levels (`shared_levels: 0`, `specific_levels: 3`) and
`collisions: extra_digit`. LC-Rec's have four levels, `sinkhorn` on the last one and `collisions: sinkhorn_repair`.
"""

from __future__ import annotations

from typing import Final

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.identifiers.interface import Kind
from gensar_core.identifiers.quantizer import quantized_sides

KIND: Final = Kind(
    settings=QuantizerSettings,
    paper="GenSAR (2025), section 3.2; RQ-VAE of TIGER (2023) and LC-Rec (2024)",
    build=quantized_sides,
)
