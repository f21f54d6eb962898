"""The documentation builds as a site, and a link that leads nowhere is an error."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material")

ROOT = Path(__file__).parents[2]


def build(folder, target):
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", folder / "mkdocs.yml"]
    return subprocess.run([*command, "--site-dir", target], capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_holds_the_pages_and_the_api(tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert 'src="idea.svg"' in (tmp_path / "site/index.html").read_text()
    assert 'id="gensar_core.baselines.interface.Method.fit"' in (tmp_path / "site/api/index.html").read_text()
    assert list((tmp_path / "site/trials").glob("*.csv"))
    # Nothing is loaded from elsewhere: neither by a page's own elements, nor by the theme for a diagram.
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//", text), page
        assert not re.findall(r"<link\b(?![^>]*canonical)[^>]*\bhref=\"?(?:https?:)?//", text), page
        assert 'class="mermaid"' not in text, page


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path):
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "gensar_core").symlink_to(ROOT / "gensar_core")
    with (tmp_path / "README.md").open("a") as readme:
        readme.write("[no page](docs/nowhere.md), [no heading](docs/results.md#nowhere)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "'nowhere.md'" in done.stderr
    assert "'results.md#nowhere'" in done.stderr
