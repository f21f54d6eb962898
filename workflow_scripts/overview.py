"""Write all results of a data set's experiments on one page."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.overview import Sources, overview

    files, names = snakemake.input, snakemake.params
    overview(
        dataset=snakemake.wildcards.dataset,
        sources=Sources(
            statistics=Path(files.statistics),
            audit=Path(files.audit),
            quality=dict(zip(names.identifiers, map(Path, files.quality), strict=True)),
            figures=dict(zip(names.figures, map(Path, files.figures), strict=True)),
            tables=dict(zip(names.tables, map(Path, files.tables), strict=True)),
            records=[Path(path) for path in files.records],
        ),
        captions=names.captions,
        output=Path(snakemake.output.page),
    )
