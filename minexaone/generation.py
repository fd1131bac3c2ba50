"""From logits to text: reading prompts, choosing one id after the other, knowing when to end.

`model` is an `Exaone4`, which has these functions as methods, or anything like it: with `config`, `device`, `new_cache`
and `fast`, and called as `Exaone4.forward` is; for a `PromptCache` also with `parameters` and `buffers`. Shapes in
comments: B rows, V vocabulary.
"""

import math
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor

from minexaone.checks import as_rows, check_generation, check_guesses
from minexaone.habits import with_their_names
from minexaone.threads import threads_for

PREFILL_CHUNK = 8192  # tokens of a prompt at once: bounds the memory of activations
ACTIVATIONS = 2**28  # in a layer's widest place; on CUDA, whose attention is quickest on a whole prompt, more tokens
NOT_FINITE = -1  # in place of an id


@with_their_names
def generate(model, prompts: Sequence[int] | Sequence[Sequence[int]], *, max_new_tokens: int = 256,
             temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, presence_penalty: float = 0.0,
             seed: int | None = None, stop_ids: Collection[int] | None = None, reasoning_budget: int | None = None,
             think_end_id: int | None = None, close_ids: Sequence[int] = (),
             prompt_cache: "PromptCache | None" = None, draft=None) -> list[int] | list[list[int]]:
    """The new ids of one prompt, or of each in a batch of unequal lengths; options as in `stream`.

    Every row is what it would be alone, up to rounding; with a seed, row n draws as `stream(..., seed=seed + n)`.
    """
    rows, single = as_rows(prompts)
    steps = list(stream(model, rows, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                        presence_penalty=presence_penalty, seed=seed, stop_ids=stop_ids,
                        reasoning_budget=reasoning_budget, think_end_id=think_end_id, close_ids=close_ids,
                        prompt_cache=prompt_cache, draft=draft))
    replies = [[id for id in row if id is not None] for row in zip(*steps, strict=True)]
    return replies[0] if single else replies


@with_their_names
@torch.inference_mode()
def stream(model, prompts: Sequence[int] | Sequence[Sequence[int]], *, max_new_tokens: int = 256,
           temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, presence_penalty: float = 0.0,
           seed: int | None = None, stop_ids: Collection[int] | None = None, reasoning_budget: int | None = None,
           think_end_id: int | None = None, close_ids: Sequence[int] = (),
           prompt_cache: "PromptCache | None" = None, draft=None) -> Iterator[int | list[int | None]]:
    """Yield the ids that follow a prompt as they are drawn, the stop id included; of a batch, a list with one id for
    each row, None for rows that have ended.

    prompts: ids, or a list of prompts, as lists, tuples, arrays or tensors; or what a tokenizer of transformers gives.
    max_new_tokens: how many at most. temperature: 0 is greedy. top_k: sample from the k likeliest; 0 is all. top_p: and
    of these from the fewest that reach this probability. presence_penalty: subtracted once from the logit of every id
    already generated. seed: an integer makes the draws repeatable. stop_ids: end after one of these (None: the
    checkpoint's). reasoning_budget: after so many ids without `think_end_id`, `close_ids` are written, which close the
    thinking, and the answer follows (None: no limit). prompt_cache: of a single prompt, read only what it has not read
    before, and keep it all for the next call. draft: a `PromptLookup` or a `DraftModel` of speculation.py, whose
    guesses the model checks together: the same ids, up to rounding, in fewer passes.
    Raises ValueError for a prompt or an option that cannot be used, and RuntimeError if the model's logits are not
    finite or another stream takes the prompt cache over. The sampling options are as vLLM and the OpenAI API define
    them.
    """
    prompts, single = as_rows(prompts)
    check_generation(model.config, prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
                     top_p=top_p, presence_penalty=presence_penalty, seed=seed, stop_ids=stop_ids,
                     reasoning_budget=reasoning_budget, think_end_id=think_end_id, close_ids=close_ids,
                     draft=draft)
    stop_ids = model.config.stop_ids if stop_ids is None else stop_ids
    room = [min(max_new_tokens, model.config.max_position_embeddings - len(prompt)) for prompt in prompts]
    rows = [Row(left, stop_ids, reasoning_budget, think_end_id, close_ids) for left in room]
    choose = Sampler(model, len(rows), max(room), temperature, top_k, top_p, presence_penalty, seed)
    most = draft.num_tokens if draft else 0  # guesses at once, all of which may have to leave the cache again
    forward, length = model.fast.renewed() if model.fast else model, max(map(len, prompts)) + max(room) + most
    if prompt_cache is None:
        cache, unread, known = model.new_cache(length, most), prompts, []
    elif isinstance(prompt_cache, PromptCache) and len(prompts) == 1:
        cache, unread, known = prompt_cache.fit(model, prompts[0], length, most)
    else:
        raise ValueError(f"prompt_cache is {prompt_cache!r:.80}, expected a PromptCache and a single prompt")
    with threads_for(model, sum(map(len, unread))):
        ids = choose(prefill(forward, unread, cache, model.device))  # [B, 1]: the last of each row
    known += unread[0]  # as long as no forward pass is broken off, it is what the cache holds of a single prompt

    def step():  # touches tensors only, always the same ones, so that `captured` can record and replay it
        choose.note(ids)
        ids.copy_(choose(forward(ids, cache)))

    def check(read, mask=None):  # [B, T], each row's last id and its guesses; what is drawn after each of them
        return choose(forward(read, cache, mask), read)

    recorded = model.fast and forward.count
    if recorded:
        step = captured(step, partial(forward.count, cache, len(rows)))
        check = captured(check, partial(forward.count, cache, len(rows), 1 + most))
    def still_ours():
        if prompt_cache is not None and prompt_cache.ids is not known:
            raise RuntimeError("another stream has taken over the prompt cache of this one: give each its own")

    tensor = partial(torch.tensor, device=model.device)
    while not draft:
        drawn = ids[:, 0].tolist()
        new = [row.take(id) if row.running else None for row, id in zip(rows, drawn, strict=True)]
        last = [max(id, 0) if taken is None else taken for taken, id in zip(new, drawn, strict=True)]
        if last != drawn:  # forced, or of a row that has ended
            ids.copy_(tensor(last)[:, None])
        yield new[0] if single else new
        if not any(row.running for row in rows):
            return
        still_ours()
        with threads_for(model, len(rows)):
            step()
        known.append(last[0])

    texts, fresh = [list(prompt) for prompt in prompts], [deque() for _ in rows]
    propose = draft.begin(model, texts, cache.max_length, choose)
    drawn, read, guesses = ids, None, [[] for _ in rows]
    while True:
        found = drawn.tolist()
        taken = [row.follow(*both) if row.running else [] for row, *both in zip(rows, found, guesses, strict=True)]
        for text, waiting, new in zip(texts, fresh, taken, strict=True):
            text += new
            waiting += new
        if any(guesses):
            choose.note(read, tensor([[len(new) or 1] for new in taken]))
        # What was guessed wrong leaves the cache, and so does what was fed to rows that have ended.
        lengths = [[len(text) - 1] for text in texts]
        cache.rewind(tensor(lengths) if len(rows) > 1 else lengths[0][0])
        known += texts[0][len(known):-1]
        last = [new[-1] if new else max(here[0], 0) for new, here in zip(taken, found, strict=True)]
        if any(guesses) or last != [here[0] for here in found]:
            ids.copy_(tensor(last)[:, None])
        while any(fresh) and all(waiting or not row.running for row, waiting in zip(rows, fresh, strict=True)):
            new = [waiting.popleft() if waiting else None for waiting in fresh]
            yield new[0] if single else new
        if not any(row.running for row in rows):
            return
        still_ours()
        check_guesses(model.config, guesses := propose(), len(rows), most)
        guesses = [guess[:row.room - 1] if row.running else [] for row, guess in zip(rows, guesses, strict=True)]
        with threads_for(model, len(rows) + sum(map(len, guesses))):
            if any(guesses):
                counts = [1 + len(guess) for guess in guesses]
                full = 1 + most if recorded else max(counts)  # what fills it up leaves the cache again
                read = tensor([([id, *guess] + [0] * full)[:full] for id, guess in zip(last, guesses, strict=True)])
                if recorded or len(set(counts)) == 1:
                    drawn = check(read)
                else:
                    drawn = check(read, torch.arange(full, device=model.device) < tensor(counts)[:, None])
            else:
                step()
                drawn = ids


def prefill(forward, prompts: list[list[int]], cache, device: torch.device) -> Tensor:
    """Read the prompts into an empty cache, or a single one after what is in it, a chunk at a time; returns the logits
    [B, 1, V] of what follows them.

    Rows are padded on the left, so that all end in one column.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    chunk = getattr(forward, "prefill_chunk", PREFILL_CHUNK)
    if device.type == "cuda":
        chunk = max(chunk, ACTIVATIONS // forward.config.intermediate_size)
    for part, kept in zip(ids.split(chunk, 1), mask.split(chunk, 1), strict=True):
        logits = forward(part, cache, kept, logits_to_keep=1)
    return logits


class PromptCache:
    """Keeps what has been read of one prompt and its reply, so that the next prompt is read only from where it differs:
    `model.stream(prompt, prompt_cache=kept)`, as `Chat` does at every turn.

    Everything is read anew where the prompts differ from their first id on; where the rings of sliding layers have
    moved on too far to go back (see `KVCache.rewind`); after an interruption in the midst of a forward pass; and once
    the model has other weights: loaded, trained, converted, moved, with an adapter or without. (Only what is written
    through `.data`, which PyTorch does not count, or done by hooks goes unnoticed.)
    spare: how many tokens can always be taken back, a slot in every sliding layer for each; at most a window of them,
    so that rings grow to no more than twice their size. Global layers can always go back.

    ids: what has been read. reused: how many ids of the last prompt were not read again.
    """

    def __init__(self, spare: int = 0):
        self.spare, self.ids, self.reused = spare, [], 0
        self.cache = self.weights = None

    def fit(self, model, prompt: list[int], max_length: int, spare: int = 0) -> tuple:
        """(cache, unread, ids): the cache holds the beginning of the prompt, and will have room for max_length tokens,
        and at least `spare`; unread, a list of one prompt, is what to read, at least the last id, whose logits are
        wanted; and what has been read must be added to ids."""
        shared = 0
        weights = [(weakref.ref(tensor.untyped_storage()), None if tensor.is_inference() else tensor._version)
                   for tensor in (*model.parameters(), *model.buffers())]
        whole = self.cache is not None and len(self.ids) == self.cache.length  # no forward pass was left half done
        if whole and weights == self.weights and self.cache.spare >= spare:
            pairs = zip(self.ids, prompt[:-1], strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            try:
                self.cache.rewind(shared)
            except ValueError:
                shared = 0
        if not shared:
            self.cache = model.new_cache(max_length, max(spare, min(self.spare, model.config.sliding_window or 0)))
        self.cache.max_length, self.weights, self.ids, self.reused = max_length, weights, prompt[:shared], shared
        return self.cache, [prompt[shared:]], self.ids


def captured(step: Callable, count: Callable) -> Callable:
    """`step` as a CUDA graph: a function whose first call runs it as it is, which compiles kernels, and records it.

    Later calls replay the record, which reads its inputs and leaves its output, tensors, where they were at first, and
    `count()` counts what a step counts on the host, where a graph does nothing.
    """
    graph = kept = output = None

    def replay(*inputs):
        nonlocal graph, kept, output
        if graph is None:
            first, kept = step(*inputs), [tensor.clone() for tensor in inputs]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = step(*kept)
            return first
        count()
        for tensor, new in zip(kept, inputs, strict=True):
            tensor.copy_(new)
        graph.replay()
        return output

    return replay


@dataclass
class Row:
    """The reply to one prompt as it grows: when it ends, and which ids stand in it whatever was drawn.

    room: how many ids it may still have. budget: how many before its thinking is closed; None: no limit.
    """

    room: int
    stop_ids: Collection[int]
    budget: int | None
    think_end_id: int | None
    close_ids: Sequence[int]
    forced: deque[int] = field(default_factory=deque)
    running: bool = True

    def take(self, drawn: int) -> int:
        """The next id: the drawn one, or one of `close_ids` where the budget is used up.

        Raises RuntimeError if the model's logits were not finite.
        """
        if drawn == NOT_FINITE:
            raise RuntimeError("the model's logits are not finite: load it with dtype=\"bfloat16\" or \"float32\", "
                               "whose range is wider than float16's; if that does not help, its weights are damaged")
        if self.budget == 0:
            self.forced, self.budget = deque(self.close_ids), None
        id = self.forced.popleft() if self.forced else drawn
        if self.budget is not None:
            self.budget = None if id == self.think_end_id else self.budget - 1
        self.room -= 1
        self.running = self.room > 0 and id not in self.stop_ids
        return id

    def follow(self, drawn: list[int], guesses: Sequence[int]) -> list[int]:
        """The next ids: what was drawn after the last one, and after each guess as long as all before it are right."""
        taken = []
        for id, guess in zip(drawn, [*guesses, None], strict=False):
            taken.append(self.take(id))
            if not self.running or taken[-1] != guess:
                break
        return taken


class Sampler:
    """Chooses the next ids of every row, [B, T], from logits [B, T, V]; `NOT_FINITE` where the largest is not finite.

    One uniform number for each row and step, made on the CPU, decides each draw: the same on every device, in every
    batch, and whether steps come one by one or are checked together.
    """

    def __init__(self, model, rows: int, steps: int, temperature, top_k, top_p, presence_penalty, seed):
        self.options, self.penalty = (temperature, top_k, top_p), presence_penalty
        seed = torch.Generator().seed() % 2**62 if seed is None else seed
        self.draws = torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed + row))
                                  for row in range(rows)]).to(model.device)
        self.step = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
        self.seen = torch.zeros(rows, model.config.vocab_size, dtype=torch.bool, device=model.device)

    def note(self, ids: Tensor, count: Tensor | int = 1):
        """Of ids [B, T] the first `count` ([B, 1] if rows differ) have been written, at least one: the presence penalty
        counts them from now on."""
        if self.penalty:
            written = torch.arange(ids.shape[1], device=ids.device) < count
            self.seen.scatter_(1, ids.where(written, ids[:, :1]), True)
        self.step += count

    def __call__(self, logits: Tensor, ids: Tensor | None = None) -> Tensor:
        """The ids [B, T] that follow what was noted; or, given ids [B, n] not noted yet, the last T of what is drawn
        before and after each of these."""
        (B, T, _), ids = logits.shape, self.step[:, :0] if ids is None else ids
        if self.penalty:
            seen = [self.seen]
            for id in ids.split(1, 1):
                seen.append(seen[-1].scatter(1, id, True))
            logits = logits - self.penalty * torch.stack(seen[-T:], 1)
        best = logits.argmax(-1, keepdim=True)  # NaN counts as the largest
        chosen = best[..., 0]
        if self.options[0]:
            step = self.step + torch.arange(ids.shape[1] + 1, device=ids.device)[-T:]
            draw = self.draws.gather(1, step.clamp(max=self.draws.shape[1] - 1))  # a row that has ended goes on
            chosen = sample(logits.flatten(0, 1), draw.flatten(), *self.options).view(B, T)
        return torch.where(logits.gather(-1, best)[..., 0].isfinite(), chosen, NOT_FINITE)


def sample(logits: Tensor, draw: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Choose one id per row of logits [B, vocab_size] with uniform numbers draw [B] in [0, 1); returns [B].

    Order as in vLLM: temperature, then the top_k likeliest, then of what they hold the fewest ids that reach top_p.
    """
    if temperature == 0:
        return logits.argmax(-1)
    # From the largest down, so that nothing overflows however small the temperature is.
    below = logits.float() - logits.float().amax(-1, keepdim=True)
    probs, ids = (below / max(temperature, torch.finfo(torch.float32).tiny)).softmax(-1), None
    if top_k or top_p < 1:
        probs, ids = probs.topk(min(top_k or math.inf, logits.shape[-1]))
        before = probs.cumsum(-1) - probs  # what the likelier ones hold
        probs = probs.masked_fill((before >= top_p * probs.sum(-1, keepdim=True)) & (before > 0), 0)
    cumulative = probs.cumsum(-1)
    limit = cumulative[:, -1:] * (1 - 2**-23)  # just below the sum, to which rounding must not lift a draw
    chosen = torch.searchsorted(cumulative, torch.minimum(draw[:, None] * cumulative[:, -1:], limit), right=True)
    chosen = chosen.clamp(max=probs.shape[-1] - 1)  # behind the end if a logit was NaN
    return (chosen if ids is None else ids.gather(1, chosen))[:, 0]
