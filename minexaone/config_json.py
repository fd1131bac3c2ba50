"""Reading a published config.json, in all the forms that it has had."""

import json
import re
import sys

from minexaone.files import CheckpointError, again, is_there, read_json, stored_dtype
from minexaone.gguf_file import gguf_config, gguf_sampling

SLIDING, GLOBAL = "sliding_attention", "full_attention"  # the published names of the two kinds of layers
DTYPES = ("float32", "bfloat16", "float16")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings")
SIZES = (*REQUIRED, "num_key_value_heads", "head_dim")
OTHERS = ("layer_types", "sliding_window", "rms_norm_eps", "tie_word_embeddings", "initializer_range", *TOKEN_IDS)
MOST_LAYERS = 1000  # a bound, so that a mistake in config.json cannot fill the memory
ONLY = {"model_type": "exaone4", "hidden_act": "silu", "attention_dropout": 0}
OTHER_MODELS = {"exaone": "EXAONE 3.5 or older", "exaone_moe": "K-EXAONE, with experts and norms before its blocks"}
NUMBER = (int, float)
SAMPLING = {  # options of `generate`: which values are good, and the same in words
    "temperature": (lambda t: type(t) in NUMBER and 0 <= t <= sys.float_info.max, "0 (greedy) or more"),
    "top_k": (lambda k: type(k) is int and k >= 0, "a whole number, 0 for all"),
    "top_p": (lambda p: type(p) in NUMBER and 0 < p <= 1, "above 0 and at most 1"),
    "presence_penalty": (lambda p: type(p) in NUMBER and -2 <= p <= 2, "between -2 and 2"),
}
ADVICE = SAMPLING | {"do_sample": (lambda value: type(value) is bool, "true or false")}  # in generation_config.json
# The keys of quantized weights, and whose they are where no quant_method stands in them. mlx writes both.
QUANTIZATION = {"quantization": "mlx", "quantization_config": "an unknown method"}


def read_config(folder):
    """The object in config.json, with the token ids of generation_config.json where that has some; or what stands for
    it in a GGUF file."""
    if folder.is_file():
        return gguf_config(folder)
    overrides = _object(folder / "generation_config.json", {})
    raw = _language_model(_object(folder / "config.json"))
    if not quantization_details(raw) and (details := _object(folder / "quantize_config.json", {})):
        raw["quantization_config"] = {"quant_method": "gptq"} | details  # older files of AutoGPTQ have it there alone
    # Both at once come from a transformers before 4.56, which writes torch_dtype and keeps a dtype that it cannot read.
    given = {str(raw[key]).removeprefix("torch.") for key in ("torch_dtype", "dtype") if raw.get(key) is not None}
    if len(given) > 1 and (stored := stored_dtype(folder)):
        raw["torch_dtype"] = stored
    return raw | {key: overrides[key] for key in TOKEN_IDS if overrides.get(key) is not None}


def _language_model(raw):
    """A config.json as it is; of EXAONE 4.5, which sees images too, the part of its language model, as one of 4.0."""
    if raw.get("model_type") != "exaone4_5":
        return raw
    text = raw.get("text_config")
    kind = text.get("model_type") if isinstance(text, dict) else None
    if kind not in ("exaone4", "exaone4_5_text"):
        raise CheckpointError(f"config.json: model_type in text_config is {kind!r:.80}, expected 'exaone4' in a model "
                              "of type exaone4_5: download it again")
    if quantized := quantization(raw):
        raise CheckpointError(f"config.json: an EXAONE 4.5 model with quantized weights ({quantized}) cannot be "
                              "loaded: choose one that is not quantized")
    outer = ("architectures", "dtype", "torch_dtype", "tie_word_embeddings")  # of the whole model
    return text | {key: raw[key] for key in outer if key in raw} | {"model_type": "exaone4"}


def _object(path, default=None):
    """The object in a JSON file; default, if given, is for a file that is not there."""
    value = default if default is not None and not is_there(path) else read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object: {again(path)}")
    return value


def read_sampling(folder):
    """What generation_config.json says about sampling (`ADVICE`), unchecked; {} if nothing."""
    raw = gguf_sampling(folder) if folder.is_file() else _object(folder / "generation_config.json", {})
    return {key: raw[key] for key in ADVICE if raw.get(key) is not None}


def sampling_advice(folder, reasoning):
    """The options of `generate` that a checkpoint advises in generation_config.json; {} is greedy.

    The published models advise nothing there: then it is their model card's word, greedy answers, and for reasoning
    temperature 0.6 and top_p 0.95, since greedy reasoning falls into repeating itself.
    `CheckpointError` names a value that is none.
    """
    advice = read_sampling(folder)
    for key, value in advice.items():
        good, expected = ADVICE[key]
        if not good(value):
            raise CheckpointError(f"{folder / 'generation_config.json'}: {key} is {value!r:.80}, expected {expected}")
    if advice.keys() <= {"presence_penalty"}:
        return ({"temperature": 0.6, "top_p": 0.95} if reasoning else {}) | advice
    if advice.pop("do_sample", True):  # numbers to sample with mean that one should
        return {"temperature": 1.0} | advice
    return {key: value for key, value in advice.items() if key == "presence_penalty"}


def config_values(raw):
    """Arguments for `Config` from a config.json in its older form (`rope_theta` and `rope_scaling` at the top level,
    `torch_dtype`) or its newer one (`rope_parameters`, `dtype`). Raises `CheckpointError` naming the key."""
    for key, only in ONLY.items():
        if raw.get(key, None if key == "model_type" else only) != only:
            name = OTHER_MODELS.get(raw.get(key)) if isinstance(raw.get(key), str) else None
            raise CheckpointError(f"{key} is {raw.get(key)!r:.80}{f' ({name})' * bool(name)}, but only {only!r} can be "
                                  "loaded: choose an EXAONE 4.0 checkpoint")
    values = {key: raw[key] for key in (*SIZES, *OTHERS) if key in raw}
    try:
        values |= {key: raw[key] for key in (*REQUIRED, "sliding_window")}
        if raw.get("num_key_value_heads") is None:
            values["num_key_value_heads"] = raw["num_attention_heads"]
        if raw.get("head_dim") is None:
            values["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
        if raw.get("layer_types") is None:  # where given, it is the truth and the pattern is not asked
            values["layer_types"] = _layer_types(raw)
        values["rope_theta"], values["rope_scaling"] = _rope(raw)
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]} is missing: download it again") from None
    except (TypeError, ArithmeticError) as error:
        raise CheckpointError(f"a size, rope_parameters or rope_scaling is not of the published kind ({error}): "
                              "download it again") from None
    given = [raw[key] for key in ("torch_dtype", "dtype") if raw.get(key) is not None]
    values["dtype"] = given[0] if given else "float32"
    if isinstance(values["dtype"], str):
        values["dtype"] = values["dtype"].removeprefix("torch.")
    return values


def quantization_details(raw):
    """What a config.json says of quantized weights, with a quant_method in any case; {} if nothing."""
    for key, method in QUANTIZATION.items():
        if details := raw.get(key):
            details = details if isinstance(details, dict) else {}
            return details | {"quant_method": str(details.get("quant_method") or method)}
    return {}


def quantization(raw):
    """How the weights of a config.json are quantized, in words such as "gptq, 4 bits"; None if they are not."""
    details = quantization_details(raw)
    bits = " and ".join(map(str, quantized_bits(details)))
    return details["quant_method"][:40] + (f", {bits} bits" if bits else "") if details else None


def quantized_bits(details):
    """The numbers of bits in the details, sorted: some methods say it once, some for each group of layers."""
    text = json.dumps(details)
    bits = re.findall(r'(?:bits|w_bit)": (\d\d?)\b', text) + re.findall(r'load_in_(\d)bit": true', text)
    return sorted({*map(int, bits)} | ({8} if "fp8" in details.get("quant_method", "") else set()))


def quantized_groups(details):
    """The sizes of groups that stand in the details, sorted; none if each row is one group."""
    return sorted({int(size) for size in re.findall(r'group_size": (\d{1,6})\b', json.dumps(details))})


def _rope(raw):
    """theta and scaling (None or a dict with a rope_type) of the older or the newer form, which must not differ."""
    forms = {}
    for key in ("rope_parameters", "rope_scaling"):
        if raw.get(key):
            form = forms[key] = {**raw[key]}
            numbers = [number for number in LLAMA3 if number in form]
            if numbers and not {"rope_type", "type"} & form.keys():
                raise CheckpointError(f"{key} has {', '.join(numbers)}, but no rope_type: add llama3, or remove them")
            form.setdefault("rope_type", form.pop("type", "default"))
    if raw.get("rope_theta") is not None:
        forms["rope_theta"] = {"rope_theta": raw["rope_theta"]}
    thetas = {key: form.pop("rope_theta") for key, form in forms.items() if "rope_theta" in form}
    scalings = {key: form for key, form in forms.items() if form}
    for found in (thetas, scalings):
        values = list(found.values())
        if any(value != values[0] for value in values):
            shown = " and ".join(f"{key}: {value!r:.80}" for key, value in found.items())
            raise CheckpointError(f"two keys contradict each other, {shown}: remove the wrong one")
    scaling = next(iter(scalings.values()), {"rope_type": "default"})
    theta = next(iter(thetas.values())) if thetas else raw["rope_theta"]
    return theta, None if scaling["rope_type"] == "default" else scaling


def _layer_types(raw):
    """sliding_window_pattern spelled out: an integer n makes every n-th layer global, a string such as LLLG repeats."""
    pattern = raw.get("sliding_window_pattern") if raw["sliding_window"] is not None else "G"
    if type(pattern) is int and 0 < pattern <= MOST_LAYERS:
        pattern = "L" * (pattern - 1) + "G"
    if not isinstance(pattern, str) or not pattern or set(pattern) - set("LG"):
        raise CheckpointError(f"sliding_window_pattern is {pattern!r:.80}, expected a positive integer or a "
                              "string of L and G: correct it or add layer_types")
    return layer_types(pattern, min(raw["num_hidden_layers"], MOST_LAYERS))


def pattern_of(kinds):
    """The shortest pattern from which `layer_types` makes these kinds of layers: LLLG for the published 32B."""
    letters = "".join("G" if kind == GLOBAL else "L" for kind in kinds)
    return next(letters[:n] for n in range(1, len(letters) + 1) if layer_types(letters[:n], len(kinds)) == list(kinds))


def layer_types(pattern, layers):
    """The published names of so many layers' kinds; pattern: of sliding (L) and global (G) ones, repeated."""
    return [{"L": SLIDING, "G": GLOBAL}[pattern[i % len(pattern)]] for i in range(layers)]
