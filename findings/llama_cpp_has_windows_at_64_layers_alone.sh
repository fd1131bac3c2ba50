#!/usr/bin/env bash
# Guess: a GGUF file of an EXAONE 4.0 model that names a sliding window and the layers that have it, as llama.cpp's own
# converter writes both for every hybrid, runs in llama.cpp with that window.
#
# llama-cpp-python 0.3.36: only if it has exactly 64 layers, as the published 32B. With any other number both keys are
# read and change nothing: all layers are global and have RoPE, without a warning. (And a model of 64 layers whose file
# names no window gets one, of 4,096 tokens, with global layers without RoPE.)
# Seen: 8 and 63 layers, 40 tokens, window 8: the same logits, bit for bit, with and without these keys; 64 layers: up to
# 5.9 apart. (The installation compiles llama.cpp, which takes ten minutes and more.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import Llama

HIDDEN, HEADS, SIZE, FORWARD, VOCAB, WINDOW = 64, 4, 16, 96, 300, 8


def written(path, layers, window):
    """A random model with the same weights each time, LLLG again and again if it has a window."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "exaone4")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    if window:
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern([layer % 4 != 3 for layer in range(layers)])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", *(f"token{id}" for id in range(3, VOCAB))])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN),
              "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (FORWARD, HIDDEN), "ffn_up": (FORWARD, HIDDEN),
              "ffn_down": (HIDDEN, FORWARD), "attn_q_norm": (SIZE,), "attn_k_norm": (SIZE,),
              "post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
    names = {f"blk.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()}
    names |= {"token_embd": (VOCAB, HIDDEN), "output": (VOCAB, HIDDEN), "output_norm": (HIDDEN,)}
    for name, shape in names.items():
        weights = random.normal(0, 0.2, shape) if len(shape) == 2 else random.uniform(0.5, 1, shape)
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(layers, window):
    path = Path(sys.argv[1]) / "model.gguf"
    written(path, layers, window)
    model = Llama(str(path), n_ctx=128, logits_all=True, verbose=False)
    model.eval([1 + 7 * n % (VOCAB - 1) for n in range(5 * WINDOW)])
    return np.array(model.scores[:model.n_tokens])


differ = {layers: np.abs(logits(layers, WINDOW) - logits(layers, None)).max() for layers in (8, 63, 64)}
print(f"llama-cpp-python {version('llama-cpp-python')}: with and without a window in the file, "
      f"logits differ by {', '.join(f'{differ[n]:.2g} at {n} layers' for n in differ)}")
assert differ[8] == differ[63] == 0, "windows of models with another number of layers are no longer ignored"
assert differ[64] > 0.1, "a window of 64 layers is ignored, too"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
