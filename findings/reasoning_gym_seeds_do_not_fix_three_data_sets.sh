#!/usr/bin/env bash
# Guess: a seed fixes the items of a data set of reasoning-gym: every item comes from Random(seed + index), and nothing
# else is random, so that another process, or another rank, builds the same data set.
#
# reasoning-gym 0.1.25: isomorphic_strings and ransom_note draw a letter from list(a set of letters), whose order is
# that of the hashes of texts, and these differ from process to process unless PYTHONHASHSEED is set;
# polynomial_multiplication draws from sympy's itermonomials, a set as well. Within a process everything repeats, so a
# test there sees nothing.
# Seen, 50 items of seed 42 built in two processes: these three data sets have none or one in common, gcd, chain_sum and
# spell_backward have all 50; with PYTHONHASHSEED=0 for both, all have. (list_functions and codeio differ in a few.)
# Where a process generates and another one scores by index, or resumes a run, questions and answers no longer match; a
# held-out set of these is a new one in each run.
# A way out: PYTHONHASHSEED in the environment of all processes, or items written to a file once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q reasoning-gym==0.1.25
cat > "$folder/items.py" <<'PYTHON'
import json
import sys

import reasoning_gym

names = sys.argv[1:]
data = {name: reasoning_gym.create_dataset(name, seed=42, size=50) for name in names}
items = {name: [[item["question"], item["answer"]] for item in each] for name, each in data.items()}
assert items == {name: [[item["question"], item["answer"]] for item in each] for name, each in data.items()}
print(json.dumps(items))
PYTHON
cat > "$folder/check.py" <<'PYTHON'
import json
import os
import subprocess
import sys
from importlib.metadata import version

DIFFERENT = ["isomorphic_strings", "ransom_note", "polynomial_multiplication"]
SAME = ["gcd", "chain_sum", "spell_backward"]


def build(hash_seed):
    return json.loads(subprocess.run([sys.executable, sys.argv[1], *DIFFERENT, *SAME], capture_output=True, check=True,
                                     env=os.environ | {"PYTHONHASHSEED": hash_seed}, text=True).stdout)


def shared(first, second):
    return {name: sum(one == other for one, other in zip(first[name], second[name])) for name in first}


fixed = build("0")
free, again = shared(build("1"), build("2")), shared(fixed, build("0"))
at_random = shared(build("random"), build("random"))
for name in free:
    print(f"reasoning-gym {version('reasoning-gym')}, {name}, items of seed 42 that two processes share, of 50: "
          f"{at_random[name]}, with PYTHONHASHSEED 1 and 2 {free[name]}, with 0 and 0 {again[name]}")
assert all(free[name] < 5 for name in DIFFERENT), "the behaviour has changed"
assert all(free[name] == 50 for name in SAME) and all(each == 50 for each in again.values())
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/items.py" 2> "$folder/err" || { tail "$folder/err" >&2; exit 1; }
