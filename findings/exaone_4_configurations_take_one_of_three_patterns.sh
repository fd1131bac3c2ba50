#!/usr/bin/env bash
# Guess: `Exaone4Config` of transformers takes every `sliding_window_pattern` that its documentation names (a string such
# as "LLLG", a number, None) and derives the kinds of the layers from it, the last one always global; and without a window
# (`sliding_window=None`, as the published 1.2B has it) all layers are global.
#
# transformers 5.24.0: where `layer_types` is not given too, only a number works. A string and None raise TypeError (they
# are divided by), no window raises ZeroDivisionError, and with a number the last layer is global only where the number
# divides the count of layers. The published 1.2B is not hurt: it lists its layers.
# Seen: "LLLG" and None raise, 4 gives LLLGLLLG of eight layers and LLLGLL of six, no window raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0
cat > "$folder/check.py" <<'PYTHON'
import transformers
from transformers import Exaone4Config


def kinds(**options):
    """The layers' kinds as letters, or the error."""
    try:
        return "".join({"sliding_attention": "L", "full_attention": "G"}[kind]
                       for kind in Exaone4Config(**options).layer_types)
    except (TypeError, ZeroDivisionError) as error:
        return f"{type(error).__name__}: {error}"


found = {"LLLG": kinds(num_hidden_layers=8, sliding_window=64, sliding_window_pattern="LLLG"),
         "None": kinds(num_hidden_layers=8, sliding_window=64, sliding_window_pattern=None),
         "4": kinds(num_hidden_layers=8, sliding_window=64, sliding_window_pattern=4),
         "4, of six layers": kinds(num_hidden_layers=6, sliding_window=64, sliding_window_pattern=4),
         "no window": kinds(num_hidden_layers=8, sliding_window=None),
         "no window, layers listed": kinds(num_hidden_layers=2, sliding_window=None,
                                           layer_types=["full_attention"] * 2)}
for name, what in found.items():
    print(f"transformers {transformers.__version__}, {name}: {what}")
assert transformers.__version__ == "5.24.0"
assert found["LLLG"].startswith("TypeError") and found["None"].startswith("TypeError"), "other patterns work"
assert found["no window"].startswith("ZeroDivisionError"), "no window works"
assert found["4"] == "LLLGLLLG" and found["4, of six layers"] == "LLLGLL", "the last layer is global"
assert found["no window, layers listed"] == "GG"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2>&1 | grep -v "PyTorch was not found"
