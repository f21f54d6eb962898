"""Compare two folders of results: `python -m tests.support.same_results BEFORE AFTER` prints what differs, as JSON.

Parquet, safetensors, tables, data of figures, prompt files and curves must be the same bytes. Records are left out: they
hold seconds, paths and code fingerprints. So are logs, measured costs and drawn pages. Exits with 1 on a difference.
"""

import json
import sys
from pathlib import Path

from gensar_core.runtime.stage import digest

ENDINGS = (".parquet", ".safetensors", ".csv", ".json", ".yaml", ".tex")


def compared(folder: Path) -> dict[str, Path]:
    """List the files of a folder that must not change, by their paths in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(ENDINGS)]
    left_out = ("stage.json", "_costs.csv")
    return {str(path.relative_to(folder)): path for path in files if not path.name.endswith(left_out)}


def compare(before: Path, after: Path) -> dict[str, object]:
    """Compare the files of two folders by their content."""
    old, new = compared(before), compared(after)
    return {
        "compared": len(old.keys() & new.keys()),
        "differ": [name for name in sorted(old.keys() & new.keys()) if digest(old[name]) != digest(new[name])],
        "missing": sorted(old.keys() - new.keys()),
        "new": sorted(new.keys() - old.keys()),
    }


if __name__ == "__main__":
    found = compare(*map(Path, sys.argv[1:3]))
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["differ"] or found["missing"]))
