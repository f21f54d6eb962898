# GenSAR: from raw logs to the tables of the paper. The rules are in rules/, in pipeline order.
#
#   snakemake --cores 8 results/tables/amazon.csv      the paper's Amazon experiment
#   snakemake --cores 2 results/tables/demo.csv        the embedded demo
#
# All settings are in config.yaml. A rule's parameters are exactly the settings its stage reads and a fingerprint of the
# code it reaches, so an edit reruns only the stages it affects and those that depend on them.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from gensar_core.baselines.check import check_methods
from gensar_core.config import paths
from gensar_core.config.experiments import load_experiments
from gensar_core.config.seeds import with_seeds
from gensar_core.errors import UserError

min_version("9.14")


configfile: "config.yaml"


report: "report/workflow.rst"


try:
    experiments = load_experiments(config)
    traits = check_methods(experiments, checked=Path(".snakemake/gensar"))
    experiments, runs = with_seeds(experiments, lambda kind: traits[kind].seeded)
except UserError as error:
    raise WorkflowError(str(error)) from None

# An environment variable, not a rule's parameter, since no result depends on it. Cluster nodes read this file again.
os.environ.update(GENSAR_CHECKPOINT_SECONDS=str(experiments.checkpoint_seconds))


include: "rules/common.smk"


wildcard_constraints:
    dataset=any_of(experiments.datasets),
    identifier=any_of(experiments.identifiers),
    corpus=any_of(experiments.corpora),
    table=any_of(experiments.tables),
    figure=any_of(experiments.figures),
    part="[0-9]+",
    parts="[0-9]+",


include: "rules/data.smk"
include: "rules/embeddings.smk"
include: "rules/identifiers.smk"
include: "rules/corpora.smk"
include: "rules/generator.smk"
include: "rules/generator_parts.smk"
include: "rules/answers.smk"
include: "rules/baselines.smk"
include: "rules/fusions.smk"
include: "rules/tuning.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        [
            path
            for name in experiments.datasets
            for path in paths.final_files(plan, name)
        ],


# For a misspelt target, Snakemake reports only that no rule makes it; this also names the nearest target.
check_targets(sys.argv[1:])
