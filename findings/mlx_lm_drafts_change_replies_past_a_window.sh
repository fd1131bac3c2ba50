#!/usr/bin/env bash
# Guess: greedy speculative decoding in mlx-lm gives exactly the ids of the model without a draft, also for a model with
# sliding layers (exaone4) and past its window, as it does in transformers 5.23.
#
# mlx-lm 0.32.2 (mlx 0.32.4, CPU): whether refused guesses can be taken back is asked once, of the empty caches. A ring
# that is full can take nothing back; the call that should do it then does nothing, for all layers and without a word,
# and the refused guesses stay in the caches as if they had been written. From the step on at which the window is full
# the reply is another one.
# Seen: five models of random weights, window 16, prompt of 5 tokens, three guesses of another model a step: the first
# differing id is number 9, 10 or 11 of 60 with sliding layers; none with global layers alone; and none where no guess
# is refused (the model as its own draft).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "mlx[cpu]==0.32.4" mlx-lm==0.32.2
cat > "$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import mlx.core as mx
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.models.exaone4 import Model, ModelArgs

WINDOW, NEW, PROMPT = 16, 60, 5


def model(seed, pattern):
    """Four layers of random weights in float32."""
    mx.random.seed(seed)
    return Model(ModelArgs(
        model_type="exaone4", hidden_size=64, num_hidden_layers=4, intermediate_size=128, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=97, max_position_embeddings=512, rope_theta=1e4,
        head_dim=16, tie_word_embeddings=False, rope_scaling=None, sliding_window=WINDOW if pattern else None,
        sliding_window_pattern=pattern))


def first_difference(seed, pattern, own_draft):
    """The number of the first id that a draft changes, from 0; None if it changes none."""
    big, prompt = model(seed, pattern), mx.array([(7 * i + seed) % 97 for i in range(PROMPT)])
    draft = big if own_draft else model(seed + 100, None)
    alone = [int(id) for id, _ in generate_step(prompt, big, max_tokens=NEW)]
    drafted = [int(id) for id, *_ in speculative_generate_step(prompt, big, draft, num_draft_tokens=3, max_tokens=NEW)]
    assert len(alone) == len(drafted) == NEW
    return next((n for n, (a, b) in enumerate(zip(alone, drafted)) if a != b), None)


found = {name: [first_difference(seed, pattern, own) for seed in range(5)]
         for name, pattern, own in (("sliding layers", "LLLG", False), ("global layers", None, False),
                                    ("sliding layers, own draft", "LLLG", True))}
print(f"mlx-lm {version('mlx-lm')}: first differing id:", found)
assert version("mlx-lm") == "0.32.2"
assert found["global layers"] == found["sliding layers, own draft"] == [None] * 5, "other models differ, too"
assert all(n is not None and WINDOW - PROMPT - 4 <= n < NEW for n in found["sliding layers"]), "replies are as alone"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
