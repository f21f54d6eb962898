"""Make README.md the start page of the site, and pages of its neighbors, with their links as seen from docs/."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]


def on_files(files, config):
    """Add the pages that lie beside docs/, and what they link to."""
    for source in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        name = "index.md" if source == "README.md" else source
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](").replace("](README.md", "](index.md")
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "CITATION.cff", abs_src_path=str(ROOT / "CITATION.cff")))
    return files
