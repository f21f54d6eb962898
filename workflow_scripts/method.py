"""Fit a ranking method, and rank the targets among their candidates."""

import json
from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.baselines.run import fit_and_rank

    overrides = json.loads(snakemake.params.settings)
    fit_and_rank(
        name=snakemake.wildcards.method,
        kind=overrides.pop("kind"),
        overrides=overrides,
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        embedding=Path(snakemake.input.embedding[0]) if snakemake.input.embedding else None,
        model=Path(snakemake.output.model).parent,
        ranks=Path(snakemake.output.ranks).parent,
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
        training_negatives=Path(snakemake.input.negatives[0]) if snakemake.input.negatives else None,
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )
