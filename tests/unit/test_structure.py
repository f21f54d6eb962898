"""The house stands: floors import downward only, workflow scripts stay thin, the package starts fast and safely."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gensar_core.baselines.interface import kinds
from gensar_core.runtime.fingerprint import _deciding, fingerprint, imports, reached

ROOT = Path(__file__).parents[2]
CORE = ROOT / "gensar_core"

#: From the ground up; an import may only point down. `ranking` (candidate lists, ranks, metrics) lies under every
#: room that trains, because each of them validates by ranking.
FLOORS = (
    "errors",
    "schema",
    "config",
    "runtime",
    "nn",
    "training",
    "sources",
    "samples",
    "ranking",
    "embeddings",
    "identifiers",
    "corpora",
    "generator",
    "baselines",
    "evaluation",
    "tuning",
    "service",
    "cli",
    "__main__",
)


def modules():
    for file in sorted(CORE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def test_every_room_has_a_floor():
    rooms = {module.split(".")[1] for module, _ in modules() if "." in module}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize(("module", "file"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down(module, file):
    for imported in imports(module):
        own, other = module.split(".")[1], imported.split(".")[1]
        assert FLOORS.index(other) <= FLOORS.index(own), f"{module} imports {imported}, which lies above it"
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "snakemake" for name in names), f"{module} imports snakemake"


def test_package_files_import_nothing():
    for module, file in modules():
        if file.name == "__init__.py":
            imported = [
                node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            assert not imported, module


def rule_texts():
    """Map every rule to its text; a rule that is used as another lends it the keywords that this one leaves out."""
    texts = {}
    for file in sorted((ROOT / "rules").glob("*.smk")):
        parts = re.split(r"^(?:use rule (\w+) as|rule) (\w+)(?: with)?:$", file.read_text(), flags=re.MULTILINE)
        for used, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            texts[name] = text + (texts[used] if used else "")
    return texts


def test_each_rule_has_its_script_and_each_script_its_rule():
    texts = rule_texts()
    scripts = {file.stem for file in (ROOT / "workflow_scripts").glob("*.py")}
    assert {re.search(r"workflow_scripts/(\w+)\.py", text).group(1) for text in texts.values()} == scripts
    for name, text in texts.items():
        for keyword in ("log:", "resources:", "output:"):
            assert keyword in text, f"rule {name} has no {keyword}"


@pytest.mark.parametrize("file", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda file: file.stem)
def test_workflow_scripts_are_thin(file):
    tree = ast.parse(file.read_text())
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 24
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While) for node in ast.walk(tree))


def test_the_snakefile_and_what_rules_share_are_short():
    for file in ("Snakefile", "rules/common.smk"):
        assert len((ROOT / file).read_text().splitlines()) < 80, file


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, gensar_core; print([m for m in ('torch', 'polars', 'numpy', 'transformers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_nothing_unsafe_is_called():
    for module, file in modules():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "yaml.load", "pickle.load", "pickle.loads"}, f"{module}: {called}"
                if called == "torch.load":
                    assert any(key.arg == "weights_only" and key.value.value is True for key in node.keywords), module


def test_a_fingerprint_reaches_what_is_imported():
    found = reached("gensar_core.ranking.candidates")
    assert {"gensar_core.ranking.metrics", "gensar_core.schema", "gensar_core.runtime.arrays"} <= found
    assert "gensar_core.generator.train" not in found
    assert fingerprint("gensar_core.ranking.candidates") != fingerprint("gensar_core.ranking.metrics")


def test_no_stage_reaches_the_whole_catalogue():
    """A stage reads the settings of its own entry; if it reached all, an edit to any of them would rerun it."""
    stages = {module for file in (ROOT / "workflow_scripts").glob("*.py") for module in imported_by(file)}
    assert "gensar_core.config.experiments" not in reached(*stages, *methods())


def imported_by(script):
    return re.findall(r"from (gensar_core[\w.]*) import", script.read_text())


def methods():
    return [f"gensar_core.baselines.methods.{kind}" for kind in kinds()]


SETTINGS = """
TAKEN = ("a",)
Size = Literal["small", "large"]

def half(value):
    return value // 2

class Inner(Settings):
    size: int = 3

    @property
    def area(self):
        return half(self.size)

class Read(Inner):
    kind: Size = "small"
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _is_right(self):
        return self

    @property
    def names(self) -> list[Size]:
        return [name for name in TAKEN]

class Entry(Read):
    def read(self):
        return Read(kind=self.kind)
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("in TAKEN]", "in sorted(TAKEN)]", True),
        ('("a",)', '("a", "b")', True),
        ("value // 2", "value // 3", True),
        ("half(self.size)", "2 * half(self.size)", True),
        ("    @property\n    def names", "    def names", True),
        ("size: int = 3", "size: int = 4", False),
        ("size: int = 3", "size: int = 3\n    #: New.\n    depth: int = 1", False),
        ('"small", "large"]', '"small", "middle", "large"]', False),
        ("        return self\n", "        return self or self\n", False),
        ("class Entry", "class Another(Settings):\n    def of_its_own(self):\n        return 1\n\nclass Entry", False),
        # What an entry makes of itself arrives as a parameter.
        ("kind=self.kind", "kind='large'", False),
        ("    def names(self)", "    # A comment.\n    def names(self)", False),
    ],
)
def test_of_settings_the_code_counts_that_a_stage_reads(old, new, counts):
    assert old in SETTINGS

    def content(text):
        return ast.dump(_deciding(ast.parse(text), frozenset({"Read"})))

    assert (content(SETTINGS.replace(old, new)) != content(SETTINGS)) == counts


def test_the_architecture_page_names_what_there_is():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", page.split("## Floors")[1].split("## From")[0], re.MULTILINE)
    assert [floor for pair in rooms for floor in pair if floor] == [
        floor for floor in reversed(FLOORS) if floor != "__main__"
    ]
    for path in re.findall(r"`((?:gensar_core|rules|tests|workflow_scripts)/[\w./]*)`", page):
        assert (ROOT / path).exists(), path
    for path, names in re.findall(r"`(gensar_core/[\w/]+\.py)`: (`\w+`)", page):
        assert re.search(rf"^(def|class) {names.strip('`')}\b", (ROOT / path).read_text(), re.MULTILINE), (path, names)
    steps = page.split("## From")[1].split("##")[0]
    named = {
        name
        for row in re.findall(r"^\| [^|]+ \| (`[^|]+`) \|", steps, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named <= rule_texts().keys()


#: Public names that two floors share, and why.
SHARED_NAMES = {
    "adopt": "a command and what it calls",
    "explain": "a command and what it calls",
    "results_page": "a command and what it calls",
    "tune": "a command and what it calls",
}


def test_a_public_name_means_one_thing():
    floors = {}
    for module, file in modules():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                floors.setdefault(node.name, set()).add(module)
    twice = {
        name: sorted(found)
        for name, found in floors.items()
        if len({module.split(".")[1] for module in found}) > 1 and name not in SHARED_NAMES
    }
    assert not twice


#: Plain words in names of files, beside those of the glossary; in the singular where there is one.
FIELD_WORDS = """
    attention bm25 bounded causal co cold comparison contrastive corpora cost cross curve data dataset doc2query dropout
    embedding encoder entropy example free genret k kmeans core kuaisar language linear loss metadata model negative next node
    normalization ids plateau popularity product pseudo qilin quality quantizer ranked raw recommender review rqvae scoring
    sequence sequential shop shopper significance sinkhorn softmax
    statistics t5 tensor text tokenizer tower train trained training unifiedssr unique validation vocabulary word
"""
FLOW_WORDS = """
    adoption app array ask assemble audit base batch block blocked broken build candidate category cell check checkpoint chunk
    cleaning click config device download draw error eventlog explain export family file fit fitting format hashing hub inheritance
    initialize inspection interface json launch line live load loop main mapped monitoring numbering open overview page parallel
    path piece processes progress quantize queue read readable reading report request result revival run schema sealing seed separation
    settings shard sorting space state status study survey synthesis thread tuning verification view whole write writing
"""


def singular(word):
    return re.sub(r"ie$", "y", re.sub(r"(?<=[^su])s$", "", re.sub(r"(?<=[cs][hs])es$", "", word)))


def test_file_names_are_made_of_the_glossary_and_plain_words():
    """A newcomer sees from its name what a file holds. Files of methods and of kinds bear the published names, or
    what a user writes."""
    glossary = re.findall(r"\*\*([^*]+)\*\*", (ROOT / "docs" / "glossary.md").read_text().lower())
    plain = {*" ".join(glossary).split(), *FIELD_WORDS.split(), *FLOW_WORDS.split()}
    files = [
        file for _, file in modules() if file.parent.name not in {"methods", "kinds"} and not file.stem.startswith("__")
    ]
    unknown = {
        str(file.relative_to(ROOT)): word
        for file in files
        for word in file.stem.split("_")
        if not {word, singular(word)} & plain
    }
    assert not unknown, "name the file by words of docs/glossary.md, or add the plain word to the lists above"


@pytest.mark.parametrize("script", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda file: file.stem)
def test_scripts_call_functions_by_parameters_that_they_have(script):
    tree = ast.parse(script.read_text())
    imported = {
        name.asname or name.name: getattr(importlib.import_module(node.module), name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    for call in ast.walk(tree):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and inspect.isfunction(imported.get(call.func.id))
        ):
            given = {keyword.arg for keyword in call.keywords if keyword.arg}
            assert given <= inspect.signature(imported[call.func.id]).parameters.keys(), call.func.id
