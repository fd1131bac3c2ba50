"""Drafts for speculative decoding: guesses of the next ids, which the model checks in one pass.

A pass that checks k guesses reads the weights once, as a step for one id does. Every id is drawn from the model's own
logits with the number that was meant for it (see `Sampler`); a guess is right if it is that id. So a draft changes how
many passes a reply takes, and never the reply.

A draft has `num_tokens`, how many ids it guesses at most, and `begin(model, texts, longest, choose)`, which returns a
function: called before each pass, it gives a list of guesses for each row. texts: for each row the ids of its prompt
and its reply, which grow; longest: the most tokens that will be in a cache; choose: the `Sampler` of the generation.
"""

from functools import partial

import torch

from minexaone.generation import captured, prefill
from minexaone.threads import threads_for


class PromptLookup:
    """Guesses that a text goes on as it did before, after its last ids: for answers that repeat their question.

    Of the places where the last `max_ngram` ids, or else fewer, stood before, the latest counts.
    """

    def __init__(self, num_tokens: int = 4, max_ngram: int = 3):
        self.num_tokens, self.max_ngram = checked("num_tokens", num_tokens), checked("max_ngram", max_ngram)

    def begin(self, model, texts, longest, choose):
        """See the top of this file."""
        places = [{} for _ in texts]  # where a text went on after these ids; the end of a text is no such place yet
        ends = [1] * len(texts)

        def propose():
            for row, text in enumerate(texts):
                for at in range(ends[row], len(text)):
                    places[row] |= {tuple(text[at - n:at]): at for n in range(1, min(self.max_ngram, at) + 1)}
                ends[row] = len(text)
            return [self.guess(*both) for both in zip(texts, places, strict=True)]

        return propose

    def guess(self, text: list[int], places: dict) -> list[int]:
        """What followed the last ids of a text where they stood before; nothing if they are new."""
        found = (places.get(tuple(text[-n:])) for n in range(min(self.max_ngram, len(text)), 0, -1))
        at = next((at for at in found if at), len(text))
        return (text[at:at + self.num_tokens] * self.num_tokens)[:self.num_tokens]  # a short one is repeated


class DraftModel:
    """Guesses what a smaller model with the same vocabulary draws: with the same numbers, so that it agrees often."""

    def __init__(self, model, num_tokens: int = 4):
        self.model, self.num_tokens = model, checked("num_tokens", num_tokens)

    def begin(self, model, texts, longest, choose):
        """See the top of this file. Raises ValueError if the two models do not go together."""
        small, k, device = self.model, self.num_tokens, model.device
        sizes = [m.config.vocab_size for m in (small, model)]
        if sizes[0] != sizes[1] or small.device != device:
            raise ValueError(f"the draft model has a vocabulary of {sizes[0]:,} on {small.device}, the model one of "
                             f"{sizes[1]:,} on {device}: both must be the same")
        forward = small.fast.renewed() if small.fast else small
        cache = small.new_cache(longest + k, 2 * k)
        ids = torch.zeros(len(texts), 1, dtype=torch.long, device=device)
        logits, read = None, []  # of the newest ids; how many ids of each text had been read before the last guesses

        def step():
            logits.copy_(forward(ids, cache))

        if small.fast and forward.count:
            step = captured(step, partial(forward.count, cache, len(texts)))

        def feed(column):
            ids.copy_(column)
            step()

        def propose():
            nonlocal logits, read
            if max(map(len, texts)) + k > small.config.max_position_embeddings:
                return [[] for _ in texts]
            with threads_for(small, len(texts) if read else sum(map(len, texts))):
                if not read:
                    logits = prefill(forward, texts, cache, device).clone()
                else:  # all guesses but the last have been read: one id is new in each row, or two where all were right
                    behind = max(1 + (len(text) - n > k) for text, n in zip(texts, read, strict=True))
                    lengths = [[len(text) - behind] for text in texts]
                    cache.rewind(torch.tensor(lengths, device=device) if len(texts) > 1 else lengths[0][0])
                    for n in range(behind, 0, -1):
                        feed(torch.tensor([[text[-n]] for text in texts], device=device))
                read = [len(text) for text in texts]
                guessed = torch.tensor([[text[-1]] for text in texts], device=device)
                while True:
                    drawn = choose(logits, guessed).clamp(min=0)  # NOT_FINITE is a wrong guess, too
                    guessed = torch.cat((guessed, drawn), 1)
                    if guessed.shape[1] > k:
                        return guessed[:, 1:].tolist()
                    feed(drawn)

        return propose


def checked(name: str, value) -> int:
    """A number of ids; ValueError, naming the option, if it is none."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r:.80}, expected a whole number from 1")
    return value
