"""A fitted ranking method -> scores of the targets' candidates."""

import json
from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.baselines.run import score_targets

    own = json.loads(snakemake.params.settings)
    score_targets(
        name=snakemake.wildcards.method,
        kind=own.pop("kind"),
        own=own,
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        embedding=Path(snakemake.input.embedding[0]) if snakemake.input.embedding else None,
        model=Path(snakemake.input.model),
        output=Path(snakemake.output.scores).parent,
        seed=snakemake.params.seed,
    )
