"""The model on an NVIDIA GPU at the speed of its memory: the same mathematics as `model.py` in few, large kernels.

Reading all weights once bounds a decoding step from below. The clear path misses that bound by far, since it launches
dozens of kernels a layer, most of which take longer to start than to run. Here a step of one row is five Triton
kernels a layer, recorded once as a CUDA graph, and each one fetches its weights while the one before it still runs.
"""

import math
import weakref
from functools import partial

import torch
import torch.nn.functional as F
import triton

from minexaone.fast import kernels
from minexaone.fast.base import FastPath, fingerprint
from minexaone.fast.varlen import varlen_attention
from minexaone.generation import PREFILL_CHUNK
from minexaone.linear import Packed, PackedEmbedding, PackedLinear, fuse, fuse_packed, kernel_form, processes
from minexaone.linear.parallel import joined, summed
from minexaone.model import KVCache

DTYPES = (torch.bfloat16, torch.float16)
SPLITS = 32  # programs that share the keys of one row and key head
FEW = 64  # tokens: so many may look at the cache where it is, and multiply with a packed matrix as it is
FIXED_BITS = {4: (0x45000000, 0x43000000), 8: (0x45080000, 0)}  # see kernels.py


class FastGPU(FastPath):
    """Runs an `Exaone4` in bfloat16 or float16 on CUDA; called as the model is, with the same caches.

    A prompt goes through cuBLAS and flash attention, with the steps between them fused. One new token in each row is
    a handful of kernels a layer, and for one row the products, too, are kernels. A few tokens, such as the guesses of a
    draft, look at the cache where it is, if its rings have spare slots for them. The weights that are read together
    become one tensor, of which the model's own parameters are views. Raises ValueError for other dtypes.
    """

    prefill_chunk = 2**30  # a prompt goes through whole: flash attention keeps no scores

    def __init__(self, model):
        fingerprint(model)  # says in one line what it cannot see through, before a weight is moved
        config = self.config = model.config
        embedding = model.embed_tokens
        self.device = model.device
        self.dtype = embedding.dtype if isinstance(embedding, PackedEmbedding) else embedding.weight.dtype
        if self.dtype not in DTYPES:
            raise ValueError(f"the fast path on CUDA needs weights in bfloat16 or float16, these are {self.dtype}: "
                             "load the model with dtype=\"bfloat16\"")
        o_proj = model.layers[0].self_attn.o_proj
        count = processes(o_proj).size() if processes(o_proj) else 1  # which share heads and feed-forward columns
        self.summed = partial(summed, o_proj, None) if count > 1 else lambda y: y
        self.joined = partial(joined, model.lm_head, None) if processes(model.lm_head) else lambda logits: logits
        self.H, self.KV = config.num_attention_heads // count, config.num_key_value_heads // count
        self.D, self.width = config.head_dim, config.intermediate_size // count
        self.PAD = triton.next_power_of_2(config.hidden_size)
        attentions = [layer.self_attn for layer in model.layers]
        self.qkv = [matrix(attn.q_proj, attn.k_proj, attn.v_proj) for attn in attentions]
        self.o_proj = [matrix(attn.o_proj) for attn in attentions]
        self.gate_up = [matrix(layer.mlp.gate_proj, layer.mlp.up_proj) for layer in model.layers]
        self.down = [matrix(layer.mlp.down_proj) for layer in model.layers]
        self.embedding = None if isinstance(embedding, Packed) else kernel_form(embedding)[0]
        self.head = matrix(model.lm_head or embedding)
        layers = [*self.qkv, *self.o_proj, *self.gate_up, *self.down]
        sizes = [math.prod(found.shape) for found in (*layers, self.head) if isinstance(found, Packed)]
        self.packed = any(isinstance(found, Packed) for found in layers)
        self.scratch = torch.empty(max(sizes, default=0), dtype=self.dtype, device=self.device)  # an unpacked matrix
        self.frequencies = model.frequencies.to(self.device)
        # Programmatic dependent launch: a kernel starts while the one before it runs (Hopper and later).
        self.PDL = torch.cuda.get_device_capability(self.device) >= (9, 0)
        self.launch = {"launch_pdl": True} if self.PDL else {}
        self.buffers = {}  # of a step, by the number of rows
        self.counted = lambda: None, 0, None  # the cache that buffers["length"] counts, its rows and their length
        super().__init__(model)  # at last: fusing has moved the weights

    @torch.inference_mode()
    def __call__(self, input_ids, cache=None, attention_mask=None, logits_to_keep=0):
        """As `Exaone4.forward`."""
        B, T = input_ids.shape
        cache = KVCache(self.config) if cache is None else cache
        if attention_mask is not None and attention_mask.all():
            attention_mask = None
        if T == 1 and attention_mask is None:
            return self._step(input_ids, cache)
        if T <= FEW and attention_mask is None and (cache.spare >= T - 1 or not any(cache.windows)):
            return self._few(input_ids, cache, logits_to_keep)
        if cache.columns and (B > 1 or attention_mask is not None):
            return self.model(input_ids, cache, attention_mask, logits_to_keep)  # rare: chunks of unequal rows
        return self._prompt(input_ids, cache, attention_mask, logits_to_keep)

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
            keys, values = cache.room(i, x.new_empty(B, KV, 0, D))
            before = _in_order(keys, values, past) if past else ()
            qkv = self._to_cache(x, i, keys, values, cos, sin, positions, rows, newest)
            q, k, v = qkv.view(N, H + 2 * KV, D).split((H, KV, KV), 1)
            if past:
                k, v = torch.cat((before[0], k)), torch.cat((before[1], v))
            if B == 1 and logits_to_keep and layer is model.layers[-1]:
                q, x = q[-logits_to_keep:], x[-logits_to_keep:]  # nothing follows that could look at the others
            out = causal_attention(q, k, v, starts, lengths, config.window(i))
            self._finish_layer(x, out.reshape(len(x), H * D), i)
        if N < B * T:
            x, packed = x.new_zeros(B, T, x.shape[1]), x
            x[rows, columns] = packed
        return self.joined(self._product(model.norm(x.view(B, -1, x.shape[-1])[:, -logits_to_keep:]), self.head))

    def _few(self, ids, cache, logits_to_keep):
        """A few new tokens in each row, ids [B, T], which look at the cache where it is; can be recorded as `_step`."""
        (B, T), config, H, KV, D = ids.shape, self.config, self.H, self.KV, self.D
        b = self.buffers[B] if torch.cuda.is_current_stream_capturing() else self.count(cache, B, T)
        positions = (b["length"][:, None] + torch.arange(T, device=self.device)).flatten()
        rows, newest = torch.arange(B * T, device=self.device) // T, b["length"] + T - 1
        x = self.model.embed_tokens(ids.flatten())  # [B T, hidden_size]
        angles = positions[:, None] * self.frequencies
        cos, sin = angles.cos().type_as(x), angles.sin().type_as(x)
        G = triton.next_power_of_2(H // KV)
        tokens = max(16 // G, min(64 // G, triton.next_power_of_2(T)), 1)
        parts = torch.empty(B * T * H, SPLITS, D + 2, device=self.device)
        for i in range(config.num_hidden_layers):
            keys, values = cache.room(i, x.new_empty(B, KV, 0, D))
            qkv, out = self._to_cache(x, i, keys, values, cos, sin, positions, rows, newest), x.new_empty(B * T, H * D)
            kernels.attend_few[(B * KV, SPLITS, triton.cdiv(T, tokens))](
                qkv, keys, values, b["length"], parts, T, keys.shape[2], config.window(i) or 2**30,
                math.log2(math.e) / math.sqrt(D), KV, H // KV, G, D, tokens, SPLITS, 64, num_warps=4, num_stages=2)
            kernels.join[(B * T * H,)](parts, out, D, SPLITS, num_warps=2)
            self._finish_layer(x, out, i)
        b["length"] += T
        return self.joined(self._product(self.model.norm(x.view(B, T, -1)[:, -logits_to_keep:]), self.head))

    def _to_cache(self, x, i, keys, values, cos, sin, positions, rows, newest):
        """What layer i's attention takes of x [N, hidden_size]: q, k, v [N, (H + 2 KV) D], k, v also in the cache."""
        attn, config, qkv = self.model.layers[i].self_attn, self.config, self._product(x, self.qkv[i])
        kernels.norm_rope[(len(x), 2)](qkv, attn.q_norm.weight, attn.k_norm.weight, cos, sin, positions, rows, newest,
                                       keys, values, config.rms_norm_eps, keys.shape[2], self.H, self.KV,
                                       triton.next_power_of_2(self.H), self.D, config.has_rope(i))
        return qkv

    def _finish_layer(self, x, out, i):
        """What follows layer i's attention, for many tokens: x [N, hidden_size] becomes the layer's output."""
        layer = self.model.layers[i]
        size = self.width
        out = self.summed(self._product(out, self.o_proj[i]))
        self._add_norm(x, out, layer.post_attention_layernorm)
        for part in x.split(PREFILL_CHUNK):  # bounds the memory of the widest activations
            both, hidden = self._product(part, self.gate_up[i]), x.new_empty(len(part), size)
            kernels.silu_mul[(len(part), triton.cdiv(size, 1024))](both, hidden, size, 1024)
            self._add_norm(part, self.summed(self._product(hidden, self.down[i])), layer.post_feedforward_layernorm)

    def _add_norm(self, x, y, norm, copy=None, per=1):
        """x += RMSNorm(y) for each row; copy takes the only row as `kernels.arranged` says."""
        kernels.add_norm[(len(x),)](x, y, norm.weight, copy, self.config.rms_norm_eps, x.shape[1], self.PAD, per,
                                    self.PDL, num_warps=16 if len(x) == 1 else 4, **self.launch)

    # ----------------------------------------------------------------------------------------- packed matrices

    def _product(self, x, matrix):
        """x [..., K] times a matrix, for several tokens."""
        if not isinstance(matrix, Packed):
            return F.linear(x, matrix)
        (N, K), tokens, P = matrix.shape, x.numel() // x.shape[-1], self.PDL
        x = (x if matrix.order is None else x[..., matrix.order]).contiguous()
        words, scale, zero, group = matrix.weight.view(torch.int32), matrix.scale, matrix.zero, matrix.group
        if tokens <= FEW and (group % 128 == 0 or group >= K):
            # As measured on an H200: where there are few outputs, several programs share the inputs.
            rows, warps, stages = (32, 2, 6) if K > 16384 else (64, 4, 4)
            columns, splits = max(8, triton.next_power_of_2(tokens)), 8 if K > 16384 else 2 if N > 40000 else 4
            shares = torch.empty(splits, tokens, N, device=x.device)
            kernels.matmul_packed[(triton.cdiv(N, rows), splits)](
                x, words, scale, zero, shares, tokens, N, K, group, matrix.bits, columns, rows, splits, stages, P,
                num_warps=warps, **self.launch)
            out = x.new_empty(*x.shape[:-1], N)
            kernels.add_up[(triton.cdiv(tokens * N, 1024),)](shares, out, tokens * N, splits, 1024, P, **self.launch)
            return out
        whole = self.scratch[:N * K].view(N, K)
        kernels.unpack[(N, triton.cdiv(words.shape[1], 1024))](words, scale, zero, whole, K, group, matrix.bits, 1024)
        return F.linear(x, whole)

    def _row_product(self, b, x, matrix, out, silu=False, per=1):
        """As `_gemv` without norm; x in float32 is `arranged` for this matrix, and per says how to arrange out."""
        if not isinstance(matrix, Packed):
            return self._gemv(x, matrix, out, silu=silu)
        K, bits = matrix.shape[1], matrix.bits
        if x.dtype != torch.float32:
            x, plain = b["arranged"][:, :K], x
            kernels.arrange[(triton.cdiv(K, 1024),)](plain, matrix.order, x, K, 32 // bits, 1024, self.PDL,
                                                     **self.launch)
        N, large = out.shape[1], out.shape[1] * K > 2**26
        units = 128 if K % 4096 == 0 or K > 16384 else 32 if large else 64  # as measured on an H200, and the rows
        rows = 2 if N * K <= 2**24 else 4 if N * K <= 2**25 else 8
        kernels.gemv_packed[(triton.cdiv(N, rows),)](
            x, matrix.weight.view(torch.int32), matrix.scale, matrix.zero, out, N, *FIXED_BITS[bits], K, matrix.group,
            bits, silu, per, rows, units, self.PDL, num_warps=units // 32, **self.launch)

    def _packed_layer(self, b, x, i, keys, values):
        """A layer for one row, x [1, hidden_size] in place; b["flat"] holds x as the layer's first product wants it."""
        layer = self.model.layers[i]
        after = self.qkv[i + 1] if i + 1 < len(self.qkv) else None
        self._row_product(b, b["flat"] if per(self.qkv[i]) > 1 else x, self.qkv[i], b["qkv"])
        out = b["out"] if per(self.o_proj[i]) == 1 else b["flat_out"]
        self._attention(layer.self_attn, b, keys, values, out, per(self.o_proj[i]))
        self._row_product(b, out, self.o_proj[i], b["y"])
        self._add_norm(x, b["y"], layer.post_attention_layernorm, b["flat"], per(self.gate_up[i]))
        both = isinstance(self.gate_up[i], Packed) and per(self.down[i]) > 1
        hidden = b["flat_hidden"] if both else b["hidden"]
        self._row_product(b, b["flat"] if per(self.gate_up[i]) > 1 else x, self.gate_up[i], hidden, True,
                          per(self.down[i]) if both else 1)
        self._row_product(b, hidden, self.down[i], b["y"])
        self._add_norm(x, b["y"], layer.post_feedforward_layernorm, b["flat"], per(after))

    # --------------------------------------------------------------------------------------------- single steps

    def _step(self, ids, cache):
        """One new token in each row, ids [B, 1]; logits [B, 1, vocab_size]."""
        B, model, eps = len(ids), self.model, self.config.rms_norm_eps
        b = self.buffers[B] if torch.cuda.is_current_stream_capturing() else self.count(cache, B)
        K, table, ids = self.config.hidden_size, self.embedding, ids.contiguous()  # a column of a batch is not
        if table is None:
            table, ids = model.embed_tokens(ids).view(B, K), torch.arange(B, device=ids.device)
        kernels.embed[(B,)](ids, table, b["x"], b["y"], b["length"], self.frequencies, b["rope"], K, self.PAD,
                            self.D // 2)
        x, spare, norm = b["x"], b["spare"], model.norm  # of y = 0, so that any will do
        if self.packed and B == 1:
            self._add_norm(x, b["y"], norm, b["flat"], per(self.qkv[0]))
        for i, layer in enumerate(model.layers):
            keys, values = cache.room(i, x.new_empty(B, self.KV, 0, self.D))
            if self.packed and B == 1:
                self._packed_layer(b, x, i, keys, values)
                continue
            if B == 1:
                self._gemv(x, self.qkv[i], b["qkv"], b["y"], norm, spare)
                x, spare, norm = spare, x, layer.post_feedforward_layernorm
            else:
                torch.mm(x, self.qkv[i].T, out=b["qkv"]) if isinstance(self.qkv[i], torch.Tensor) else \
                    b["qkv"].copy_(self._product(x, self.qkv[i]))
            self._attention(layer.self_attn, b, keys, values, b["out"])
            if B == 1:
                self._gemv(b["out"], self.o_proj[i], b["y"])
                self.summed(b["y"])
                self._gemv(x, self.gate_up[i], b["hidden"], b["y"], layer.post_attention_layernorm, spare, silu=True)
                x, spare = spare, x
                self._gemv(b["hidden"], self.down[i], b["y"])
                self.summed(b["y"])
            else:
                self._finish_layer(x, b["out"], i)
        if self.packed and B == 1:
            b["y"].zero_()
        kernels.finish[(B,)](x, b["y"], norm.weight, model.norm.weight, spare, b["length"], eps, K, self.PAD,
                             self.PDL, **self.launch)
        if B > 1:
            return self.joined(self._product(spare, self.head)[:, None])
        logits = x.new_empty(1, self.head.shape[0])
        self._row_product(b, spare, self.head, logits)
        return self.joined(logits[:, None])

    def count(self, cache, B, T=1):
        """Count T tokens more in each row; return the buffers of a step, with the length as it was on the device."""
        if B not in self.buffers:
            like, G = {"device": self.device, "dtype": self.dtype}, triton.next_power_of_2(self.H // self.KV)
            K = self.config.hidden_size
            self.buffers[B] = {
                "x": torch.empty(B, K, **like), "spare": torch.empty(B, K, **like), "y": torch.empty(B, K, **like),
                "qkv": torch.empty(B, (self.H + 2 * self.KV) * self.D, **like),
                "rope": torch.empty(B, self.D, **like), "out": torch.empty(B, self.H * self.D, **like),
                "hidden": torch.empty(B, self.width, **like),
                **({"flat": torch.empty(1, K, device=self.device),
                    "flat_out": torch.empty(1, self.H * self.D, device=self.device),
                    "flat_hidden": torch.empty(1, self.width, device=self.device),
                    "arranged": torch.empty(1, max(K, self.H * self.D, self.width),
                                            device=self.device)} if B == 1 else {}),
                "partial": torch.empty(B * self.KV, SPLITS, G, self.D + 2, device=self.device),
                "counter": torch.zeros(B * self.KV, dtype=torch.int32, device=self.device),
                "length": torch.zeros(B, dtype=torch.int32, device=self.device),
            }
        b = self.buffers[B]
        counted, rows, length = self.counted
        if (counted(), rows) != (cache, B) or length is not cache.length:  # else the step before counted on the device
            b["length"].copy_(torch.as_tensor(cache.length, device=self.device).view(-1).expand(B))
        cache.columns, cache.past, cache.length = cache.columns + T, cache.length, cache.length + T
        self.counted = weakref.ref(cache), B, cache.length
        return b

    def _attention(self, attn, b, keys, values, out, per=1):
        G = self.H // self.KV
        block, warps = (32, 2) if keys.shape[2] <= 4096 else (64, 4)  # where little is read, the start-up counts
        kernels.attend[(len(out) * self.KV, SPLITS)](
            b["qkv"], attn.q_norm.weight, attn.k_norm.weight, b["rope"], keys, values, b["length"], out,
            b["partial"], b["counter"], self.config.rms_norm_eps, keys.shape[2], attn.window or 2**30,
            math.log2(math.e) / math.sqrt(self.D), self.KV, G, triton.next_power_of_2(G), self.D,
            attn.has_rope, SPLITS, block, per, self.PDL, num_warps=warps, num_stages=3, **self.launch)

    def _gemv(self, x, w, out, y=None, norm=None, x_new=None, silu=False):
        N, K = out.shape[1], x.shape[1]
        rows, block = (4 if silu or K <= 2048 else 8), min(triton.next_power_of_2(K), 2048 if K % 2048 == 0 else 1024)
        kernels.gemv[(triton.cdiv(N, rows),)](
            x, w, out, y, norm and norm.weight, x_new, self.config.rms_norm_eps, N, K, triton.next_power_of_2(K),
            norm is not None, silu, rows, block, self.PDL, num_warps=4, **self.launch)


def matrix(*modules):
    """What projections of the same input multiply with, as one: a tensor [out, in], or a `PackedLinear`.

    Raises ValueError for what the kernels cannot read.
    """
    kinds = {type(module) for module in modules}
    if not any(isinstance(module, Packed) for module in modules):
        return fuse(*modules) if len(modules) > 1 else kernel_form(modules[0], divided=True)[0]
    if kinds != {PackedLinear}:
        raise ValueError("the fast path on CUDA cannot join packed and other projections of the same input: set "
                         "model.fast = None for the clear path")
    for module in modules:
        names = {name for name, _ in module.named_buffers()} - {"weight", "scale", "zero", "order"}
        inputs, unit = module.shape[1], 128 // module.bits
        if names or module.weight.dtype not in (torch.uint8, torch.int8) or inputs % (unit // 4) \
                or (module.group % unit and module.group < inputs):
            raise ValueError("the fast path on CUDA reads whole numbers of 4 or 8 bits in groups of "
                             f"{unit} or a multiple of it, without offset or table; this is {module.weight.dtype} in "
                             f"groups of {module.group}: set model.fast = None for the clear path")
    return fuse_packed(*modules) if len(modules) > 1 else modules[0]


def per(found):
    """The values in a word of a packed matrix whose inputs come in their own order; 1 for any other, and for None."""
    return 32 // found.bits if isinstance(found, Packed) and found.order is None else 1


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
    return varlen_attention(q, k, v, q_starts, k_starts, longest_q, longest_k, window)
