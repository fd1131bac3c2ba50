"""EXAONE 4.5's language model is one of EXAONE 4.0 and loads as such; K-EXAONE and older models are refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Exaone4_5_Config,
    Exaone4_5_ForConditionalGeneration,
    ExaoneMoeConfig,
    ExaoneMoeForCausalLM,
)

from minexaone.files import CheckpointError
from minexaone.model import Exaone4

LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 1e6}
TEXT = {"model_type": "exaone4", "vocab_size": 96, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 8,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
        "sliding_window": 8, "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 2,
        "rope_parameters": LLAMA3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "num_key_value_heads": 2,
          "out_hidden_size": 24, "patch_size": 4, "fullatt_block_indexes": [1]}
IDS = torch.randint(3, 66, (2, 70), generator=torch.Generator().manual_seed(0))  # from 67 on: images


def written(folder, dtype=torch.float32, tied=False):
    """A folder as transformers writes it, with a draft layer besides, and its logits."""
    torch.manual_seed(0)
    config = Exaone4_5_Config(text_config=TEXT | {"tie_word_embeddings": tied}, vision_config=VISION,
                              tie_word_embeddings=tied)
    model = Exaone4_5_ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    model.to(dtype).save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(load_file(weights) | {"mtp.layers.0.norm.weight": torch.ones(24)}, weights, {"format": "pt"})
    model = Exaone4_5_ForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return model(IDS).logits


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(("dtype", "tied", "kind", "tolerance"), [
    (torch.float32, False, "exaone4", 1e-4), (torch.float32, True, "exaone4_5_text", 1e-4),
    (torch.bfloat16, False, "exaone4_5_text", 3e-2)])
def test_the_language_model_of_4_5_has_the_logits_of_transformers(tmp_path, dtype, tied, kind, tolerance):
    expected = written(tmp_path, dtype, tied)
    text = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["text_config"]
    change(tmp_path, text_config=text | {"model_type": kind})  # the name of the first release
    with pytest.warns(UserWarning, match=r"only the language model is loaded; left out are model.visual.\* "
                                         r"\(\d+ tensors\) and mtp.\* \(1 tensors\)$"):
        model = Exaone4.from_pretrained(tmp_path, device="cpu")
    assert model.embed_tokens.weight.dtype == dtype and (model.lm_head is None) == tied
    with torch.inference_mode():
        assert (model(IDS) - expected).float().abs().max() < tolerance * expected.float().std()
    model.save_pretrained(tmp_path / "text")  # without a warning: it is a model of EXAONE 4.0
    with torch.inference_mode():
        assert torch.equal(Exaone4.from_pretrained(tmp_path / "text", device="cpu")(IDS), model(IDS))
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=dtype)
        assert (theirs(IDS).logits - expected).float().abs().max() < tolerance * expected.float().std()


@pytest.mark.filterwarnings("ignore:.*only the language model is loaded")
@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: change(folder, text_config={"model_type": "llama"}), ["text_config", "'llama'", "'exaone4'"]),
    (lambda folder: change(folder, text_config=None), ["text_config", "None"]),
    (lambda folder: change(folder, quantization_config={"quant_method": "gptq", "bits": 4}), ["4.5", "gptq, 4 bits"]),
    (lambda folder: rename(folder, "model.language_model.layers.3.mlp.up_proj.weight", None), ["missing", "layers.3."]),
    (lambda folder: rename(folder, "model.language_model.norm.weight", "model.audio.norm.weight"),
     ["missing model.norm.weight", "not in the model: model.audio.norm.weight"]),
])
def test_a_4_5_folder_that_does_not_fit_is_refused(tmp_path, spoil, words):
    written(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError) as error:
        Exaone4.from_pretrained(tmp_path, device="cpu")
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def rename(folder, name, new):
    weights = load_file(folder / "model.safetensors")
    tensor = weights.pop(name)
    save_file(weights | ({new: tensor} if new else {}), folder / "model.safetensors", {"format": "pt"})


def test_nothing_is_left_out_of_a_checkpoint_of_4_0(tmp_path):
    model = Exaone4.from_pretrained(device="cpu")
    model.save_pretrained(tmp_path)
    rename(tmp_path, "model.norm.weight", "model.visual.norm.weight")
    with pytest.raises(CheckpointError, match=r"not in the model: model.visual.norm.weight"):
        Exaone4.from_pretrained(tmp_path, device="cpu")


def test_k_exaone_and_older_models_are_refused_by_name(tmp_path):
    config = ExaoneMoeConfig(vocab_size=96, hidden_size=24, intermediate_size=40, num_hidden_layers=4,
                             num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4,
                             num_experts_per_tok=2, moe_intermediate_size=16, rope_parameters={
                                 "rope_type": "default", "rope_theta": 1e6})
    ExaoneMoeForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"^config.json: model_type is 'exaone_moe' \(K-EXAONE, .*\), but "):
        Exaone4.from_pretrained(tmp_path)
    change(tmp_path, model_type="exaone")
    with pytest.raises(CheckpointError, match=r"'exaone' \(EXAONE 3.5 or older\), but only 'exaone4' can be loaded"):
        Exaone4.from_pretrained(tmp_path)
    change(tmp_path, model_type=["exaone_moe"])
    with pytest.raises(CheckpointError, match=r"model_type is \['exaone_moe'\], but only"):
        Exaone4.from_pretrained(tmp_path)
