"""One token at a time on a CPU, near the speed of its memory: the same mathematics as `model.py`, compiled.

For one new token every weight is read once and used once, so the time of a step is bounded from below by the time it
takes to read all weights. The matrix products of the clear path are made for many tokens, and what is packed it unpacks
into memory first. Here inductor, the compiler of PyTorch, writes loops in C++ that do nothing but read a row of weights
and add up its products with x; for 4 bits, and for 8 where the loop's conversion would take longer than the reading,
PyTorch has products of its own. Between the compiled parts, the cache and the attention are those of `model.py`.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from minexaone.fast.base import FastPath
from minexaone.linear import group_form, kernel_form
from minexaone.linear.packed import Packed, unpack4
from minexaone.model import KVCache, apply_rope, attention
from minexaone.threads import threads_for

# Inductor computes a small vector anew wherever it is used, here for each of a matrix's rows, unless it takes more
# operations than this: then it is computed once, into a buffer of its own.
# The second lets a multiplication and an addition be one instruction.
OPTIONS = {"realize_opcount_threshold": 0, "cpp.enable_floating_point_contract_flag": "fast"}


def matvec(weight: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """The matrix [out, in] · x [in], in float32; weight is (matrix,) or, quantised, (matrix, scale [out])."""
    matrix, *scale = weight
    y = (matrix.float() * x).sum(-1)
    return y * scale[0] if scale else y


def matvec_in_groups(weight: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """As `matvec`; weight is (int8 matrix [out, in], scale [out, groups], offset of the same shape)."""
    matrix, scale, offset = weight
    x = x.unflatten(0, (scale.shape[1], -1))
    return ((matrix.unflatten(1, x.shape).float() * x).sum(-1) * scale + offset * x.sum(-1)).sum(-1)


def matvec_8(weight: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """As `matvec`, by PyTorch's kernel, x rounded to bfloat16; weight is (int8 matrix, scale [out], ones [out])."""
    matrix, scale, ones = weight
    return torch.ops.aten._weight_int8pack_mm(x.to(ones.dtype)[None], matrix, ones)[0] * scale


def matvec_4(weight: tuple, x: Tensor) -> Tensor:
    """As `matvec`, by PyTorch's kernel, with x rounded to the type of the scales; weight is (matrix in the kernel's own
    order, scales and offsets [groups, out, 2], group)."""
    matrix, scales, group = weight
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(scales.dtype)[None], matrix, group, scales)[0].float()


def product(weight: tuple, x: Tensor) -> Tensor:
    """The matrix · x [in], in float32; weight is (a function above, its weight, the order of the inputs or None)."""
    how, what, order = weight
    return how(what, x if order is None else x[order])


def product_form(module, dtype: torch.dtype) -> tuple:
    """The weight of `product` for a linear layer; dtype: of the model. ValueError if there is none."""
    if not isinstance(module, Packed):
        return matvec, kernel_form(module), None
    (matrix, scale, offset), group = group_form(module), module.group
    if module.bits == 8 and scale.shape[1] == 1 and offset is None:
        # Without AVX-512 inductor's loop converts the integers so slowly that this takes longer than to read them.
        if dtype == torch.bfloat16 and torch.backends.cpu.get_cpu_capability() == "AVX2":
            return matvec_8, (matrix, scale[:, 0].contiguous(), torch.ones(len(scale), dtype=dtype)), module.order
        return matvec, (matrix, scale[:, 0].contiguous()), module.order
    offset = torch.zeros_like(scale) if offset is None else offset
    width = next((width for width in (256, 128, 64, 32) if group % width == 0), None)  # those that the kernel knows
    if module.bits == 8 or width is None or len(matrix) % 16:
        return matvec_in_groups, (matrix if module.bits == 8 else unpack4(matrix), scale, offset), module.order
    pairs = torch.stack((scale, offset), -1).repeat_interleave(group // width, 1).transpose(0, 1).to(dtype)
    matrix = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack4(matrix).int() + 8, 1)
    return matvec_4, (matrix, pairs.contiguous(), width), module.order


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `RMSNorm`, without rounding in between."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def before_attention(x: Tensor, weights, rope: tuple[Tensor, Tensor] | None, D: int, eps: float) -> list[Tensor]:
    """From x [hidden_size] to q, k, v, each [1, heads, 1, D] and ready for the cache."""
    q_proj, k_proj, v_proj, q_norm, k_norm = weights
    q, k, v = (product(weight, x).view(-1, D) for weight in (q_proj, k_proj, v_proj))
    q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    if rope is not None:
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    return [tensor.to(q_norm.dtype)[None, :, None] for tensor in (q, k, v)]


def after_attention(x: Tensor, out: Tensor, weights, eps: float) -> Tensor:
    """The rest of the layer: from x [hidden_size] and the attention's output [1, H, 1, D] to the next layer's x."""
    o_proj, attention_norm, gate_proj, up_proj, down_proj, feedforward_norm = weights
    x = x + rms_norm(product(o_proj, out.flatten().float()), attention_norm, eps)
    hidden = F.silu(product(gate_proj, x)) * product(up_proj, x)
    return x + rms_norm(product(down_proj, hidden), feedforward_norm, eps)


def head(x: Tensor, weight, norm: Tensor, eps: float) -> Tensor:
    """From the last layer's x [hidden_size] to logits [1, 1, vocab_size]."""
    return product(weight, rms_norm(x, norm, eps)).to(norm.dtype)[None, None]


class FastCPU(FastPath):
    """An `Exaone4` on the CPU whose single steps are compiled; called as the model is, with the same caches.

    Compiled is one new token of one row without padding, under `torch.inference_mode()`; anything else is the model's,
    and both may use the same cache in turn. The weights are the model's own and not copied, but for those of 4 bits,
    which the kernel wants in another order; so quantise first. The constructor compiles: compile_seconds says for how
    long. Raises ValueError if the model is not on the CPU and RuntimeError if there is no C++ compiler.
    """

    def __init__(self, model):
        if model.device.type != "cpu":
            raise ValueError(f"FastCPU needs a model on the CPU, this one is on {model.device}")
        check_compiler()
        super().__init__(model)
        dtype = model.norm.weight.dtype
        self.layers = [layer_weights(layer, dtype) for layer in model.layers]
        self.head_weight = product_form(model.lm_head or model.embed_tokens, dtype)
        self.before, self.after, self.head = (torch.compile(part, fullgraph=True, dynamic=False, options=OPTIONS)
                                              for part in (before_attention, after_attention, head))
        start = time.perf_counter()
        with torch.inference_mode(), threads_for(model, 1):  # as in a step: with other threads it compiles again
            self(torch.zeros(1, 1, dtype=torch.long), model.new_cache())
        self.compile_seconds = time.perf_counter() - start

    # In one process: eight models, or numbers of threads, would reach the default.
    @torch._dynamo.config.patch(recompile_limit=64)
    def __call__(self, input_ids: Tensor, cache: KVCache | None = None, attention_mask: Tensor | None = None,
                 logits_to_keep: int = 0) -> Tensor:
        """As `Exaone4.forward`."""
        if (input_ids.shape != (1, 1) or cache is None or attention_mask is not None
                or not isinstance(cache.length, int) or not torch.is_inference_mode_enabled()):
            return self.model(input_ids, cache, attention_mask, logits_to_keep)
        eps, D = self.model.config.rms_norm_eps, self.model.config.head_dim
        positions = cache.extend(1, None, input_ids.device)
        angles = positions * self.model.frequencies.to(positions.device)  # [D / 2]
        rope = angles.cos(), angles.sin()
        x = self.model.embed_tokens(input_ids)[0, 0].float()  # [hidden_size]; stays in float32 throughout the step
        for layer, (before, after) in zip(self.model.layers, self.layers, strict=True):
            attn = layer.self_attn
            q, k, v = self.before(x, before, rope if attn.has_rope else None, D, eps)
            keys, values, _ = cache.update(attn.layer, k, v, positions)
            x = self.after(x, attention(q, keys, values, positions, None, attn.window), after, eps)
        return self.head(x, self.head_weight, self.model.norm.weight.detach(), eps)


def layer_weights(layer, dtype: torch.dtype) -> tuple[list, list]:
    """What `before_attention` and what `after_attention` reads of a layer."""
    attn, mlp = layer.self_attn, layer.mlp
    q, k, v, o, gate, up, down = (product_form(module, dtype) for module in (
        attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    return ([q, k, v, attn.q_norm.weight.detach(), attn.k_norm.weight.detach()],
            [o, layer.post_attention_layernorm.weight.detach(), gate, up, down,
             layer.post_feedforward_layernorm.weight.detach()])


def check_compiler():
    """Raise RuntimeError, saying what to install, unless inductor finds a C++ compiler."""
    from torch._inductor import cpp_builder  # takes seconds, so only when it is needed

    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError as error:
        raise RuntimeError("the fast path on a CPU needs a C++ compiler: install g++ (Linux), the Xcode command line "
                           "tools (macOS) or Visual Studio's C++ tools (Windows)") from error
