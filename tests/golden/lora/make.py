"""How the files beside this one were made, by hand, with peft 0.21.2 and transformers 5.23.0: python make.py

`base` is a random model, `NAME` an adapter of it with random A and B as PEFT saves it, `expected.safetensors` the
logits of all of them in float32 and, for one, the gradients of A and B.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import Exaone4Config, Exaone4ForCausalLM

HERE = Path(__file__).parent
ADAPTERS = {
    "plain": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "rslora": LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True, lora_dropout=0.1),
    "patterns": LoraConfig(r=4, lora_alpha=8, target_modules=r"model\.layers\.[02].*\.(k_proj|down_proj)",
                           rank_pattern={"layers.0.self_attn.k_proj": 2, "down_proj": 5},
                           alpha_pattern={"layers.2.mlp.down_proj": 3, "mlp.down_proj": 20}),
    "layers": LoraConfig(r=2, target_modules=["o_proj", "gate_proj"], layers_to_transform=[1, 3], bias="all"),
}


def base():
    """The model of `HERE / "base"`."""
    return Exaone4ForCausalLM.from_pretrained(HERE / "base", dtype=torch.float32).eval()


torch.manual_seed(0)
model = Exaone4ForCausalLM(Exaone4Config(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, sliding_window=8, sliding_window_pattern=4, max_position_embeddings=64,
    tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0))
with torch.no_grad():
    for name, parameter in model.named_parameters():
        parameter.normal_(0.0, 0.2).add_(name.endswith("norm.weight"))
model.to(torch.bfloat16).save_pretrained(HERE / "base")
ids = torch.randint(3, 97, (2, 24))
expected = {"ids": ids, "base": base()(ids).logits}
for name, config in ADAPTERS.items():
    adapted = get_peft_model(base(), config)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.normal_(0.0, 0.2)
    adapted.save_pretrained(HERE / name)
    adapted = PeftModel.from_pretrained(base(), HERE / name, is_trainable=name == "plain").eval()
    expected[name] = logits = adapted(ids).logits
    if name == "plain":
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        expected |= {f"gradient.{key.replace('.default', '')}": parameter.grad
                     for key, parameter in adapted.named_parameters() if parameter.requires_grad}
save_file({key: tensor.detach().contiguous() for key, tensor in expected.items()}, HERE / "expected.safetensors")
for config in HERE.glob("*/adapter_config.json"):  # where it was made is nobody's business
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(raw | {"base_model_name_or_path": "base"}, indent=2) + "\n")
for page in HERE.glob("*/README.md"):
    page.unlink()
