# Tables, figures and records -> pages for people.


# Curves of all models that a data set shows, or of one (results/figures/demo_sasrec_training.svg).
rule training_curves:
    input:
        models=lambda wildcards: expand(
            "results/{{dataset}}/models/{name}/stage.json",
            name=drawn_models(wildcards),
        ),
        identifiers=lambda wildcards: expand(
            "results/{{dataset}}/identifiers/{name}/stage.json",
            name=drawn_identifiers(wildcards),
        ),
    output:
        multiext("results/figures/{dataset}{_model}_training", ".png", ".stage.json"),
        svg=report(
            "results/figures/{dataset}{_model}_training.svg",
            caption="../report/training.rst",
            category="Figures",
            labels={"data set": "{dataset}", "figure": "training{_model}"},
        ),
    log:
        "results/{dataset}/logs/training_curves{_model}.log",
    wildcard_constraints:
        _model=f"(?:_(?:{any_of([*experiments.methods, *experiments.generators])}))?",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        names=lambda wildcards: drawn_models(wildcards) + drawn_identifiers(wildcards),
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
