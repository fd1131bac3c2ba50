#!/usr/bin/env bash
# Guess: the operations that a counter finds in a forward pass do not depend on attn_implementation, which chooses a
# kernel and not a computation: 2 per weight and token, and 4 * heads * head_dim * length ** 2 per layer for attention,
# whose two products the counter of torch has formulas for, by whatever name.
#
# torch 2.13.0 (torch.utils.flop_counter), fvcore 0.1.5.post20221221, ptflops 0.7.5 (both backends), calflops 0.3.2, on
# a CPU: by sdpa, what transformers takes if nothing is said, attention counts 0, without a word but for fvcore's list
# of skipped operations. torch has formulas for the kernels of GPUs and none for
# _scaled_dot_product_flash_attention_for_cpu, which the call becomes here (pytorch issue 195460, 2026); the others do
# not know scaled_dot_product_attention. nn.MultiheadAttention and nn.TransformerEncoderLayer in eval mode count 0 in
# torch's altogether.
# Seen, an Exaone4 model of 4 layers, 64 tokens: 4325376 for the weights and 2097152 for attention; torch, fvcore and
# ptflops' "aten" find 6422528 by eager and 4325376 by sdpa, ptflops' "pytorch" 6578176 and 4349952, calflops 6500352
# and 4337664 (these two count more than products). At 512 tokens torch by sdpa finds 1 part in 5 of what it does.
# A way out: model.set_attn_implementation("eager") while counting, or sdpa_kernel(SDPBackend.MATH) around it (torch).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 fvcore==0.1.5.post20221221 ptflops==0.7.5 \
    calflops==0.3.2
cat > "$folder/check.py" <<'PYTHON'
import contextlib
import io

import torch
import transformers
from calflops import calculate_flops
from fvcore.nn import FlopCountAnalysis
from ptflops import get_model_complexity_info
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Exaone4Config, Exaone4ForCausalLM

LAYERS, HEADS, SIZE = 4, 4, 8


def build(kind):
    torch.manual_seed(0)
    model = Exaone4ForCausalLM(Exaone4Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, head_dim=SIZE, sliding_window=8, pad_token_id=0, use_cache=False,
        layer_types=["sliding_attention"] * 3 + ["full_attention"], rope_parameters={"rope_theta": 1e6})).eval()
    if kind:
        model.set_attn_implementation(kind)
    return model


def by_torch(model, ids):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    return counter.get_total_flops()


def by_ptflops(backend):
    return lambda model, ids: 2 * get_model_complexity_info(
        model, (ids.shape[1],), input_constructor=lambda _: {"input_ids": ids}, as_strings=False,
        print_per_layer_stat=False, backend=backend)[0]


def by_fvcore(model, ids):
    return 2 * FlopCountAnalysis(model, ids).unsupported_ops_warnings(False).tracer_warnings("none").total()


def by_calflops(model, ids):
    return calculate_flops(model, kwargs={"input_ids": ids}, print_results=False, output_as_string=False)[0]


COUNTERS = {"torch": by_torch, "fvcore": by_fvcore, "ptflops, aten": by_ptflops("aten"),
            "ptflops, pytorch": by_ptflops("pytorch"), "calflops": by_calflops}
for length in (64, 512):
    ids = torch.randint(3, 96, (1, length), generator=torch.Generator().manual_seed(0))
    weights = 2 * length * sum(module.weight.numel() for module in build("sdpa").modules()
                               if isinstance(module, torch.nn.Linear))
    attention = LAYERS * 4 * HEADS * SIZE * length ** 2
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {length} tokens: weights {weights}, "
          f"attention {attention}, together {weights + attention}")
    for name, counter in COUNTERS.items():
        with contextlib.redirect_stdout(io.StringIO()):
            found = {kind: counter(build(kind), ids) for kind in ("eager", "sdpa", None)}
        print(f"  {name}: eager {found['eager']:.0f}, sdpa {found['sdpa']:.0f}, nothing said {found[None]:.0f}")
        assert found[None] == found["sdpa"], "the behaviour has changed"
        assert found["sdpa"] < 1.02 * weights, "the behaviour has changed"
        assert weights + attention <= found["eager"] < 1.2 * (weights + attention)  # the control
        if name in ("torch", "fvcore", "ptflops, aten"):
            assert found["sdpa"] == weights and found["eager"] == weights + attention, "the behaviour has changed"
    with sdpa_kernel(SDPBackend.MATH):
        assert by_torch(build("sdpa"), ids) == weights + attention  # a way out
layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
print(f"nn.TransformerEncoderLayer, eval: {by_torch(layer, torch.randn(2, 10, 32))}, "
      f"train: {by_torch(layer.train(), torch.randn(2, 10, 32))}")
assert by_torch(layer.eval(), torch.randn(2, 10, 32)) == 0 < by_torch(layer.train(), torch.randn(2, 10, 32))
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
