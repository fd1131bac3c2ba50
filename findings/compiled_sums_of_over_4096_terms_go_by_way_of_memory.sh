#!/usr/bin/env bash
# Guess: on a CPU, torch.compile's loop for a weighted sum of n rows takes n times as long as for one row, whatever n is.
#
# torch 2.13.0: from a certain n on (seen between 4,096 and 8,192 rows of 64 bfloat16 numbers), the loop adds up in
# stages, to be more exact, and each of its running sums then goes through memory instead of a register. A row takes 1.6
# to 2.5 times as long as in the same sum in parts of 4,096 rows, which are added up afterwards: that keeps the
# registers, and is in stages as well. It matters for attention over a long cache, whose values are such a sum.
# Seen (AMD EPYC, AVX2, one thread, four sums of a row, the call included): 8,192 rows 36 ns a row, in two parts 19 ns;
# 4,096 rows, of which each bears twice the share of the call, 37 ns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import time

import torch
from torch._inductor.utils import run_and_get_code

assert torch.__version__.startswith("2.13.0")
torch.set_num_threads(1)


def whole(weights, rows):
    return [(weight[:, None] * rows.float()).sum(0) for weight in weights]


def parts(weights, rows):
    rows = rows.view(-1, 4096, 64)
    return [(weight.view(-1, 4096, 1) * rows.float()).sum(1).sum(0) for weight in weights]


def measured(function, n):
    """(whether the code adds up in stages, nanoseconds a row: the best of many)."""
    rows, weights = torch.randn(n, 64).bfloat16(), [torch.rand(n) for _ in range(4)]
    compiled = torch.compile(function, dynamic=False)
    found, code = run_and_get_code(compiled, weights, rows)
    for weight, total in zip(weights, found, strict=True):
        assert torch.allclose(total.double(), weight.double() @ rows.double(), rtol=1e-3, atol=1e-2)
    best = float("inf")
    for _ in range(60):
        start = time.perf_counter()
        compiled(weights, rows)
        best = min(best, time.perf_counter() - start)
    return "cascade_sum_combine" in code[0], best / n * 1e9


with torch.inference_mode():
    short, long, split = measured(whole, 4096), measured(whole, 8192), measured(parts, 8192)
for name, (staged, nanoseconds) in (("4,096 rows", short), ("8,192 rows", long), ("8,192 in two parts", split)):
    print(f"{name}: {nanoseconds:.0f} ns a row, {'in stages' if staged else 'in registers'}")
assert long[0] and not short[0] and not split[0], "another loop: the behaviour has changed"
assert long[1] > 1.2 * split[1], "as fast: the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
