# Ranks -> tables.


rule overall_table:
    input:
        ranks=by_wildcards(paths.table_ranks),
        canonical="results/{dataset}/canonical/stage.json",
    output:
        multiext("results/tables/{dataset}", *paths.TABLE_ENDINGS),
        csv="results/tables/{dataset}.csv",
        page=report(
            "results/tables/{dataset}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"data set": "{dataset}", "table": "overall"},
        ),
    log:
        "results/{dataset}/logs/overall_table.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10, 0.1),
    params:
        rows=by_wildcards(paths.table_rows),
        comparison=settings_of("overall_table"),
        full=by_wildcards(paths.among_catalogue),
        published=by_wildcards(paths.published_figures),
        code=code_of("table"),
    script:
        "../workflow_scripts/table.py"


use rule overall_table as named_table with:
    output:
        multiext("results/tables/{dataset}_{table}", *paths.TABLE_ENDINGS),
        csv="results/tables/{dataset}_{table}.csv",
        page=report(
            "results/tables/{dataset}_{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"data set": "{dataset}", "table": "{table}"},
        ),
    log:
        "results/{dataset}/logs/named_table_{table}.log",


rule full_table:
    input:
        ranks=by_wildcards(paths.full_table_ranks),
        canonical="results/{dataset}/canonical/stage.json",
    output:
        multiext("results/tables/{dataset}_full", ".html", *paths.TABLE_ENDINGS),
        csv="results/tables/{dataset}_full.csv",
    log:
        "results/{dataset}/logs/full_table.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10, 0.1),
    params:
        rows=by_wildcards(paths.fitted_rows),
        comparison=settings_of("full_table"),
        code=code_of("full_table"),
    script:
        "../workflow_scripts/full_table.py"


rule cold_items:
    input:
        ranks=by_wildcards(paths.table_ranks),
        training=paths.TRAINING_EVENTS,
    output:
        multiext("results/tables/{dataset}_cold", ".md", ".stage.json"),
        multiext("results/figures/{dataset}_cold", ".png", ".stage.json"),
        csv="results/tables/{dataset}_cold.csv",
        svg=report(
            "results/figures/{dataset}_cold.svg",
            caption="../report/cold.rst",
            category="Figures",
            labels={"data set": "{dataset}", "figure": "cold items"},
        ),
    log:
        "results/{dataset}/logs/cold_items.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10, 0.1),
    params:
        rows=by_wildcards(paths.table_rows),
        code=code_of("cold_items"),
    script:
        "../workflow_scripts/cold_items.py"


rule comparison_figure:
    input:
        by_wildcards(paths.figure_ranks),
    output:
        multiext("results/figures/{dataset}_{figure}", ".png", ".csv", ".stage.json"),
        svg=report(
            "results/figures/{dataset}_{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"data set": "{dataset}", "figure": "{figure}"},
        ),
    log:
        "results/{dataset}/logs/figure_{figure}.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10, 0.1),
    params:
        settings=settings_of("comparison_figure"),
        code=code_of("comparison_figure"),
    script:
        "../workflow_scripts/comparison_figure.py"


rule costs:
    input:
        unpack(by_wildcards(paths.cost_files)),
    output:
        multiext("results/tables/{dataset}_costs", ".md", ".stage.json"),
        csv="results/tables/{dataset}_costs.csv",
    log:
        "results/{dataset}/logs/costs.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        rows=by_wildcards(paths.fitted_rows),
        code=code_of("costs"),
    script:
        "../workflow_scripts/costs.py"


use rule costs as named_costs with:
    output:
        multiext("results/tables/{dataset}_{table}_costs", ".md", ".stage.json"),
        csv="results/tables/{dataset}_{table}_costs.csv",
    log:
        "results/{dataset}/logs/named_costs_{table}.log",


rule statistics:
    input:
        canonical=[paths.EVENTS, *paths.ITEMS_AND_QUERIES],
        samples=paths.SAMPLES,
    output:
        multiext("results/tables/{dataset}_statistics", ".md", ".stage.json"),
        multiext("results/figures/{dataset}_distributions", ".png", ".stage.json"),
        csv="results/tables/{dataset}_statistics.csv",
        svg=report(
            "results/figures/{dataset}_distributions.svg",
            caption="../report/distributions.rst",
            category="Figures",
            labels={"data set": "{dataset}", "figure": "distributions"},
        ),
    log:
        "results/{dataset}/logs/statistics.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000, 5),
        runtime=scaled(10, 0.1),
    params:
        code=code_of("statistics"),
    script:
        "../workflow_scripts/statistics.py"


rule collisions:
    input:
        by_wildcards(paths.compared_quality),
    output:
        multiext("results/figures/{dataset}_collisions", ".png", ".stage.json"),
        svg=report(
            "results/figures/{dataset}_collisions.svg",
            caption="../report/collisions.rst",
            category="Figures",
            labels={"data set": "{dataset}", "figure": "collisions"},
        ),
    log:
        "results/{dataset}/logs/collisions.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        names=by_wildcards(paths.compared_identifiers),
        code=code_of("collisions"),
    script:
        "../workflow_scripts/collisions.py"
