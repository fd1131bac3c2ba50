#!/usr/bin/env bash
# Guess (of a course whose notebooks are run again with `jupyter nbconvert --execute --inplace`): what a cell prints bit by
# bit is stored as one output with nbconvert's own --coalesce-streams, or with --ExecutePreprocessor.coalesce_streams=True,
# as --ExecutePreprocessor.record_timing=False is obeyed.
#
# nbconvert 7.17.2, nbclient 0.11.0: the flag's preprocessor joins what the notebook held before, and then the cells run;
# the option is no configurable one (record_timing is), and is dropped without an error. Both together do not help. Only a
# second pass of --coalesce-streams joins them, or nbclient called from Python.
# Seen: three prints with pauses: 3 outputs, 3 outputs, 3 outputs; after a second pass 1; by nbclient 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q nbconvert==7.17.2 nbclient==0.11.0 ipykernel==7.4.0 nbformat==5.11.1
cat > "$folder/check.py" <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert.preprocessors import ExecutePreprocessor

assert (version("nbconvert"), version("nbclient")) == ("7.17.2", "0.11.0")
assert "record_timing" in ExecutePreprocessor.class_traits(config=True)
assert "coalesce_streams" not in ExecutePreprocessor.class_traits(config=True), "it can be configured now"
SOURCE = "import time\nfor n in range(3):\n    print(n, flush=True)\n    time.sleep(0.6)"
file = Path(sys.argv[1]) / "three.ipynb"
FLAG, OPTION = "--coalesce-streams", "--ExecutePreprocessor.coalesce_streams=True"


def converted(*options: str) -> int:
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "notebook", "--inplace", *options, str(file)], check=True,
                   capture_output=True)
    return len(nbformat.read(file, 4).cells[0].outputs)


def fresh():
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE)])


counts = []
for options in ([FLAG], [OPTION], [FLAG, OPTION]):
    nbformat.write(fresh(), file)
    counts.append(converted("--execute", *options))
assert counts == [3, 3, 3], f"nbconvert joins them now: {counts}"
nbformat.write(fresh(), file)
assert converted("--execute", "--ExecutePreprocessor.record_timing=False") == 3
assert "execution" not in nbformat.read(file, 4).cells[0].metadata, "this option is obeyed"
again = converted(FLAG)
client = fresh()
NotebookClient(client, coalesce_streams=True).execute()
assert (again, len(client.cells[0].outputs)) == (1, 1)
print(f"outputs of three prints: {FLAG} {counts[0]}, the option {counts[1]}, both {counts[2]}; second pass {again}, nbclient 1")
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder"
