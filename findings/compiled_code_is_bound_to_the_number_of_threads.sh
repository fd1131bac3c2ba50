#!/usr/bin/env bash
# Guess: how many threads torch may use is a matter of the moment, so that compiled code stays good when it changes.
#
# torch 2.13.0 (CPU): torch.compile guards the number of threads as part of the global state. Every number that a
# function has not met compiles it again, and with fullgraph=True the ninth number raises FailOnRecompileLimitHit, though
# the limit of 8 is thought of as one for shapes. A program that sets its threads by its work pays for compiling in the
# middle of that work, unless it compiles with the number that it will run with.
# Seen: compiled 8 times for 8 numbers, no more for the same ones again, then FailOnRecompileLimitHit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import torch
import torch._dynamo

compiled = []


def backend(graph, inputs):
    compiled.append(torch.get_num_threads())
    return graph.forward


@torch.compile(backend=backend, fullgraph=True, dynamic=False)
def double(x):
    return x * 2


x = torch.ones(3)
for _ in range(2):
    for threads in range(1, 9):
        torch.set_num_threads(threads)
        assert double(x).tolist() == [2.0] * 3
print("compiled with", compiled, "threads")
assert torch.__version__.startswith("2.13.0") and compiled == list(range(1, 9))
torch.set_num_threads(9)
try:
    double(x)
except torch._dynamo.exc.FailOnRecompileLimitHit as error:
    print("ninth number:", type(error).__name__)
else:
    raise SystemExit("the ninth number of threads raised nothing: the behaviour has changed")
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
