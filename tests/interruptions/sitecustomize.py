"""Loaded by every Python process whose path holds this folder: kills it at chosen moments of a stage's life.

`GENSAR_TEST_KILLS` names a folder of marks. Each (stage folder, moment) in which a process of the workflow finds itself
for the first time gets a mark, and the process is killed by SIGKILL on the spot; with a pattern in the file `only`, just
those that match it. The moments are seen from outside, by the files that a stage touches:

    commit      all outputs are written, none is in its place
    record      outputs are in place, the record that tells so is not
    cleanup     everything is in place, the process has not ended
    checkpoint  a training has left its first checkpoint and writes the next one
"""

import hashlib
import os
import re
import signal
import sys
from pathlib import Path

_SCRATCH = re.compile(r"(.*)/\.[^/]*\.partial(/[^/]+)?$")


def _moment(event, arguments):
    """(stage folder, moment) that an event belongs to, or None."""
    if event == "os.rename":
        source, target = str(arguments[0]), str(arguments[1])
        if target.endswith(".pt"):
            return (str(Path(target).parent), "checkpoint") if Path(target).is_file() else None
        scratch = _SCRATCH.match(source)
        if scratch and scratch[2] and ".partial" not in target:
            return f"{scratch[1]}/{_record(source)}", "record" if source.endswith("stage.json") else "commit"
    if event == "shutil.rmtree":
        scratch = _SCRATCH.match(str(arguments[0]))
        record = Path(scratch[1], _record(str(arguments[0]))) if scratch else None
        if record is not None and record.is_file():
            return str(record), "cleanup"
    return None


def _record(path):
    """Name of the record of the stage whose hidden folder is in the path."""
    return re.search(r"/\.([^/]*)\.partial", path)[1] + ".json"


def _watch(event, arguments):
    if event not in ("os.rename", "shutil.rmtree"):
        return
    moment = _moment(event, arguments)
    if moment is None:
        return
    told = " ".join(moment)
    only = _MARKS / "only"
    if only.is_file() and not re.search(only.read_text().strip(), told):
        return
    mark = _MARKS / hashlib.sha256(told.encode()).hexdigest()[:16]
    if not mark.is_file():
        mark.write_text(told)
        os.kill(os.getpid(), signal.SIGKILL)


if "GENSAR_TEST_KILLS" in os.environ:
    _MARKS = Path(os.environ["GENSAR_TEST_KILLS"])
    sys.addaudithook(_watch)
