#!/usr/bin/env bash
# Guess: a generator function refuses an argument that it does not know at the call, also under torch.inference_mode() or
# torch.no_grad(), which are only about gradients.
#
# torch 2.13.0: both decorators put another generator in front, which takes any arguments. The TypeError comes with the
# first next(), where the one who reads the stream is no longer the one who wrote the call; and a stream that is never
# read hides it. inspect.signature() still shows the true parameters.
# Seen: undecorated: TypeError at the call; decorated: nothing at the call, TypeError at next().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import inspect

import torch


def count(limit):
    yield from range(limit)


def refused(call):
    try:
        call()
    except TypeError:
        return True
    return False


assert torch.__version__.startswith("2.13.0")
assert refused(lambda: count(limt=3))
print("undecorated: TypeError at the call")
for decorator in (torch.inference_mode(), torch.no_grad()):
    decorated = decorator(count)
    assert list(inspect.signature(decorated).parameters) == ["limit"]
    assert not refused(lambda: decorated(limt=3)), "refused at the call: the behaviour has changed"
    assert refused(lambda: next(decorated(limt=3)))
    print(f"{type(decorator).__name__}: nothing at the call, TypeError at next()")
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
