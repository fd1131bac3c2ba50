"""Where a checkpoint's files come from: the shipped model, a folder, or the Hugging Face hub."""

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

SHIPPED = Path(__file__).parent.parent / "assets" / "model"
# Data only: no pickles (*.bin, *.pt) and no Python ever leave the hub.
PATTERNS = ["*.json", "*.jinja", "*.txt"]


class CheckpointError(ValueError):
    """A checkpoint cannot be found, or one of its files is not what it must be. The message says what to do."""


def read_json(path):
    """Parse a JSON file. `CheckpointError` names the file if it is missing, malformed, or holds NaN or Infinity."""
    path = Path(path)

    def refuse(constant):
        raise ValueError(f"{constant} is not a JSON value")

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)  # with or without a BOM
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: a checkpoint folder needs it; download it again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}): download or write it again") from None


def write_json(path, value):
    """Write JSON through a temporary file, so that an interrupted write leaves the old file whole."""
    with_temporary(path, lambda part: part.write_text(
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"))


def with_temporary(path, write):
    """Call `write(temporary path)` in the folder of `path`, then rename: `path` is always whole, old or new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def resolve(source=None, revision=None, weights=True):
    """Return the local folder of a checkpoint.

    source: None for the model shipped in assets/; a folder; or a hub id such as "LGAI-EXAONE/EXAONE-4.0-1.2B",
        which is downloaded (progress bar, goes on after a cut, kept in the Hugging Face cache).
    revision: branch, tag or commit of a hub id.
    weights: False fetches only the small files (configuration, tokenizer).
    """
    if source is None:
        if not SHIPPED.is_dir():
            raise CheckpointError(f"there is no shipped model at {SHIPPED}: run `pip install -e .` in a clone of the "
                                  "repository, or name a model folder or hub id, say LGAI-EXAONE/EXAONE-4.0-1.2B")
        return SHIPPED
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
        raise CheckpointError(f"{source} is neither a folder nor a hub id of the form owner/name: check the path")
    return _download(str(source), revision, PATTERNS + ["*.safetensors"] * weights)


def _download(repo_id, revision, patterns):
    # Imported here: it takes a second, and nothing local needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    by_hand = (f"Or download the files of {repo_id} by hand (config.json, tokenizer files, *.safetensors) into a "
               "folder and name that folder instead.")
    try:
        # Without subfolders: some repositories keep copies in other formats there.
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, ignore_patterns="*/*"))
    except GatedRepoError:
        raise CheckpointError(f"{repo_id} asks for its terms to be accepted: do so on its page, then `hf auth login`. "
                              f"{by_hand}") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{repo_id} has no revision {revision!r}: check the branch, tag or commit") from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"there is no {repo_id} on the hub, nor a folder of that name here (or it is private: "
                              f"`hf auth login`): check the spelling. {by_hand}") from None
    except Exception as error:  # no network, a full disk, a broken server: the libraries below raise many kinds
        reason = (str(error.__cause__ or error) or repr(error)).splitlines()[0]
        raise CheckpointError(f"{repo_id} could not be downloaded ({reason}): check the network and run the command "
                              f"again, files that are complete are kept. {by_hand}") from None


def weight_files(folder):
    """Map every tensor name of a checkpoint to its safetensors file: model.safetensors, or shards with an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return dict.fromkeys(_names(single), single)
    if not index.is_file():
        raise CheckpointError(f"{folder} has neither {single.name} nor {index.name}: download the weights as "
                              "safetensors (pickled *.bin or *.pt files are never loaded)")
    raw = read_json(index)
    listed = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names: download it again")
    shards = sorted(set(listed.values()))
    for name in shards:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names the file {name!r}, expected a *.safetensors file in the same folder: "
                                  "download it again")
    held = {(tensor, name) for name in shards for tensor in _names(folder / name)}
    if wrong := sorted({tensor for tensor, _ in held ^ set(listed.items())}):
        raise CheckpointError(f"{index} and its shards disagree on where {few(wrong)} is: they are not of one "
                              "checkpoint, download them again")
    return {tensor: folder / name for tensor, name in listed.items()}


def few(names):
    """Some names for a message, and how many more there are."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"


def _names(path):
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is missing, cut short or no safetensors file ({error}): download it "
                              "again") from None


def read_tensor(path, name, shape):
    """One tensor as stored, on the CPU. Its pages are mapped, not copied, and let go with it."""
    with safe_open(path, framework="pt") as file:
        stored = file.get_slice(name)
        if stored.get_shape() != list(shape) or stored.get_dtype() not in ("F16", "BF16", "F32"):
            raise CheckpointError(f"{path}: {name} is {stored.get_shape()} {stored.get_dtype()}, expected "
                                  f"{list(shape)} in F16, BF16 or F32: config.json and weights are not of one "
                                  "unquantized checkpoint, download both again")
        return file.get_tensor(name)
