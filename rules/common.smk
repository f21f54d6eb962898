# Helpers that need Snakemake; gensar_core/config/paths.py tells which files an entry reads.
import inspect

from snakemake.io import strip_wildcard_constraints

from gensar_core.config.stage_settings import stage_seed, stage_settings
from gensar_core.runtime.fingerprint import reached, script_fingerprint

CHECKOUT = Path(workflow.current_basedir).parent
# One paragraph per kind of result, shown in the report and on the data sets' pages.
CAPTIONS = {
    path.stem: " ".join(path.read_text(encoding="utf-8").split())
    for path in sorted((CHECKOUT / "report").glob("*.rst"))
}

plan = paths.Plan(
    experiments,
    runs,
    reads_negatives=lambda kind: "training_negatives" in traits[kind].inputs,
    leaves_curve=lambda kind: "gensar_core.training.loop"
    in reached(paths.kind_module(kind)),
)


def by_wildcards(function, **known):
    """Turn a function of paths.py into a function of wildcards; ``known`` are arguments that no wildcard names."""
    names = inspect.signature(function).parameters.keys() - {"plan", *known}

    def of_wildcards(wildcards):
        values = {name: wildcards[name] for name in names & set(wildcards.keys())}
        try:
            return function(plan, **values, **known)
        except UserError as error:
            raise WorkflowError(str(error)) from None

    return of_wildcards


def settings_of(rule):
    """Build a parameter: the settings that a rule reads."""
    # Wildcards are a list of values, in which `in` does not look for names.
    return lambda names: stage_settings(experiments, rule, dict(names)).canonical()


def seed_of(rule):
    """Build a parameter: the seed that a rule draws from."""
    return lambda wildcards: stage_seed(experiments, rule, wildcards)


def code_of(script, *modules):
    """Fingerprint a script and the library code it reaches; ``modules`` are those it looks up by name."""
    return script_fingerprint(CHECKOUT / "workflow_scripts" / f"{script}.py", *modules)


def kind_code_of(script, module_of):
    """Build a parameter: the fingerprint of a script that also runs the module of an entry that a wildcard names."""
    imported = by_wildcards(module_of)
    return lambda wildcards: code_of(script, imported(wildcards))


def any_of(names):
    """Build a wildcard constraint that matches one of the names; without names it matches nothing."""
    return "|".join(sorted(names, key=len, reverse=True)) or "(?!)"


def scaled(base, per_mb=0):
    """Build a resource that grows with the size of a job's inputs (MB of files) and with each attempt."""
    return lambda wildcards, input, attempt: round(
        attempt * (base + per_mb * input.size_mb)
    )


def check_targets(words):
    """Refuse a table, figure or page on the command line that cannot be made, and name the nearest one."""
    made = list(workflow.rules)
    outputs = {strip_wildcard_constraints(str(p)) for one in made for p in one.output}
    for word in filter(paths.is_missing_result, words):
        if not any(one.is_producer(word) for one in made):
            raise WorkflowError(paths.not_made(plan, word, outputs))
