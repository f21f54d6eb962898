"""Write users in prompts: as one of some new tokens, or as words."""

from __future__ import annotations

import numpy as np

from gensar_core.embeddings.item_texts import Encoder
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.hashing import row_keys

#: Number of a user that no table has.
UNKNOWN_USER = -1


def user_tokens(count: int) -> list[str]:
    """Name the tokens that stand for users."""
    return [f"<U_{number}>" for number in range(count)]


def user_rows(users: np.ndarray, tokens: list[int], encoder: Encoder) -> Ragged:
    """Write ``users`` int [n] (-1: unknown) as token ids.

    With ``tokens`` (ids of `user_tokens`), a user is one of them by a hash (TIGER), an unknown one the
    first. Without, user u is the words `user_{u + 1}`, an unknown one `user_0` (P5).
    """
    if not tokens:
        return encoder.encode([f"user_{user + 1}" for user in users.tolist()])
    hashed = (row_keys(0, users) % np.uint64(len(tokens))).astype(np.int64)
    chosen = np.where(users == UNKNOWN_USER, 0, hashed)
    return Ragged.from_lengths(np.ones(len(users), dtype=np.int64), np.asarray(tokens, dtype=np.int32)[chosen])
