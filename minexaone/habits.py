"""The options of `generate` by transformers' names: what means the same is taken, for the rest an error says what to
write instead."""

import functools
from collections.abc import Callable

INSTEAD = {  # options of transformers that have no like here
    "max_length": "write max_new_tokens, which counts the new ids alone",
    "num_beams": "leave it out: one id is drawn after the other, the likeliest with temperature=0",
    "num_return_sequences": "give the prompt so often, as a list of prompts; each row draws its own numbers",
    "repetition_penalty": "write presence_penalty, which is subtracted from logits: 0 does nothing",
    "pad_token_id": "leave it out: prompts of unequal lengths need no padding",
    "use_cache": "leave it out: there always is a cache",
    "return_dict_in_generate": "leave it out: for logits, call the model itself",
    "output_scores": "leave it out: for logits, call the model itself",
    "generation_config": "give its options by their names; sampling_advice of minexaone.config_json reads such a file",
    "streamer": "read model.stream(...) in a loop, and give its ids to tokenizer.stream_decoder()",
    "assistant_model": "write draft=DraftModel(model), of minexaone.speculation",
    "prompt_lookup_num_tokens": "write draft=PromptLookup(number), of minexaone.speculation",
    "max_matching_ngram_size": "write draft=PromptLookup(number, max_ngram), of minexaone.speculation",
    "num_assistant_tokens": "write draft=DraftModel(model, number), of minexaone.speculation",
    "stop_strings": "read model.stream(...) in a loop, and leave it",
    "stopping_criteria": "read model.stream(...) in a loop, and leave it",
}


def in_our_words(options: dict) -> dict:
    """Options of `generate` with transformers' names put into ours: input_ids and attention_mask are the prompts,
    eos_token_id is stop_ids, do_sample=False is temperature=0.

    Raises TypeError for one that has no like here, or where both names are given; ValueError for do_sample=True without
    a temperature.
    """
    options = dict(options)
    for name in options.keys() & INSTEAD.keys():
        raise TypeError(f"{name} is an option of transformers, not of minexaone: {INSTEAD[name]}")
    for theirs, ours in (("input_ids", "prompts"), ("eos_token_id", "stop_ids")):
        if theirs in options:
            if options.get(ours) is not None:
                raise TypeError(f"{theirs} and {ours} are two names of one option: give one of them")
            options[ours] = options.pop(theirs)
            if theirs == "eos_token_id" and type(options[ours]) is int:
                options[ours] = [options[ours]]
    if (mask := options.pop("attention_mask", None)) is not None:
        options["prompts"] = {"input_ids": options.get("prompts"), "attention_mask": mask}
    sampled = options.pop("do_sample", None)
    if sampled is not None and type(sampled) is not bool:
        raise ValueError(f"do_sample is {sampled!r:.80}, expected True or False")
    if sampled and not options.get("temperature"):
        raise ValueError("do_sample=True needs a temperature, which is 0 here if none is given: write temperature=1.0, "
                         "and top_k=50, which transformers adds by itself")
    return options | ({"temperature": 0.0} if sampled is False else {})


def with_their_names(function: Callable) -> Callable:
    """A `generate` or `stream` that takes its options by transformers' names too, see `in_our_words`."""
    @functools.wraps(function)
    def call(model, prompts=None, **options):
        return function(model, **in_our_words({"prompts": prompts} | options))

    return call
