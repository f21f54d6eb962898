# Tables, figures and records -> pages for people.


rule training_curves:
    input:
        models=lambda wildcards: expand(
            "results/{{dataset}}/models/{model}", model=shown_models(wildcards.dataset)
        ),
        identifiers=lambda wildcards: expand(
            "results/{{dataset}}/identifiers/{identifier}/stage.json",
            identifier=shown_identifiers(wildcards.dataset),
        ),
    output:
        multiext("results/figures/{dataset}_training", ".png", ".stage.json"),
        svg=report(
            "results/figures/{dataset}_training.svg",
            caption="../report/training.rst",
            category="Figures",
            labels={"data set": "{dataset}", "figure": "training"},
        ),
    log:
        "results/{dataset}/logs/training_curves.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        names=lambda wildcards: shown_models(wildcards.dataset)
        + shown_identifiers(wildcards.dataset),
        code=code_of("training_curves"),
    script:
        "../workflow_scripts/training_curves.py"


rule overview:
    input:
        statistics="results/tables/{dataset}_statistics.csv",
        audit="results/{dataset}/samples/audit.json",
        quality=lambda wildcards: expand(
            "results/{{dataset}}/identifiers/{identifier}/quality.json",
            identifier=shown_identifiers(wildcards.dataset),
        ),
        figures=lambda wildcards: expand(
            "results/figures/{{dataset}}_{figure}.svg",
            figure=shown_figures(wildcards.dataset),
        ),
        tables=lambda wildcards: expand(
            "results/tables/{table}.html",
            table=shown_tables(wildcards.dataset).values(),
        ),
        records=shown_records,
    output:
        record="results/overview/{dataset}.stage.json",
        page=report(
            "results/overview/{dataset}.html",
            caption="../report/overview.rst",
            category="Overview",
            labels={"data set": "{dataset}"},
        ),
    log:
        "results/{dataset}/logs/overview.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        identifiers=lambda wildcards: shown_identifiers(wildcards.dataset),
        figures=lambda wildcards: shown_figures(wildcards.dataset),
        tables=lambda wildcards: list(shown_tables(wildcards.dataset)),
        captions=CAPTIONS,
        code=code_of("overview"),
    script:
        "../workflow_scripts/overview.py"
