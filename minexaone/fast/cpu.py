"""One token at a time on a CPU, near the speed of its memory: the same mathematics as `model.py`, compiled.

For one new token every weight is read once and used once, so the time of a step is bounded from below by the time it
takes to read all weights. The matrix products of the clear path are made for many tokens: with one they read at a
third to a half of the memory's speed (in bfloat16, an EPYC of Zen 5 and a Xeon with AMX), and what is packed it unpacks
into memory first. Here inductor, the compiler of PyTorch, writes loops in C++ that do nothing but read a row
of weights and add up its products with x; values of 4 and 8 bits become numbers in the registers. Between the compiled
parts, the cache and the attention are those of `model.py`.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minexaone.fast.base import FastPath, fingerprint
from minexaone.linear import BLOCK, Packed, kernel_form, of_products, word_form
from minexaone.model import KVCache, apply_rope, attention
from minexaone.threads import threads_for

# Inductor would store what takes many operations or reads, here the products of all words of a matrix: never.
# The last lets a multiplication and an addition be one instruction.
OPTIONS = {"realize_opcount_threshold": 1000, "realize_acc_reads_threshold": 1000,
           "cpp.enable_floating_point_contract_flag": "fast"}
STREAMS = 4  # places of a matrix to read from at once: one place alone leaves the memory waiting for the core
FEW = 16  # tokens for which to convert a weight takes longer than to multiply with it as it is


def stored(x: Tensor) -> Tensor:
    """x [n], in memory. Inductor would compute it anew wherever it is used, here for each of a matrix's rows; what is
    addressed by strides it computes once."""
    return x.as_strided(x.shape, (1,))


def matvec(weight: tuple, x: Tensor) -> Tensor:
    """The matrix [out, in] · x [in], in float32; weight is (matrix,) or, if it is packed, that of `packed_matvec`."""
    if len(weight) > 1:
        return packed_matvec(*weight, x)
    x = stored(x)
    return torch.cat([(rows.float() * x).sum(-1) for rows in weight[0].chunk(STREAMS)])


def packed_matvec(words: Tensor, scale: Tensor, added: Tensor | None, order: Tensor | None, x: Tensor) -> Tensor:
    """As `matvec`, of what `word_form` gives, the words seen as float32; each value is unpacked in a register.

    It stays where it is in its word, value · 2^(bits · k), which one operation masks and float32 holds exactly; x is
    divided by that power instead, once for all rows.
    """
    _, first, last = words.shape
    count = len(x) // (first * last)  # of the values in a word
    bits, words = 32 // count, words.view(torch.int32)
    x = x if order is None else x[order]
    by_group = x.view(scale.shape[1] * scale.shape[2], -1, count)  # one of the two is 1
    x = by_group.permute(1, 2, 0) if scale.shape[2] > 1 else by_group.transpose(1, 2)  # [first, count, last]
    # All but the last value of a word have half their range added, `pack4`'s 8 or here 128, which `start` takes off;
    # the last has the word's sign.
    words = words ^ (-0x80000000 if bits == 4 else 0x00808080)
    start = stored((x[:, :-1].sum(1) * -2**(bits - 1)).flatten()).view(first, last)
    powers = torch.tensor([2.0**(-bits * k) for k in range(count)])
    x = stored((x * powers[:, None]).flatten()).view(first, count, last)
    masks = [(2**bits - 1) << bits * k for k in range(count - 1)] + [-1 << 32 - bits]
    y = []
    for rows, factors in zip(words.chunk(STREAMS), scale.chunk(STREAMS), strict=True):
        products = [(rows & mask).float() * x[:, k] for k, mask in enumerate(masks)]
        # Two sums, which do not wait for each other.
        y.append(((sum(products[::2], start) + sum(products[1::2])) * factors).sum((1, 2)))
    return torch.cat(y) if added is None else torch.cat(y) + (added * stored(by_group.sum((1, 2)))).sum(-1)


def matvec_weight(module) -> tuple:
    """The weight of `matvec` for a linear layer. ValueError if there is none."""
    if not isinstance(module, Packed):
        return kernel_form(module)
    words, *others = word_form(module)
    return words.view(torch.float32), *others  # with AVX2 inductor reads vectors of integers by way of the stack


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `RMSNorm`, without rounding in between."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def before_attention(x: Tensor, weights, rope: tuple[Tensor, Tensor] | None, D: int, eps: float) -> list[Tensor]:
    """From x [hidden_size] to q, k, v, each [1, heads, 1, D] and ready for the cache."""
    q_proj, k_proj, v_proj, q_norm, k_norm = weights
    q, k, v = (matvec(weight, x).view(-1, D) for weight in (q_proj, k_proj, v_proj))
    q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    if rope is not None:
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    return [tensor.to(q_norm.dtype)[None, :, None] for tensor in (q, k, v)]


def after_attention(x: Tensor, out: Tensor, weights, eps: float) -> Tensor:
    """The rest of the layer: from x [hidden_size] and the attention's output [1, H, 1, D] to the next layer's x."""
    o_proj, attention_norm, gate_proj, up_proj, down_proj, feedforward_norm = weights
    x = x + rms_norm(matvec(o_proj, out.flatten().float()), attention_norm, eps)
    hidden = F.silu(matvec(gate_proj, x)) * matvec(up_proj, x)
    return x + rms_norm(matvec(down_proj, hidden), feedforward_norm, eps)


def head(x: Tensor, weight, norm: Tensor, eps: float) -> Tensor:
    """From the last layer's x [hidden_size] to logits [1, 1, vocab_size]."""
    return matvec(weight, rms_norm(x, norm, eps)).to(norm.dtype)[None, None]


class FastCPU(FastPath):
    """An `Exaone4` on the CPU whose single steps are compiled; called as the model is, with the same caches.

    Compiled is one new token of one row without padding, under `torch.inference_mode()`; anything else is the model's,
    and both may use the same cache in turn. The weights are the model's own and not copied, so quantise first. The
    constructor compiles: compile_seconds says for how long. Raises ValueError if the model is not on the CPU or has
    packed weights of a form that has no kernel, and RuntimeError if there is no C++ compiler.
    """

    def __init__(self, model):
        if model.device.type != "cpu":
            raise ValueError(f"FastCPU needs a model on the CPU, this one is on {model.device}")
        check_compiler()
        super().__init__(model)
        self.layers = [layer_weights(layer) for layer in model.layers]
        embedding, projection = model.embed_tokens, model.lm_head or model.embed_tokens
        tied = projection.weight.data_ptr() == embedding.weight.data_ptr()
        self.head_weight = matvec_weight(projection)
        if tied and isinstance(projection, Packed):
            embedding.weight = projection.weight  # whatever order in memory it has got
        self.fingerprint = fingerprint(model)
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
            if input_ids.numel() <= FEW:
                return self.model(input_ids, cache, attention_mask, logits_to_keep)
            with Float32Products():
                return self.model(input_ids, cache, attention_mask, logits_to_keep)
        eps, D = self.model.config.rms_norm_eps, self.model.config.head_dim
        positions = cache.extend(1, None, input_ids.device)
        angles = positions * self.model.frequencies.to(positions.device)  # [D / 2]
        rope = angles.cos(), angles.sin()
        x = self.model.embed_tokens(input_ids)[0, 0].float()  # [hidden_size]; stays in float32 throughout the step
        for layer, (before, after) in zip(self.model.layers, self.layers, strict=True):
            attn = layer.self_attn
            q, k, v = self.before(x, before, rope if attn.has_rope else None, D, eps)
            seen = cache.update(attn.layer, k, v, positions)
            x = self.after(x, attention(q, seen[0], seen[1], positions, seen[2], attn.window), after, eps)
        return self.head(x, self.head_weight, self.model.norm.weight.detach(), eps)


class Float32Products(TorchFunctionMode):
    """Linear layers multiply in float32 where the CPU would emulate their own dtype (see `of_products`).

    A block of the weight at a time is converted, and stays in the cache until it is used.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.linear or (dtype := of_products(args[0])) == args[0].dtype:
            return func(*args, **(kwargs or {}))
        x, weight = args[0].to(dtype), args[1]
        parts = weight.split(max(1, BLOCK["cpu"] // weight.shape[1]))
        return torch.cat([F.linear(x, part.to(dtype)) for part in parts], -1).to(args[0].dtype)


def layer_weights(layer) -> tuple[list, list]:
    """What `before_attention` and what `after_attention` reads of a layer."""
    attn, mlp = layer.self_attn, layer.mlp
    q, k, v, o, gate, up, down = (matvec_weight(module) for module in (
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
