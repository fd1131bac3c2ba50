"""The Triton kernels of the fast path on CUDA: each one does in one pass what would be many launches.

Two rules of "programmatic dependent launch", by which a kernel starts while the one before it still runs: it says so
(gdc_launch_dependents), and what stands before gdc_wait may only read what no kernel of the same step writes.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def embed(ids, table, x, y, length, frequencies, rope, K: tl.constexpr, PAD: tl.constexpr, HALF: tl.constexpr):
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
def gemv(x, w, out, y, norm, x_new, eps, N, K: tl.constexpr, PAD: tl.constexpr, NORM: tl.constexpr,
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
def look(q, k, v, seen, scale, best, total, acc):
    """Take the keys and values of one block into the running softmax: largest score, sum of weights, weighted sum."""
    scores = tl.where(seen, tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    higher = tl.maximum(best, tl.max(scores, 1))
    finite = tl.where(higher == float("-inf"), 0.0, higher)  # -inf: nothing seen yet
    shrink, p = tl.exp2(best - finite), tl.exp2(scores - finite[:, None])
    return higher, total * shrink + tl.sum(p, 1), acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)


@triton.jit
def age(slots, slot, size):
    """How many tokens before the one of `slot` those of these slots came."""
    return slot - slots + tl.where(slots > slot, size, 0)


@triton.jit
def attend(qkv, q_norm, k_norm, rope, keys, values, length, out, partial, counter, eps, size, window, scale,
            KV: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr,
            SPLITS: tl.constexpr, BLOCK: tl.constexpr, PER: tl.constexpr, PDL: tl.constexpr):
    """Attention of one new token a row; program (row and key head, split) looks at one stretch of the cache.

    qkv [B, (G KV + 2 KV) D] as projected; QK-norm and RoPE are applied here. The first split takes the new key and
    value and stores them in their slot of keys, values [B, KV, size, D]; the one that ends last joins the splits.
    PER is for `arranged`, and 1 for more than one row.
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
    seen = (slots < end) & (slots != slot) & (age(slots, slot, size) < window)
    best, total, acc = look(q, k, v, seen[None, :], scale, best, total, acc)
    for first in range(start + BLOCK, end, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        k = tl.load(keys + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
        v = tl.load(values + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
        seen = (slots < end) & (slots != slot) & (age(slots, slot, size) < window)
        best, total, acc = look(q, k, v, seen[None, :], scale, best, total, acc)

    if active == 1:
        at_out = arranged((row * KV * G + kv * G + g)[:, None] * D + d[None, :], KV * G * D, PER)
        tl.store(out + at_out, acc / total[:, None], mask=(g < G)[:, None])
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
        at_out = arranged((row * KV * G + kv * G + h)[:, None] * D + d[None, :], KV * G * D, PER)
        tl.store(out + at_out, result, mask=(h < G)[:, None])


@triton.jit
def attend_few(qkv, keys, values, length, partial, T, size, window, scale, KV: tl.constexpr, G: tl.constexpr,
               GP: tl.constexpr, D: tl.constexpr, TOKENS: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Attention of T new tokens a row, which `norm_rope` has put into the cache; length: of the rows before them.

    Program (row and key head, split, block of tokens) looks at one stretch of the cache and leaves what `join` takes.
    """
    head, split = tl.program_id(0), tl.program_id(1)
    row, kv = head // KV, head % KV
    first = tl.load(length + row)
    newest = first + T - 1
    used = tl.minimum(newest + 1, size)
    chunk = tl.cdiv(tl.cdiv(used, SPLITS), BLOCK) * BLOCK
    i, d = tl.arange(0, TOKENS * GP), tl.arange(0, D)
    token, g = tl.program_id(2) * TOKENS + i // GP, i % GP
    inside = ((token < T) & (g < G))[:, None]
    query = (row * T + token).to(tl.int64) * (G + 2) * KV + kv * G + g
    q = tl.load(qkv + query[:, None] * D + d[None, :], mask=inside, other=0.0)
    best = tl.full([TOKENS * GP], float("-inf"), tl.float32)
    total = tl.zeros([TOKENS * GP], tl.float32)
    acc = tl.zeros([TOKENS * GP, D], tl.float32)
    base, end = head.to(tl.int64) * size * D, tl.minimum((split + 1) * chunk, used)
    for start in range(split * chunk, end, BLOCK):
        slots = start + tl.arange(0, BLOCK)
        k = tl.load(keys + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
        v = tl.load(values + base + slots[:, None] * D + d[None, :], mask=(slots < end)[:, None], other=0.0)
        ago = first + token[:, None] - newest + age(slots, newest % size, size)[None, :]  # how long before the query
        best, total, acc = look(q, k, v, (slots < end)[None, :] & (ago >= 0) & (ago < window), scale, best, total, acc)
    mine = partial + (((row * T + token).to(tl.int64) * KV * G + kv * G + g) * SPLITS + split) * (D + 2)
    tl.store(mine[:, None] + d[None, :], acc, mask=inside)
    tl.store(mine[:, None] + D, best[:, None], mask=inside)
    tl.store(mine[:, None] + D + 1, total[:, None], mask=inside)


@triton.jit
def join(partial, out, D: tl.constexpr, SPLITS: tl.constexpr):
    """out [tokens and heads, D] from what the splits of `attend_few` found: [.., SPLITS, D + 2], weighted sum, largest
    score, sum of weights."""
    head = tl.program_id(0).to(tl.int64)
    s, d = tl.arange(0, SPLITS), tl.arange(0, D)
    parts = partial + (head * SPLITS + s) * (D + 2)
    highest = tl.load(parts + D)
    weight = tl.exp2(highest - tl.max(highest, 0))
    whole = tl.sum(weight * tl.load(parts + D + 1), 0)
    sums = tl.load(parts[:, None] + d[None, :])
    tl.store(out + head * D + d, tl.sum(sums * weight[:, None], 0) / whole)


@triton.jit
def finish(x, y, inner, outer, out, length, eps, K: tl.constexpr, PAD: tl.constexpr, PDL: tl.constexpr):
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
def add_norm(x, y, norm, copy, eps, K: tl.constexpr, PAD: tl.constexpr, PER: tl.constexpr, PDL: tl.constexpr):
    """x += RMSNorm(y), for many tokens; one program a row. copy: takes the only row `arranged`, or None."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, PAD)
    inside = k < K
    value = tl.load(y + row * K + k, mask=inside, other=0.0).to(tl.float32)
    value = (value * tl.rsqrt(tl.sum(value * value) / K + eps)).to(x.dtype.element_ty)
    value = tl.load(x + row * K + k, mask=inside) + value * tl.load(norm + k, mask=inside)
    tl.store(x + row * K + k, value, mask=inside)
    if copy is not None:
        tl.store(copy + arranged(k, K, PER), value, mask=inside)


@triton.jit
def silu_mul(gate_up, out, K: tl.constexpr, BLOCK: tl.constexpr):
    """out = silu(gate) up, for many tokens; gate_up [tokens, 2 K]."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * K + k, mask=k < K).to(tl.float32)
    up = tl.load(gate_up + row * 2 * K + K + k, mask=k < K)
    gate = (gate * tl.sigmoid(gate)).to(up.dtype)
    tl.store(out + row * K + k, gate * up, mask=k < K)


@triton.jit
def norm_rope(qkv, q_norm, k_norm, cos, sin, positions, rows, last, keys, values, eps, size, H: tl.constexpr,
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


# ------------------------------------------------------------------------------------------------ packed weights
#
# A word of 32 bits holds eight values of 4 bits or four of 8, of which the arithmetic units take floats. Converting is
# slow, but a float whose exponent is fixed is a whole number in its last bits: 0x4500_0000 | q << 12 is 2048 + q in
# float32, 0x4300 | q is 128 + q in bfloat16. That is one logical instruction, and what was added is taken off the sum.
# These fixed bits come as an argument, since ptxas makes two instructions of a logical one with two constants.


@triton.jit
def arranged(k, K, PER: tl.constexpr):
    """Where input k stands in x for packed_rows: first those of each word's first value, then of its second ...

    So a thread reads four inputs at once, as it reads four words. With PER 1 everything stays in its place.
    """
    return k % PER * (K // PER) + k // PER


@triton.jit
def arrange(x, order, out, K: tl.constexpr, PER: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out [K] float32 = x, or x[order], `arranged`."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = k
    if order is not None:
        source = tl.load(order + k, mask=k < K, other=0)
    tl.store(out + arranged(k, K, PER), tl.load(x + source, mask=k < K, other=0.0), mask=k < K)


@triton.jit
def masked(v, mask: tl.constexpr, bits):
    """The value of v under the mask as a float32."""
    return ((v & mask) ^ bits).to(tl.float32, bitcast=True)


@triton.jit
def packed_rows(x, w, scale, zero, n, N, low_bits, high_bits, K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr,
                ROWS: tl.constexpr, UNITS: tl.constexpr, WAIT: tl.constexpr):
    """Rows n of a packed matrix times x, float32 and `arranged`: float32 [ROWS].

    A unit is the four words that a thread loads at once; a group holds whole units.
    """
    PER: tl.constexpr = 32 // BITS
    WORDS: tl.constexpr = K // PER
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    rows, row = (n < N)[:, None], n.to(tl.int64)[:, None]
    word, unit = tl.arange(0, 4 * UNITS), tl.arange(0, UNITS)
    words = tl.load(w + row * WORDS + word[None, :], mask=rows & (word < WORDS)[None, :], other=0)
    group = row * GROUPS + (unit * 4 * PER // GROUP)[None, :]
    step = tl.load(scale + group, mask=rows & (unit * 4 < WORDS)[None, :], other=0.0)
    if WAIT:
        gdc_wait()  # as in gemv
    total = tl.zeros([ROWS, UNITS], tl.float32)
    for start in range(0, WORDS, 4 * UNITS):
        part = tl.zeros([ROWS, 4 * UNITS], tl.float32)
        whole, added = tl.zeros([4 * UNITS], tl.float32), tl.zeros([4 * UNITS], tl.float32)
        for j in tl.static_range(4):
            v = (words >> 8 * j) << 12  # a byte of each word at bits 12 to 19
            at_x = x + j * (PER // 4) * WORDS + start + word
            first = tl.load(at_x, mask=start + word < WORDS, other=0.0)
            whole += first
            if BITS == 8:
                part += masked(v, 0xFF000, low_bits) * first[None, :]
                added += 2176 * first
            else:
                second = tl.load(at_x + WORDS, mask=start + word < WORDS, other=0.0)
                part += masked(v, 0xF000, low_bits) * first[None, :]
                part += masked(v, 0xF0000, high_bits) * second[None, :]
                added += 2056 * first + 136 * second
                whole += second
        sums = tl.sum(tl.reshape(part - added[None, :], [ROWS, UNITS, 4]), 2)
        if zero is not None:
            less = tl.load(zero + group, mask=rows & (start + unit * 4 < WORDS)[None, :], other=0).to(tl.float32)
            sums -= less * tl.sum(tl.reshape(whole, [UNITS, 4]), 1)[None, :]
        total += sums * step.to(tl.float32)
        if start + 4 * UNITS < WORDS:
            more = start + 4 * UNITS
            words = tl.load(w + row * WORDS + more + word[None, :], mask=rows & (more + word < WORDS)[None, :],
                            other=0)
            group = row * GROUPS + ((more + unit * 4) * PER // GROUP)[None, :]
            step = tl.load(scale + group, mask=rows & (more + unit * 4 < WORDS)[None, :], other=0.0)
    return tl.sum(total, 1)


@triton.jit
def gemv_packed(x, w, scale, zero, out, N, low_bits, high_bits, K: tl.constexpr, GROUP: tl.constexpr,
                BITS: tl.constexpr, SILU: tl.constexpr, PER: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
                PDL: tl.constexpr):
    """`gemv` with packed weights, w int32 [N, K BITS / 32], or [2 N, ...] with SILU."""
    if PDL:
        gdc_launch_dependents()
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    result = packed_rows(x, w, scale, zero, n, N, low_bits, high_bits, K, GROUP, BITS, ROWS, UNITS, PDL)
    if SILU:
        both = N * (K * BITS // 32)
        GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
        up_zero = zero
        if zero is not None:
            up_zero = zero + N * GROUPS
        up = packed_rows(x, w + both, scale + N * GROUPS, up_zero, n, N, low_bits, high_bits, K, GROUP, BITS, ROWS,
                         UNITS, False)
        result = result.to(out.dtype.element_ty).to(tl.float32)
        result = (result * tl.sigmoid(result)).to(out.dtype.element_ty).to(tl.float32) * up
    tl.store(out + arranged(n, N, PER), result, mask=n < N)


@triton.jit
def quarter(x):
    """x [A, B, 4] as four [A, B]."""
    x02, x13 = tl.split(tl.reshape(x, [x.shape[0], x.shape[1], 2, 2]))
    x0, x2 = tl.split(x02)
    x1, x3 = tl.split(x13)
    return x0, x1, x2, x3


@triton.jit
def eighth(x):
    """x [A, B, 8] as eight [A, B]."""
    even, odd = tl.split(tl.reshape(x, [x.shape[0], x.shape[1], 2, 2, 2]))
    even_a, even_b = tl.split(even)
    odd_a, odd_b = tl.split(odd)
    x0, x4 = tl.split(even_a)
    x2, x6 = tl.split(even_b)
    x1, x5 = tl.split(odd_a)
    x3, x7 = tl.split(odd_b)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def two_values(words, less, bits: tl.constexpr, BITS: tl.constexpr, ADDED: tl.constexpr, dtype: tl.constexpr):
    """The values in the lowest bits of both halves of each word, in 16 bits, minus `less`."""
    pair = (words & 0x000F000F) | bits
    low, high = pair.to(tl.int16).to(dtype, bitcast=True), (pair >> 16).to(tl.int16).to(dtype, bitcast=True)
    if BITS == 8:  # all that is below is exact: whole numbers up to 256
        pair = ((words >> 4) & 0x000F000F) ^ 0x00080008 | bits
        low = (low - ADDED) + (pair.to(tl.int16).to(dtype, bitcast=True) - ADDED - 8) * 16
        high = (high - ADDED) + ((pair >> 16).to(tl.int16).to(dtype, bitcast=True) - ADDED - 8) * 16
    return (low - less).to(dtype), (high - less).to(dtype)


@triton.jit
def matmul_packed(x, w, scale, zero, out, M, N, K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr,
                  COLS: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr,
                  PDL: tl.constexpr):
    """x [M, K] times a packed matrix, for a few tokens: M <= COLS. A group is a multiple of 128 or all.

    Program (rows, split) takes every SPLITS-th block of inputs: out float32 [SPLITS, M, N], to be added up.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    PER: tl.constexpr = 32 // BITS
    BLOCK: tl.constexpr = 128 // PER
    WORDS: tl.constexpr = K // PER
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    dtype: tl.constexpr = x.dtype.element_ty
    FIXED: tl.constexpr = 0x43004300 if dtype == tl.bfloat16 else 0x64006400
    ADDED: tl.constexpr = 128.0 if dtype == tl.bfloat16 else 1024.0  # by the fixed bits
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m, word, j = tl.arange(0, COLS), tl.arange(0, BLOCK), tl.arange(0, 128)
    at, rows = w + n.to(tl.int64)[:, None] * WORDS + word[None, :], n < N
    total = tl.zeros([ROWS, COLS], tl.float32)
    for block in tl.range(tl.program_id(1), (K + 127) // 128, SPLITS, num_stages=STAGES):
        words = tl.load(at + block * BLOCK, mask=rows[:, None] & (block * BLOCK + word < WORDS)[None, :], other=0)
        k = block * 128 + j
        value = tl.load(x + m[:, None] * K + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
        group = n * GROUPS + block * 128 // GROUP
        step = tl.load(scale + group, mask=rows, other=0.0).to(tl.float32)
        less = tl.full([ROWS], ADDED + 8 if BITS == 4 else 0.0, dtype)
        if zero is not None:
            less = (less + tl.load(zero + group, mask=rows, other=0).to(dtype)).to(dtype)
        less = less[:, None]
        part = tl.zeros([ROWS, COLS], tl.float32)
        if BITS == 4:
            x0, x1, x2, x3, x4, x5, x6, x7 = eighth(tl.reshape(value, [COLS, BLOCK, 8]))
            for i in tl.static_range(4):
                low, high = two_values(words >> 4 * i, less, FIXED, BITS, ADDED, dtype)
                first, second = ((x0, x4), (x1, x5), (x2, x6), (x3, x7))[i]
                part = tl.dot(low, tl.trans(first), part)
                part = tl.dot(high, tl.trans(second), part)
        else:
            x0, x1, x2, x3 = quarter(tl.reshape(value, [COLS, BLOCK, 4]))
            for i in tl.static_range(2):
                low, high = two_values(words >> 8 * i, less, FIXED, BITS, ADDED, dtype)
                first, second = ((x0, x2), (x1, x3))[i]
                part = tl.dot(low, tl.trans(first), part)
                part = tl.dot(high, tl.trans(second), part)
        total += part * step[:, None]
    at = out + (tl.program_id(1) * M + m[None, :]) * N + n[:, None]
    tl.store(at, total, mask=(m < M)[None, :] & rows[:, None])


@triton.jit
def add_up(parts, out, SIZE, SPLITS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out [SIZE] = the sum of parts [SPLITS, SIZE]."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + split * SIZE + i, mask=i < SIZE, other=0.0)
    tl.store(out + i, total, mask=i < SIZE)


@triton.jit
def unpack(w, scale, zero, out, K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """out [N, K] = the packed matrix, w int32 [N, K BITS / 32]; program (row, block of words)."""
    PER: tl.constexpr = 32 // BITS
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    row = tl.program_id(0).to(tl.int64)
    word, j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PER)
    inside = word < K // PER
    value = tl.load(w + row * (K // PER) + word, mask=inside, other=0)[:, None] << (32 - BITS - BITS * j)[None, :]
    value = value >> (32 - BITS)  # with its sign
    if BITS == 4:
        value = (value & 15) - 8
    value = value.to(tl.float32)
    k = word[:, None] * PER + j[None, :]
    group = row * GROUPS + k // GROUP
    if zero is not None:
        value -= tl.load(zero + group, mask=inside[:, None], other=0).to(tl.float32)
    value *= tl.load(scale + group, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(out + row * K + k, value, mask=inside[:, None])
