"""The model on an NVIDIA GPU at the speed of its memory: the same mathematics as `model.py` in few, large kernels.

Reading all weights once bounds a decoding step from below. The clear path misses that bound by far, since it launches
dozens of kernels a layer, most of which take longer to start than to run. Here a step of one row is five Triton
kernels a layer, recorded once as a CUDA graph, and each one fetches its weights while the one before it still runs
("programmatic dependent launch": what stands before gdc_wait may only read what no kernel of the same step writes).
"""

import math
import weakref

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from minexaone.model import PREFILL_CHUNK, KVCache

DTYPES = (torch.bfloat16, torch.float16)
SPLITS = 32  # programs that share the keys of one row and key head


@triton.jit
def _embed(ids, table, x, y, length, frequencies, rope, K: tl.constexpr, PAD: tl.constexpr, HALF: tl.constexpr):
    """Start a step: x = table[id], y = 0, the angles of this position; one program a row."""
    row = tl.program_id(0)
    k = tl.arange(0, PAD)
    token = tl.load(ids + row)
    tl.store(x + row * K + k, tl.load(table + token * K + k, mask=k < K), mask=k < K)
    tl.store(y + row * K + k, tl.zeros([PAD], tl.float32), mask=k < K)
    i = tl.arange(0, HALF)
    angle = tl.load(length + row).to(tl.float32) * tl.load(frequencies + i)
    tl.store(rope + row * 2 * HALF + i, tl.cos(angle))
    tl.store(rope + row * 2 * HALF + HALF + i, tl.sin(angle))


@triton.jit
def _gemv(x, w, out, y, norm, x_new, eps, N, K: tl.constexpr, PAD: tl.constexpr, NORM: tl.constexpr,
          SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out[n] = w[n] · x for one token; with NORM of x + RMSNorm(y), which is the residual stream after a block; with
    SILU out[n] = silu(w[n] · x) (w[N + n] · x)."""
    if PDL:
        gdc_launch_dependents()
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BLOCK)
    at = w + n.to(tl.int64)[:, None] * K + k[None, :]
    rows = (n < N)[:, None]
    a = tl.load(at, mask=rows & (k < K)[None, :], other=0.0)
    if SILU:
        b = tl.load(at + N * K, mask=rows & (k < K)[None, :], other=0.0)
    if PDL:
        gdc_wait()  # all above reads weights only, so it need not wait for the kernel that makes x
    if NORM:
        j = tl.arange(0, PAD)
        whole = tl.load(y + j, mask=j < K, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(whole * whole) / K + eps)
    sum_a = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_b = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        value = tl.load(x + k, mask=k < K, other=0.0)
        if NORM:
            normed = (tl.load(y + k, mask=k < K, other=0.0).to(tl.float32) * scale).to(value.dtype)
            value = value + normed * tl.load(norm + k, mask=k < K, other=0.0)
            if tl.program_id(0) == 0:
                tl.store(x_new + k, value, mask=k < K)
        value = value.to(tl.float32)[None, :]
        sum_a += a.to(tl.float32) * value
        if SILU:
            sum_b += b.to(tl.float32) * value
        if start + BLOCK < K:
            more = rows & (k + BLOCK < K)[None, :]
            a = tl.load(at + start + BLOCK, mask=more, other=0.0)
            if SILU:
                b = tl.load(at + N * K + start + BLOCK, mask=more, other=0.0)
    result = tl.sum(sum_a, 1)
    if SILU:
        result = result.to(out.dtype.element_ty).to(tl.float32)
        result = (result * tl.sigmoid(result)).to(out.dtype.element_ty).to(tl.float32) * tl.sum(sum_b, 1)
    tl.store(out + n, result, mask=n < N)


@triton.jit
def _look(q, k, v, seen, scale, best, total, acc):
    """Take the keys and values of one block into the running softmax: largest score, sum of weights, weighted sum."""
    scores = tl.where(seen[None, :], tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    higher = tl.maximum(best, tl.max(scores, 1))
    finite = tl.where(higher == float("-inf"), 0.0, higher)  # -inf: nothing seen yet
    shrink, p = tl.exp2(best - finite), tl.exp2(scores - finite[:, None])
    return higher, total * shrink + tl.sum(p, 1), acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)


@triton.jit
def _attend(qkv, q_norm, k_norm, rope, keys, values, length, out, partial, counter, eps, size, scale,
            KV: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr,
            SPLITS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Attention of one new token a row; program (row and key head, split) looks at one stretch of the cache.

    qkv [B, (G KV + 2 KV) D] as projected; QK-norm and RoPE are applied here. The first split takes the new key and
    value and stores them in their slot of keys, values [B, KV, size, D]; the one that ends last joins the splits.
    """
    if PDL:
        gdc_launch_dependents()
    head, split = tl.program_id(0), tl.program_id(1)
    row, kv = head // KV, head % KV
    position = tl.load(length + row)
    slot = position % size  # of the new token; what it holds until then has left the window
    used = tl.minimum(position, size)
    chunk = tl.maximum(tl.cdiv(tl.cdiv(used, SPLITS), BLOCK), 1) * BLOCK
    active = tl.maximum(tl.cdiv(used, chunk), 1)
    if split >= active:
        return
    start = split * chunk
    end = tl.minimum(start + chunk, used)
    d, base = tl.arange(0, D), head.to(tl.int64) * size * D
    slots = start + tl.arange(0, BLOCK)
    k = tl.load(keys + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
    v = tl.load(values + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
    HALF: tl.constexpr = D // 2
    i = tl.arange(0, HALF)
    cos, sin = tl.load(rope + row * D + i).to(tl.float32), tl.load(rope + row * D + HALF + i).to(tl.float32)
    if PDL:
        gdc_wait()  # all above was there before this step began

    dtype = qkv.dtype.element_ty
    qkv += row * (G * KV + 2 * KV) * D
    g = tl.arange(0, 16)  # the G query heads of this key head, padded to the smallest matrix product
    at = qkv + (kv * G + g)[:, None] * D + i[None, :]
    q1 = tl.load(at, mask=(g < G)[:, None], other=0.0).to(tl.float32)
    q2 = tl.load(at + HALF, mask=(g < G)[:, None], other=0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(q1 * q1, 1) + tl.sum(q2 * q2, 1)) / D + eps)[:, None]
    q1 = ((q1 * factor).to(dtype) * tl.load(q_norm + i)[None, :]).to(tl.float32)
    q2 = ((q2 * factor).to(dtype) * tl.load(q_norm + HALF + i)[None, :]).to(tl.float32)
    if ROPE:
        q1, q2 = q1 * cos[None, :] - q2 * sin[None, :], q2 * cos[None, :] + q1 * sin[None, :]
    q = tl.reshape(tl.permute(tl.join(q1, q2), (0, 2, 1)), (16, D)).to(dtype)

    best = tl.full([16], float("-inf"), tl.float32)
    total = tl.zeros([16], tl.float32)
    acc = tl.zeros([16, D], tl.float32)
    if split == 0:
        new_k = qkv + (G * KV + kv) * D + i
        k1, k2 = tl.load(new_k).to(tl.float32), tl.load(new_k + HALF).to(tl.float32)
        norm = tl.rsqrt((tl.sum(k1 * k1) + tl.sum(k2 * k2)) / D + eps)
        k1 = ((k1 * norm).to(dtype) * tl.load(k_norm + i)).to(tl.float32)
        k2 = ((k2 * norm).to(dtype) * tl.load(k_norm + HALF + i)).to(tl.float32)
        if ROPE:
            k1, k2 = k1 * cos - k2 * sin, k2 * cos + k1 * sin
        new_v = tl.load(qkv + (G * KV + KV + kv) * D + d)
        tl.store(keys + base + slot * D + i, k1)
        tl.store(keys + base + slot * D + HALF + i, k2)
        tl.store(values + base + slot * D + d, new_v)
        best = (tl.sum(q1 * k1[None, :], 1) + tl.sum(q2 * k2[None, :], 1)) * scale
        total += 1.0
        acc += new_v.to(tl.float32)[None, :]
    best, total, acc = _look(q, k, v, (slots < end) & (slots != slot), scale, best, total, acc)
    for first in range(start + BLOCK, end, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        k = tl.load(keys + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
        v = tl.load(values + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
        best, total, acc = _look(q, k, v, (slots < end) & (slots != slot), scale, best, total, acc)

    if active == 1:
        tl.store(out + (row * KV * G + kv * G + g)[:, None] * D + d[None, :], acc / total[:, None],
                 mask=(g < G)[:, None])
        return
    # partial [SPLITS, GP, D + 2] for each row and key head: weighted sum, largest score, sum of weights
    mine = partial + (head * SPLITS + split) * GP * (D + 2) + g * (D + 2)
    tl.store(mine[:, None] + d[None, :], acc, mask=(g < GP)[:, None])
    tl.store(mine + D, best, mask=g < GP)
    tl.store(mine + D + 1, total, mask=g < GP)
    tl.debug_barrier()
    if tl.atomic_add(counter + head, 1) == active - 1:
        tl.store(counter + head, 0)
        s, h = tl.arange(0, SPLITS)[:, None], tl.arange(0, GP)
        parts = partial + (head * SPLITS + s) * GP * (D + 2) + h[None, :] * (D + 2)
        highest = tl.load(parts + D, mask=s < active, other=float("-inf"))  # [SPLITS, GP]
        weight = tl.exp2(highest - tl.max(highest, 0)[None, :])
        whole = tl.sum(weight * tl.load(parts + D + 1, mask=s < active, other=0.0), 0)
        sums = tl.load(parts[:, :, None] + d[None, None, :], mask=(s < active)[:, :, None], other=0.0)
        result = tl.sum(sums * weight[:, :, None], 0) / whole[:, None]
        tl.store(out + (row * KV * G + kv * G + h)[:, None] * D + d[None, :], result, mask=(h < G)[:, None])


@triton.jit
def _finish(x, y, inner, outer, out, length, eps, K: tl.constexpr, PAD: tl.constexpr, PDL: tl.constexpr):
    """End a step: out = RMSNorm(x + RMSNorm(y)), and one token more is in the cache; one program a row."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    k = tl.arange(0, PAD)
    inside = k < K
    value = tl.load(x + row * K + k, mask=inside, other=0.0)
    for norm in tl.static_range(2):
        if norm == 0:
            v = tl.load(y + row * K + k, mask=inside, other=0.0).to(tl.float32)
        else:
            v = value.to(tl.float32)
        v = (v * tl.rsqrt(tl.sum(v * v) / K + eps)).to(value.dtype)
        if norm == 0:
            value += v * tl.load(inner + k, mask=inside, other=0.0)
        else:
            value = v * tl.load(outer + k, mask=inside, other=0.0)
    tl.store(out + row * K + k, value, mask=inside)
    tl.store(length + row, tl.load(length + row) + 1)


@triton.jit
def _add_norm(x, y, norm, eps, K: tl.constexpr, PAD: tl.constexpr):
    """x += RMSNorm(y), for many tokens; one program a row."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, PAD)
    inside = k < K
    value = tl.load(y + row * K + k, mask=inside, other=0.0).to(tl.float32)
    value = (value * tl.rsqrt(tl.sum(value * value) / K + eps)).to(x.dtype.element_ty)
    value = tl.load(x + row * K + k, mask=inside) + value * tl.load(norm + k, mask=inside)
    tl.store(x + row * K + k, value, mask=inside)


@triton.jit
def _silu_mul(gate_up, out, K: tl.constexpr, BLOCK: tl.constexpr):
    """out = silu(gate) up, for many tokens; gate_up [tokens, 2 K]."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * K + k, mask=k < K).to(tl.float32)
    up = tl.load(gate_up + row * 2 * K + K + k, mask=k < K)
    gate = (gate * tl.sigmoid(gate)).to(up.dtype)
    tl.store(out + row * K + k, gate * up, mask=k < K)


@triton.jit
def _norm_rope(qkv, q_norm, k_norm, cos, sin, positions, rows, last, keys, values, eps, size, H: tl.constexpr,
               KV: tl.constexpr, PAD: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr):
    """QK-norm and RoPE of qkv [tokens, (H + 2 KV) D] in place, and keys and values into their cache slots.

    One program for the query heads of a token and one for its key heads.
    """
    token, is_key = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = D // 2
    h, d = tl.arange(0, PAD), tl.arange(0, HALF)
    heads = (h < tl.where(is_key == 1, KV, H))[:, None]
    at = qkv + token * (H + 2 * KV) * D + (h + is_key * H)[:, None] * D + d[None, :]
    a, b = tl.load(at, mask=heads, other=0.0), tl.load(at + HALF, mask=heads, other=0.0)
    dtype = a.dtype
    a, b = a.to(tl.float32), b.to(tl.float32)
    factor = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / D + eps)[:, None]
    weight = k_norm if is_key else q_norm
    a = ((a * factor).to(dtype) * tl.load(weight + d)[None, :]).to(tl.float32)
    b = ((b * factor).to(dtype) * tl.load(weight + HALF + d)[None, :]).to(tl.float32)
    if ROPE:
        c = tl.load(cos + token * HALF + d)[None, :].to(tl.float32)
        s = tl.load(sin + token * HALF + d)[None, :].to(tl.float32)
        a, b = a * c - b * s, b * c + a * s
    tl.store(at, a, mask=heads)
    tl.store(at + HALF, b, mask=heads)
    if is_key:
        position, row = tl.load(positions + token), tl.load(rows + token)
        if position > tl.load(last + row) - size:
            to = ((row * KV + h) * size + position % size).to(tl.int64)[:, None] * D + d[None, :]
            tl.store(keys + to, a, mask=heads)
            tl.store(keys + to + HALF, b, mask=heads)
            tl.store(values + to, tl.load(at + KV * D, mask=heads), mask=heads)
            tl.store(values + to + HALF, tl.load(at + KV * D + HALF, mask=heads), mask=heads)


class FastGPU:
    """Runs an `Exaone4` in bfloat16 or float16 on CUDA; called as the model is, with the same caches.

    A prompt goes through cuBLAS and flash attention, with the steps between them fused. One new token in each row is
    a handful of kernels a layer, and for one row the products are the kernels above. The weights that are read
    together become one tensor, of which the model's own parameters are views. Raises ValueError for other dtypes.
    """

    prefill_chunk = 2**30  # a prompt goes through whole: flash attention keeps no scores

    def __init__(self, model):
        config = self.config = model.config
        self.model, self.device, self.dtype = model, model.device, model.embed_tokens.weight.dtype
        if self.dtype not in DTYPES:
            raise ValueError(f"the fast path on CUDA needs weights in bfloat16 or float16, these are {self.dtype}: "
                             "load the model with dtype=\"bfloat16\", not quantised")
        self.H, self.KV, self.D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.PAD = triton.next_power_of_2(config.hidden_size)
        attentions = [layer.self_attn for layer in model.layers]
        self.qkv = [_fuse(attn.q_proj, attn.k_proj, attn.v_proj) for attn in attentions]
        self.gate_up = [_fuse(layer.mlp.gate_proj, layer.mlp.up_proj) for layer in model.layers]
        self.head = (model.lm_head or model.embed_tokens).weight
        self.frequencies = model.frequencies.to(self.device)
        # Programmatic dependent launch: a kernel starts while the one before it runs (Hopper and later).
        self.PDL = torch.cuda.get_device_capability(self.device) >= (9, 0)
        self.launch = {"launch_pdl": True} if self.PDL else {}
        self.buffers = {}  # of a step, by the number of rows
        self.counted = None  # the cache that buffers["length"] counts, and its columns

    @torch.inference_mode()
    def __call__(self, input_ids, cache=None, attention_mask=None, logits_to_keep=0):
        """As `Exaone4.forward`."""
        B, T = input_ids.shape
        cache = KVCache(self.config) if cache is None else cache
        if attention_mask is not None and attention_mask.all():
            attention_mask = None
        if T == 1 and attention_mask is None:
            return self._step(input_ids, cache)
        if cache.columns and (B > 1 or attention_mask is not None):
            return self.model(input_ids, cache, attention_mask, logits_to_keep)  # rare: chunks of unequal rows
        return self._prompt(input_ids, cache, attention_mask, logits_to_keep)

    def record(self, step, cache):
        """Return a function that does what `step()` does, one step of every row with this cache, as a CUDA graph.

        The first call runs it as it is, which compiles the kernels, and records it; the later ones replay the record.
        """
        graph = None

        def replay():
            nonlocal graph
            if graph is None:
                step()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    step()
            else:
                self._count(cache, cache.keys[0].shape[0])
                graph.replay()

        return replay

    # ------------------------------------------------------------------------------------------------- prompts

    def _prompt(self, input_ids, cache, mask, logits_to_keep):
        """Many tokens: those of all rows side by side, without the padding, so that no arithmetic goes to it."""
        (B, T), config, model, D, H, KV = input_ids.shape, self.config, self.model, self.D, self.H, self.KV
        past = cache.columns
        positions = cache.extend(T, mask, self.device)
        if positions.dim() == 1:
            positions = positions.expand(B, T)
        rows, columns = (positions >= 0).nonzero(as_tuple=True)
        positions = positions[rows, columns]
        x = model.embed_tokens(input_ids[rows, columns])  # [N, hidden_size]
        lengths = torch.bincount(rows, minlength=B).tolist()
        starts = F.pad(torch.tensor(lengths, device=self.device).cumsum(0), (1, 0)).int()
        newest = torch.as_tensor(cache.length, device=self.device).expand(B, 1) - 1
        angles = positions[:, None] * self.frequencies
        cos, sin, N = angles.cos().type_as(x), angles.sin().type_as(x), len(x)
        for i, layer in enumerate(model.layers):
            attn = layer.self_attn
            qkv = F.linear(x, self.qkv[i])
            keys, values = cache._room(i, x.new_empty(B, KV, 0, D))
            before = _in_order(keys, values, past) if past else ()
            _norm_rope[(N, 2)](qkv, attn.q_norm.weight, attn.k_norm.weight, cos, sin, positions, rows, newest, keys,
                               values, config.rms_norm_eps, keys.shape[2], H, KV, triton.next_power_of_2(H), D,
                               config.has_rope(i))
            q, k, v = qkv.view(N, H + 2 * KV, D).split((H, KV, KV), 1)
            if past:
                k, v = torch.cat((before[0], k)), torch.cat((before[1], v))
            if B == 1 and logits_to_keep and layer is model.layers[-1]:
                q, x = q[-logits_to_keep:], x[-logits_to_keep:]  # nothing follows that could look at the others
            out = causal_attention(q, k, v, starts, lengths, config.window(i))
            self._finish_layer(x, out.reshape(len(x), H * D), layer, self.gate_up[i])
        if N < B * T:
            x, packed = x.new_zeros(B, T, x.shape[1]), x
            x[rows, columns] = packed
        return F.linear(model.norm(x.view(B, -1, x.shape[-1])[:, -logits_to_keep:]), self.head)

    def _finish_layer(self, x, out, layer, gate_up):
        """What follows attention, for many tokens: x [N, hidden_size] becomes the layer's output."""
        eps, K, size = self.config.rms_norm_eps, self.config.hidden_size, self.config.intermediate_size
        out = F.linear(out, layer.self_attn.o_proj.weight)
        _add_norm[(len(x),)](x, out, layer.post_attention_layernorm.weight, eps, K, self.PAD)
        for part in x.split(PREFILL_CHUNK):  # bounds the memory of the widest activations
            both, hidden = F.linear(part, gate_up), x.new_empty(len(part), size)
            _silu_mul[(len(part), triton.cdiv(size, 1024))](both, hidden, size, 1024)
            out = F.linear(hidden, layer.mlp.down_proj.weight)
            _add_norm[(len(part),)](part, out, layer.post_feedforward_layernorm.weight, eps, K, self.PAD)

    # --------------------------------------------------------------------------------------------- single steps

    def _step(self, ids, cache):
        """One new token in each row, ids [B, 1]; logits [B, 1, vocab_size]."""
        B, model, eps = len(ids), self.model, self.config.rms_norm_eps
        b = self.buffers[B] if torch.cuda.is_current_stream_capturing() else self._count(cache, B)
        K, N = self.config.hidden_size, self.config.vocab_size
        _embed[(B,)](ids, model.embed_tokens.weight, b["x"], b["y"], b["length"], self.frequencies, b["rope"], K,
                     self.PAD, self.D // 2)
        x, spare, norm = b["x"], b["spare"], model.norm  # of y = 0, so that any will do
        for i, layer in enumerate(model.layers):
            keys, values = cache._room(i, x.new_empty(B, self.KV, 0, self.D))
            if B == 1:
                self._gemv(x, self.qkv[i], b["qkv"], b["y"], norm, spare)
                x, spare, norm = spare, x, layer.post_feedforward_layernorm
            else:
                torch.mm(x, self.qkv[i].T, out=b["qkv"])
            self._attention(layer.self_attn, b, keys, values)
            if B == 1:
                self._gemv(b["out"], layer.self_attn.o_proj.weight, b["y"])
                self._gemv(x, self.gate_up[i], b["hidden"], b["y"], layer.post_attention_layernorm, spare, silu=True)
                x, spare = spare, x
                self._gemv(b["hidden"], layer.mlp.down_proj.weight, b["y"])
            else:
                self._finish_layer(x, b["out"], layer, self.gate_up[i])
        _finish[(B,)](x, b["y"], norm.weight, model.norm.weight, spare, b["length"], eps, K, self.PAD, self.PDL,
                      **self.launch)
        if B > 1:
            return F.linear(spare, self.head)[:, None]
        logits = x.new_empty(1, N)
        self._gemv(spare, self.head, logits)
        return logits[:, None]

    def _count(self, cache, B):
        """Count one token more in each row; return the buffers of a step, with the length as it was on the device."""
        if B not in self.buffers:
            like, G = {"device": self.device, "dtype": self.dtype}, triton.next_power_of_2(self.H // self.KV)
            K = self.config.hidden_size
            self.buffers[B] = {
                "x": torch.empty(B, K, **like), "spare": torch.empty(B, K, **like), "y": torch.empty(B, K, **like),
                "qkv": torch.empty(B, (self.H + 2 * self.KV) * self.D, **like),
                "rope": torch.empty(B, self.D, **like), "out": torch.empty(B, self.H * self.D, **like),
                "hidden": torch.empty(B, self.config.intermediate_size, **like),
                "partial": torch.empty(B * self.KV, SPLITS, G, self.D + 2, device=self.device),
                "counter": torch.zeros(B * self.KV, dtype=torch.int32, device=self.device),
                "length": torch.zeros(B, dtype=torch.int32, device=self.device),
            }
        b = self.buffers[B]
        if self.counted != (weakref.ref(cache), B, cache.columns):  # else the step before counted on the device
            b["length"].copy_(torch.as_tensor(cache.length, device=self.device).view(-1).expand(B))
        cache.columns, cache.past, cache.length = cache.columns + 1, cache.length, cache.length + 1
        self.counted = weakref.ref(cache), B, cache.columns
        return b

    def _attention(self, attn, b, keys, values):
        G = self.H // self.KV
        block, warps = (32, 2) if keys.shape[2] <= 4096 else (64, 4)  # where little is read, the start-up counts
        _attend[(len(b["out"]) * self.KV, SPLITS)](
            b["qkv"], attn.q_norm.weight, attn.k_norm.weight, b["rope"], keys, values, b["length"], b["out"],
            b["partial"], b["counter"], self.config.rms_norm_eps, keys.shape[2], math.log2(math.e) / math.sqrt(self.D),
            self.KV, G, triton.next_power_of_2(G), self.D, attn.has_rope, SPLITS, block, self.PDL, num_warps=warps,
            num_stages=3, **self.launch)

    def _gemv(self, x, w, out, y=None, norm=None, x_new=None, silu=False):
        N, K = out.shape[1], x.shape[1]
        rows, block = (4 if silu or K <= 2048 else 8), min(triton.next_power_of_2(K), 2048 if K % 2048 == 0 else 1024)
        _gemv[(triton.cdiv(N, rows),)](
            x, w, out, y, norm and norm.weight, x_new, self.config.rms_norm_eps, N, K, triton.next_power_of_2(K),
            norm is not None, silu, rows, block, self.PDL, num_warps=4, **self.launch)


def _fuse(*linears):
    """One weight for several projections of the same input; theirs become views of it."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    for linear, part in zip(linears, joined.split([len(linear.weight) for linear in linears]), strict=True):
        linear.weight = torch.nn.Parameter(part, requires_grad=linear.weight.requires_grad)
    return joined


def _in_order(keys, values, past):
    """The cached keys and values of the only row in the order of their positions, each [tokens, KV, D]."""
    size = keys.shape[2]
    slots = torch.arange(max(0, past - size), past, device=keys.device) % size
    return keys[0].index_select(1, slots).transpose(0, 1), values[0].index_select(1, slots).transpose(0, 1)


def causal_attention(q, k, v, starts, lengths, window):
    """Attention of q, k, v [tokens, heads, D], each row to itself; the last query stands beside the last key."""
    longest = max(lengths)
    if len(lengths) == 1 and len(q) == len(k) and (window is None or longest <= window):
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
    q_starts, k_starts, longest_q, longest_k = starts, starts, longest, longest
    if len(lengths) == 1:
        longest_q, longest_k = len(q), len(k)
        q_starts, k_starts = (torch.tensor([0, n], dtype=torch.int32, device=q.device) for n in (longest_q, longest_k))
    # The operator behind torch.nn.attention.varlen.varlen_attn, whose arguments differ between versions.
    return torch.ops.aten._flash_attention_forward(
        q, k, v, q_starts, k_starts, longest_q, longest_k, 0.0, True, False,
        window_size_left=-1 if window is None else window - 1, window_size_right=0)[0]
