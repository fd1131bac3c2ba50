"""A training run: its sizes, its folder, and the models that its stages leave there."""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from minexaone.config_json import SLIDING, layer_types
from minexaone.fast import speed_up
from minexaone.files import locked, read_json, whole_folder, write_json
from minexaone.model import Config, Exaone4, pick_device
from minexaone.scoring.rollouts import ranks
from minexaone.tokenizer import Tokenizer
from minexaone.training.loop import Recipe
from minexaone.training.tokenizer import train_tokenizer

FORMAT = 2  # one more for every change after which a run must not go on from what older code left


@dataclass(frozen=True)
class Preset:
    """Sizes of the model and of every stage. Lengths are in tokens."""

    vocab_size: int
    corpus: int  # examples that the tokenizer is trained on
    hidden_size: int
    intermediate_size: int
    layers: int
    pattern: str  # of sliding (L) and global (G) layers, repeated
    heads: int
    kv_heads: int
    window: int
    contexts: tuple[int, int, int]  # of pre-training and of the two extensions
    tokens: int  # in a row of packed documents
    rows: int  # in a step
    pretrain: Recipe
    extend: Recipe
    attempts: int  # at each extension, until its grid is green
    sft: Recipe
    sft_again: Recipe  # the second round
    ratio: Recipe  # of SFT at several ratios of the modes
    agapo: Recipe
    queries: int  # before the pre-filter
    round: tuple[int, int, int]  # queries, replies to each, and updates, of a round of AGAPO
    compared: Recipe  # of AGAPO beside GRPO
    compared_round: tuple[int, int, int]
    simper: Recipe  # of one round
    pairs: tuple[int, int, int, int]  # rounds of a stage of SimPER; queries, replies to each, pairs in a step, of one
    max_new_tokens: int
    evaluated: int  # held-out problems, of which AGAPO's pass rate is told
    needles: int  # prompts in a cell of the grid that decides whether an extension is repeated


PRESETS = {
    "tiny": Preset(  # 5.9M parameters: the shipped model
        vocab_size=2560, corpus=30000, hidden_size=256, intermediate_size=640, layers=8, pattern="LLLG", heads=8,
        kv_heads=2, window=128, contexts=(256, 1024, 4096), tokens=65536, rows=1,
        pretrain=Recipe(1600, 2e-3, "wsd"), extend=Recipe(400, 8e-4), attempts=2,
        sft=Recipe(13_000, 1.2e-3), sft_again=Recipe(800, 3e-4), ratio=Recipe(1000, 1.2e-3),
        agapo=Recipe(160, 1.5e-4, save_every=20), queries=4096, round=(128, 8, 1),
        compared=Recipe(160, 5e-5, "wsd", save_every=160), compared_round=(128, 8, 4),
        simper=Recipe(20, 1e-4), pairs=(10, 1024, 8, 64), max_new_tokens=512, evaluated=2000, needles=100),
    "pocket": Preset(  # 0.3M parameters, for the cpu track of records, with --until sft in 5 minutes
        vocab_size=1024, corpus=2000, hidden_size=80, intermediate_size=144, layers=4, pattern="LLLG", heads=2,
        kv_heads=1, window=16, contexts=(512, 1024, 2048), tokens=2048, rows=1,
        pretrain=Recipe(300, 6e-3, "wsd"), extend=Recipe(2, 6e-4), attempts=1,
        sft=Recipe(2000, 6e-3), sft_again=Recipe(60, 1e-3), ratio=Recipe(400, 6e-3),
        agapo=Recipe(20, 5e-4, save_every=20), queries=64, round=(16, 8, 1),
        compared=Recipe(20, 5e-4, "wsd", save_every=20), compared_round=(16, 8, 4),
        simper=Recipe(5, 2e-4), pairs=(2, 64, 8, 8), max_new_tokens=256, evaluated=60, needles=1),
    "smoke": Preset(  # every line of every stage in half a minute on a CPU; learns next to nothing
        vocab_size=1024, corpus=300, hidden_size=32, intermediate_size=64, layers=4, pattern="LLLG", heads=2,
        kv_heads=1, window=32, contexts=(512, 1024, 2048), tokens=2048, rows=2,
        pretrain=Recipe(6, 1e-2, "wsd", save_every=2), extend=Recipe(2, 1e-2), attempts=1,
        sft=Recipe(4, 1e-2, save_every=2), sft_again=Recipe(2, 1e-2), ratio=Recipe(2, 1e-2),
        agapo=Recipe(2, 1e-3, save_every=2), queries=4, round=(2, 4, 2),
        compared=Recipe(2, 1e-3, save_every=2), compared_round=(2, 4, 2),
        simper=Recipe(2, 1e-3), pairs=(2, 4, 4, 2), max_new_tokens=24, evaluated=4, needles=1),
}


@dataclass
class Run:
    """A folder with one subfolder for each finished stage: its model in the published format and its report.json.

    Its run.json says with which preset and seed it was begun: with others it cannot go on.
    """

    folder: Path
    preset: Preset
    seed: int
    device: torch.device

    def identity(self) -> dict:
        """What must not change while the run goes on, in the form in which run.json has it."""
        name = next((name for name, preset in PRESETS.items() if preset == self.preset), "of its own")
        return json.loads(json.dumps({"format": FORMAT, "seed": self.seed, "preset": name, **asdict(self.preset)}))

    def check(self):
        """`ValueError` if the folder was begun with another seed or preset."""
        before = begun(self.folder)
        for key, value in self.identity().items() if before else ():
            if before.get(key) != value:
                raise ValueError(f"{self.folder} was begun with {key} {before.get(key)!s:.90}, not {value!s:.90}: go "
                                 "on with that, or name another folder")

    @contextmanager
    def claimed(self):
        """Hold the folder, to train in it: `ValueError` if another process does, or if it is of another run."""
        with locked(self.folder) if ranks()[0] == 0 else nullcontext():
            self.check()
            if not begun(self.folder) and ranks()[0] == 0:
                if left := [*self.folder.glob("*/report.json"), *self.folder.glob("*.state.safetensors")]:
                    raise ValueError(f"{self.folder} has {left[0].name}, but no run.json that says of which seed and "
                                     "preset: name another folder")
                write_json(self.folder / "run.json", self.identity())
            yield

    def load_tokenizer(self) -> Tokenizer:
        """The run's own; trained at the first use. Every process must call it, since they wait for one another."""
        if not (self.tokenizer_folder / "tokenizer_config.json").is_file() and ranks()[0] == 0:
            with whole_folder(self.tokenizer_folder) as part:
                train_tokenizer(self.preset.vocab_size, self.preset.corpus, self.seed).save_pretrained(part)
        barrier()
        return Tokenizer.from_pretrained(self.tokenizer_folder)

    @property
    def fits(self) -> int:
        """How many tokens are computed at once: a whole row on a GPU, elsewhere what a laptop's memory holds (8,192
        tokens of the tiny preset take 2.5 GB)."""
        whole = self.preset.tokens
        return whole if self.device.type == "cuda" else min(whole, max(8192, self.preset.contexts[-1]))

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies, for the processes that draw data."""
        return self.folder / "tokenizer"

    def untrained(self, context: int) -> Exaone4:
        """The model before its first step."""
        preset, tokenizer = self.preset, self.load_tokenizer()
        kinds = layer_types(preset.pattern, preset.layers)
        torch.manual_seed(self.seed)
        model = Exaone4(Config(
            vocab_size=tokenizer.vocab_size, hidden_size=preset.hidden_size,
            head_dim=preset.hidden_size // preset.heads, intermediate_size=preset.intermediate_size,
            num_hidden_layers=preset.layers, num_attention_heads=preset.heads, num_key_value_heads=preset.kv_heads,
            layer_types=kinds, sliding_window=preset.window if SLIDING in kinds else None, rope_theta=10_000.0,
            max_position_embeddings=context, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id))
        small_gains(model)
        return model.to(self.device)

    def load(self, stage: str, context: int | None = None) -> Exaone4:
        """The model that a stage left; context: its longest text from now on."""
        model = Exaone4.from_pretrained(self.folder / stage, device=self.device)
        if context is not None:
            model.config = replace(model.config, max_position_embeddings=context)
        # On a GPU replies come from the fast path, which reads the model's own tensors: it sees what training writes.
        return speed_up(model) if self.device.type == "cuda" else model

    def is_done(self, stage: str) -> bool:
        """Whether a stage is complete."""
        return (self.folder / stage / "report.json").is_file()

    def report(self, stage: str) -> dict:
        """What a complete stage measured."""
        return read_json(self.folder / stage / "report.json")

    def save(self, stage: str, model: Exaone4, report: dict):
        """Write a stage's model, in bfloat16, and report at once, and forget its checkpoint."""
        if ranks()[0] == 0:
            with whole_folder(self.folder / stage) as part:
                in_bfloat16(model).save_pretrained(part)
                for file in self.tokenizer_folder.iterdir():
                    shutil.copy(file, part)
                name = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
                write_json(part / "report.json", {"stage": stage, "seed": self.seed, "sources": sources(),
                                                  "hardware": name, "torch": torch.__version__, **report})
            for checkpoint in self.folder.glob(f"{stage}*.state.safetensors"):
                checkpoint.unlink()
        barrier()


def sources() -> str:
    """A digest of the package's own files: which code a stage was trained with, also where there is no git."""
    found, package = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(package.rglob("*"), key=lambda file: file.relative_to(package).as_posix()):
        if file.suffix in (".py", ".txt", ".jinja"):
            text = file.read_text(encoding="utf-8")  # line ends as in git
            found.update(f"{file.relative_to(package).as_posix()} {len(text)} {text}".encode())
    return found.hexdigest()[:16]


def barrier():
    """Wait for the other processes, if there are any."""
    if dist.is_initialized():
        dist.barrier()


def begun(folder: Path) -> dict:
    """What a run's folder says of how it was begun (`Run.identity`); {} before that."""
    file = folder / "run.json"
    return read_json(file) if file.is_file() else {}


def small_gains(model: Exaone4):
    """Let the norms at the blocks' ends begin as small as the embeddings.

    Such a norm makes a block's output as large as its gain, while embeddings begin at 0.02: with gains of 1 the blocks
    drown the token. (Mean loss of a small model after 120 steps: 3.17 with 1, 2.25 with 0.02.)
    """
    for layer in model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            torch.nn.init.constant_(norm.weight, model.config.initializer_range)


def in_bfloat16(model: Exaone4) -> Exaone4:
    """A copy on the CPU; the model itself stays as it is."""
    with torch.device("meta"):
        copy = Exaone4(model.config)
    weights = {name: weight.to("cpu", torch.bfloat16) for name, weight in model.state_dict().items()}
    copy.load_state_dict(weights, assign=True)
    return copy


def prepare(device="auto") -> torch.device:
    """For a command: make sums repeatable, join the other processes under torchrun, return this process's device.

    It changes the whole process: its environment, and the precision of its matrix products.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are parallel enough
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # see `loop.repeatable`
    torch.set_float32_matmul_precision("high")
    device = pick_device(device)
    if "RANK" in os.environ:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device
