"""A cache that outlives the call: what comes out is as if everything had been read anew, and little is read."""

import copy
import random

import pytest
import torch

from minexaone import Chat, Exaone4, Tokenizer, speed_up
from minexaone.config_json import GLOBAL, SLIDING
from minexaone.generation import PromptCache
from minexaone.linear.lora import add_lora, merge_lora
from minexaone.linear.rounding import quantize
from minexaone.model import Config, KVCache

W = 8
HYBRID = Config(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=6,
                num_key_value_heads=2, head_dim=16, layer_types=[SLIDING, SLIDING, SLIDING, GLOBAL], sliding_window=W,
                eos_token_id=2)


def hybrid(dtype=torch.float64):
    """A model whose best ids stand out: in float64 another order of additions changes none."""
    torch.manual_seed(0)
    model = Exaone4(HYBRID).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model


def some_ids(count, seed):
    return torch.randint(3, 300, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture
def read():
    """A function that notes how many tokens a model reads in each forward pass, in the list that it returns."""
    hooks = []

    def of(model):
        found = []
        hooks.append(model.embed_tokens.register_forward_pre_hook(lambda module, ids: found.append(ids[0].numel())))
        return found

    yield of
    for hook in hooks:
        hook.remove()


# --- streams --------------------------------------------------------------------------------------------------------

def test_only_what_is_new_is_read(read):
    model, kept = hybrid(), PromptCache()
    first, question = some_ids(50, 1), some_ids(5, 2)
    tokens = read(model)
    reply = model.generate(first, max_new_tokens=30, stop_ids=[], prompt_cache=kept)
    assert tokens == [50] + [1] * 29 and kept.ids == first + reply[:-1] and kept.reused == 0
    tokens.clear()
    found = model.generate(first + reply + question, max_new_tokens=4, stop_ids=[], prompt_cache=kept)
    assert tokens == [6, 1, 1, 1] and kept.reused == 79  # the last id of the reply had not been read
    tokens.clear()
    again = model.generate([first + reply + question], max_new_tokens=4, stop_ids=[], prompt_cache=kept)  # as rows
    assert tokens == [85, 1, 1, 1] and kept.reused == 0  # without spare slots a ring goes back by one token
    assert again == [found] == [model.generate(first + reply + question, max_new_tokens=4, stop_ids=[])]


def test_the_last_id_of_a_prompt_is_always_read(read):
    model, kept, prompt = hybrid(), PromptCache(4), some_ids(30, 1)
    tokens = read(model)
    replies = [model.generate(prompt, max_new_tokens=3, stop_ids=[], prompt_cache=kept) for _ in range(3)]
    assert replies[0] == replies[1] == replies[2] and tokens == [30, 1, 1] + [1, 1, 1] * 2
    assert model.generate(prompt[:1], max_new_tokens=3, prompt_cache=kept) == model.generate(prompt[:1],
                                                                                            max_new_tokens=3)


@pytest.mark.parametrize(("spare", "cost"), [(0, 0), (6, 6), (W, W), (10**9, W)])
def test_spare_slots_are_at_most_a_window(read, spare, cost):
    model, kept, prompt = hybrid(), PromptCache(spare), some_ids(5 * W, 1)
    model.generate(prompt, max_new_tokens=cost + 1, stop_ids=[], prompt_cache=kept)  # of these all but the last is read
    assert [keys.shape[2] for keys in kept.cache.keys[:3]] == [W + cost] * 3
    tokens = read(model)
    model.generate(prompt[:-1] + [3, 4, 5], max_new_tokens=cost + 1, stop_ids=[], prompt_cache=kept)
    assert tokens[0] == 3 and kept.reused == 5 * W - 1
    model.generate(prompt[:-3] + [3], max_new_tokens=1, prompt_cache=kept)
    assert kept.reused == 0


def test_whatever_happens_in_between_the_ids_are_those_of_a_model_that_reads_anew(read):
    """Long and short prompts that share a beginning or none, sampled or not, streams left open, closed or cut off by an
    error in any layer."""
    model, reference, kept, draw = hybrid(), hybrid(), PromptCache(6), random.Random(0)
    text, tokens, counts = some_ids(40, 1), read(model), {"kept": 0, "anew": 0, "cut": 0}
    for n in range(150):
        new = some_ids(draw.randint(1, 6), 100 + n)
        text = text[:max(0, len(text) - draw.choice([0, 0, 1, 3, 6, 40]))] + new if len(text) < 120 else new
        options = {"max_new_tokens": draw.randint(1, 9), "seed": n, "temperature": draw.choice([0, 1.0])}
        expected = reference.generate(text, **options)
        tokens.clear()
        stream, event = model.stream(text, prompt_cache=kept, **options), draw.choice(["whole"] * 2 + ["left", "cut"])
        if event == "cut":
            forward, after = draw.choice(model.layers).mlp, draw.randint(0, 3)

            def fails(*_):
                nonlocal after  # noqa: B023
                after -= 1
                if after < 0:
                    raise KeyboardInterrupt

            hook = forward.register_forward_pre_hook(fails)
            found = []
            try:
                found += stream
            except KeyboardInterrupt:
                counts["cut"] += 1
            hook.remove()
        else:
            found = [id for id, _ in zip(stream, range(len(expected) if event == "whole" else 2), strict=False)]
            stream.close() if draw.random() < 0.5 else None
        assert found == expected[:len(found)] and (event != "whole" or found == expected)
        assert kept.reused + tokens[0] == len(text)
        counts["kept" if kept.reused else "anew"] += 1
        text = text + found
        if event != "cut":
            assert len(kept.ids) == kept.cache.length and kept.ids == text[:len(kept.ids)]
    assert min(counts.values()) > 15, counts


def test_an_interrupted_reading_is_read_anew():
    model, kept, prompt = hybrid(), PromptCache(6), some_ids(30, 1)
    expected = model.generate(prompt, max_new_tokens=5, stop_ids=[])
    steps = model.stream(prompt, max_new_tokens=5, stop_ids=[], prompt_cache=kept)
    assert [next(steps), next(steps)] == expected[:2]

    def fails(*_):
        raise KeyboardInterrupt

    hook = model.layers[2].register_forward_pre_hook(fails)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    hook.remove()
    assert model.generate(prompt, max_new_tokens=5, stop_ids=[], prompt_cache=kept) == expected and kept.reused == 0
    assert model.generate(prompt, max_new_tokens=5, stop_ids=[], prompt_cache=kept) == expected and kept.reused == 29


def train(model):
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    model(torch.tensor([some_ids(20, 5)])).logsumexp(-1).mean().backward()
    optimizer.step()
    return model.requires_grad_(False)


def write_one_number(model):
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[0, 0] += 1


def there_and_back(model):  # rounded, and often to the same addresses
    model.bfloat16().float()


def with_an_adapter(model):
    add_lora(model, 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.endswith(".B"):
                parameter.normal_()


@pytest.mark.parametrize("change", [
    train, write_one_number, there_and_back, with_an_adapter, Exaone4.bfloat16,
    lambda model: quantize(model, 8), lambda model: merge_lora(add_lora(model, 2)),
    lambda model: model.load_state_dict({key: 1.5 * value for key, value in model.state_dict().items()})],
    ids=["trained", "one number", "rounded", "adapter", "bfloat16", "quantized", "merged", "loaded"])
def test_other_weights_read_everything_anew(read, change):
    model, kept, prompt = hybrid(torch.float32), PromptCache(6), some_ids(30, 1)
    model.generate(prompt, max_new_tokens=5, prompt_cache=kept)
    model.generate(prompt, max_new_tokens=5, prompt_cache=kept)
    assert kept.reused == 29
    change(model)
    found = model.generate(prompt + [4], max_new_tokens=5, prompt_cache=kept)
    assert kept.reused == 0 and found == model.generate(prompt + [4], max_new_tokens=5)
    other = hybrid(torch.float32)
    model.generate(prompt, max_new_tokens=2, prompt_cache=kept)
    other.generate(prompt, max_new_tokens=2, prompt_cache=kept)  # another model
    assert kept.reused == 0


def test_the_fast_path_and_the_clear_one_go_on_with_the_same_cache(monkeypatch):
    model, kept, text = speed_up(hybrid(torch.float32)), PromptCache(W), some_ids(40, 1)
    fast, reference, tokens, extend = model.fast, copy.deepcopy(model), [], KVCache.extend
    monkeypatch.setattr(KVCache, "extend", lambda cache, T, *args: (  # a fast path would refuse a model with hooks
        tokens.append(T) if cache is kept.cache else None, extend(cache, T, *args))[1])
    for n in range(6):
        model.fast = None if n % 2 else fast
        options = {"max_new_tokens": 5, "stop_ids": [], "prompt_cache": kept}
        found = model.generate(text, **options)
        assert found == reference.generate(text, max_new_tokens=5, stop_ids=[])
        assert kept.reused + tokens[0] == len(text) and (n == 0) == (kept.reused == 0)
        text = text + found[:3] + some_ids(1 + n % 2, n)  # at times one token alone is new
        tokens.clear()


def test_two_streams_with_one_cache_are_refused():
    model, kept, prompt = hybrid(), PromptCache(6), some_ids(30, 1)
    first = model.stream(prompt, stop_ids=[], prompt_cache=kept)
    next(first)
    second = model.stream(prompt + [5], max_new_tokens=6, stop_ids=[], prompt_cache=kept)
    found = [next(second)]
    with pytest.raises(RuntimeError, match="another stream has taken over the prompt cache"):
        next(first)
    assert found + list(second) == model.generate(prompt + [5], max_new_tokens=6, stop_ids=[])


def test_a_batch_with_a_prompt_cache_is_refused():
    model = hybrid()
    for prompts in ([[3], [4]], [[3, 4], [3, 4]]):
        with pytest.raises(ValueError, match="prompt_cache is .*, expected a PromptCache and a single prompt"):
            model.generate(prompts, prompt_cache=PromptCache())


# --- conversations --------------------------------------------------------------------------------------------------

class Anew:
    """The same model, of which a chat knows no more than that it streams: it reads everything anew."""

    def __init__(self, model):
        self.model, self.config, self.prompts = model, model.config, []

    def stream(self, prompt, **options):
        self.prompts.append(prompt)
        return self.model.stream(prompt, **options)


@pytest.fixture(scope="module")
def shipped():
    return Exaone4.from_pretrained(dtype="float32", device="cpu"), Tokenizer.from_pretrained()


@pytest.fixture
def both(shipped, read):
    """A function that makes a chat beside one that reads all anew, and one that gives both the same turn.

    The second returns the tokens read for each round's prompt, and how many these prompts have.
    """
    model, tokenizer = shipped
    tokens = read(model)

    def make(**options):
        return Chat(model, tokenizer, **options), Chat(Anew(model), tokenizer, **options)

    def turn(chats, text):
        chat, reference = chats
        reference.model.prompts.clear()
        expected = reference.send(text)
        tokens.clear()
        assert chat.send(text) == expected and chat.messages == reference.messages
        prompts = reference.model.prompts
        found = [n for n in tokens if n > 1]
        assert len(found) == len(prompts)
        assert found[-1] + chat.prompt_cache.reused == len(prompts[-1])
        return found, [len(prompt) for prompt in prompts]

    return make, turn


LONG = [{"role": role, "content": content} for n in range(24) for role, content in (
    ("user", f"What is {n} + {n + 3}?"), ("assistant", f"{n} + {n + 3} = {2 * n + 3}"))]
TURNS = ["Hello", "What is 12 + 30?", "Which one is bigger, 3.12 vs 3.9?", "¿Cuánto es 3 + 4?", "너는 누구니?",
         "Thank you"]


@pytest.mark.parametrize("reasoning", [False, True])
def test_every_turn_reads_what_is_new_far_beyond_the_window(both, shipped, reasoning):
    make, turn = both
    chats = make(reasoning=reasoning, reasoning_budget=80 if reasoning else None)  # of 128 that can be taken back
    before, replied = None, 0
    for chat in chats:  # a history of four windows
        chat.messages += LONG
    for text in TURNS:
        (found,), (length,) = turn(chats, text)
        if before is not None:  # all of the last prompt was kept, and its reply unless it thought before
            assert found <= length - before and (reasoning or found <= length - before - replied)
        before, replied = length, len(shipped[1].encode(chats[0].reply.content))
    assert length > 4 * shipped[0].config.sliding_window
    assert chats[0].prompt_cache.reused > 0.9 * length


def test_a_longer_thought_than_the_spare_slots_is_read_anew(both, shipped):
    make, turn = both
    chats = make(reasoning=True, max_new_tokens=20)  # so many tokens it can take back
    turn(chats, "Explain how wonderful you are")
    assert turn(chats, TURNS[1])[0][0] < 45
    for chat in chats:
        chat.options["max_new_tokens"] = 100
    for text in TURNS[:4]:
        found, lengths = turn(chats, text)
    assert found == lengths


def add(a: int, b: int):
    """Add two numbers.

    Args:
        a: The first number
        b: The second number
    """
    return a + b


def test_every_round_of_a_tool_loop_reads_what_is_new(both, shipped):
    def get_weather(city: str):
        """Get the weather of a city.

        Args:
            city: The city
        """
        raise RuntimeError("no network")

    make, turn = both
    for reasoning in (False, True):
        chats, rounds = make(tools=[add, get_weather], reasoning=reasoning), []
        for text in ("Add 12 and 30 with the tool.", "What is the weather in Seoul?"):
            found, lengths = turn(chats, text)
            rounds.append(len(found))
            last = [0, *lengths]
            for n in range(1, len(found)):  # the call itself and its result
                assert found[n] <= lengths[n] - last[n] and found[n] < 0.3 * lengths[n]
        assert max(rounds) > 1 and any(call.error for call in chats[0].reply.tool_calls), rounds


def test_a_history_that_is_cleared_shortened_or_edited(both, shipped):
    make, turn = both
    chats = make(system="Be brief.", drop_oldest=True, max_new_tokens=100)
    for chat in chats:
        chat.messages += LONG[:24]
    for text in TURNS[:4]:
        turn(chats, text)
    for chat in chats:
        chat.messages[-1]["content"] = "Seven."  # as if it had said that
    found, lengths = turn(chats, "Are you sure?")
    assert found[0] < 40 < lengths[0]
    for chat in chats:
        chat.messages[2]["content"] = "Good evening!"  # near the beginning: its rings are beyond that
    assert turn(chats, "Who are you?")[0][0] == len(chats[1].model.prompts[0])
    for chat in chats:  # more than the context holds: the oldest turns leave, so that prompts differ from there on
        chat.messages[1:] = [message | {"content": message["content"] * 6} for message in LONG]
    found, lengths = turn(chats, TURNS[0])
    assert found == lengths and lengths[0] > 3000
    assert turn(chats, TURNS[1])[0][0] < 50  # now there is room
    for chat in chats:
        chat.clear()
    for text in TURNS[:2]:
        found, lengths = turn(chats, text)
    assert found[0] < lengths[0]


def test_a_turn_that_is_left_or_fails_is_taken_back(both, shipped):
    make, turn = both
    chats = make()
    for text in TURNS[:6]:
        turn(chats, text)
    stream = chats[0].stream("Tell me a story about a fox.")
    for _ in range(5):
        next(stream)
    stream.close()
    found, lengths = turn(chats, TURNS[1])
    assert found[0] < 0.2 * lengths[0]  # the turn that was left is taken back, not the history

    def fails(*_):
        raise RuntimeError("out of memory")

    hook = shipped[0].layers[5].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        chats[0].send("Hello")
    hook.remove()
    found, lengths = turn(chats, TURNS[2])
    assert found == lengths  # anew, since nobody knows what the layers hold
    assert turn(chats, TURNS[3])[0][0] < 50


def test_a_seed_draws_the_same_replies(both):
    make, turn = both
    chats = make(seed=3, temperature=1.0, top_p=0.9, presence_penalty=0.5, max_new_tokens=40)
    for text in TURNS[:6]:
        turn(chats, text)
    assert chats[0].prompt_cache.reused > 100
