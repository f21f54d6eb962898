# Tables, figures and records -> pages for people.


# Curves of all models that a data set shows, or of one (results/figures/demo_sasrec_training.svg).
rule training_curves:
    input:
        by_wildcards(paths.drawn_records),
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
        names=by_wildcards(paths.drawn_names),
        code=code_of("training_curves"),
    script:
        "../workflow_scripts/training_curves.py"


rule overview:
    input:
        unpack(by_wildcards(paths.page_files)),
        statistics="results/tables/{dataset}_statistics.csv",
        audit=paths.AUDIT,
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
        identifiers=by_wildcards(paths.shown_identifiers),
        figures=by_wildcards(paths.shown_figures),
        tables=by_wildcards(paths.shown_table_names),
        captions=CAPTIONS,
        code=code_of("overview"),
    script:
        "../workflow_scripts/overview.py"
