"""BERT4Rec: the contract of sequential methods, and what masks and paddings may do."""

import numpy as np
import torch

from gensar_core.samples.user_clicks import UserClicks
from tests.support.method_contract import N_ITEMS
from tests.support.sequential_contract import SMALL, SequentialContract


class TestBERT4Rec(SequentialContract):
    kind = "bert4rec"
    # The contract's targets are last clicks; masks elsewhere would only slow it down.
    own = {**SMALL, "learning_rate": 3.0e-3, "last_item_share": 0.9, "mask_share": 0.2}  # noqa: RUF012
    looks_ahead = True

    def test_neither_mask_nor_padding_can_be_ranked(self, fitted):
        assert fitted.module.table().shape[0] == fitted.item_vectors().vectors.shape[0] == N_ITEMS
        assert fitted.form.padding == N_ITEMS
        assert fitted.form.mask == N_ITEMS + 1

    @torch.no_grad()
    def test_a_masked_place_does_not_see_its_item(self, fitted):
        examples = fitted.form.examples(UserClicks.read(fitted.data.events_file, "rec").items)
        rows = np.arange(len(examples))
        batch = fitted.form.batch(0, rows, examples.take(rows))
        fitted.module.eval()
        states = fitted.module.states(batch.inputs, batch.places)
        assert (batch.inputs.ravel()[batch.places] == fitted.form.mask).all()
        assert states.shape == (len(batch.targets), SMALL["dimensions"] + 1)
