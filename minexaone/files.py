"""A checkpoint's files: found here or on the hub, opened, and written so that they are whole at every moment."""

import contextlib
import glob
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

HERE = Path(__file__).parent
SHIPPED = (HERE if (HERE / "assets").is_dir() else HERE.parent) / "assets" / "model"  # in a wheel, or in a clone
# Data only: no pickles (*.bin, *.pt) and no Python ever leave the hub.
PATTERNS = ["*.json", "*.jinja", "*.txt"]
LARGEST_JSON = 64 * 2**20  # bytes; a published tokenizer.json has about 10 MB
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
HEADS = ("lm_head.", "score.", "qa_outputs.")  # what names that do not belong to the model's body begin with
# What torch.compile and distributed training put into the names of the modules that they wrap; and the name that
# transformers gives to the body of a question answering model.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "transformer"}
LANGUAGE_MODEL = "language_model"  # the name that the language model has inside EXAONE 4.5
BESIDE_IT = ("model.visual.", "mtp.")  # what else such a checkpoint holds: the part that sees, and draft layers
FLOATS = ("F16", "BF16", "F32")  # types of weights that are not quantized


class CheckpointError(ValueError):
    """A checkpoint cannot be found, or one of its files is not what it must be. The message says what to do."""


def read_json(path):
    """Parse a JSON file. `CheckpointError` names the file if it is missing, malformed, or holds NaN or Infinity."""
    path = Path(path)

    def refuse(constant):
        raise ValueError(f"{constant} is not a JSON value")

    if not is_there(path):
        hint = other_format(path.parent) or "a checkpoint folder needs it; download it again"
        raise CheckpointError(f"{path} is missing: {hint}")
    try:
        if not path.is_file():  # a pipe would wait for ever, a device never end
            raise ValueError("no regular file")
        if (size := path.stat().st_size) > LARGEST_JSON:
            raise ValueError(f"it has {size:,} bytes, at most {LARGEST_JSON:,} are read")
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)  # with or without a BOM
    except (OSError, ValueError, RecursionError) as error:
        raise bad_file(path, f"is not readable JSON ({error})") from None


def is_there(path):
    """Whether a folder lists the name, be it as a link to a file that is missing."""
    return path.exists() or path.is_symlink()


def bad_file(path, fault):
    """The `CheckpointError` for a file with a fault, as "is not readable JSON": what it is instead, what to do."""
    if path.is_symlink() and not path.exists():
        return CheckpointError(f"{path} is a link to {os.readlink(path)}, which is missing: download it again")
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            if file.read(19) == b"version https://git":
                return CheckpointError(f"{path} is a Git LFS pointer, not the file that it stands for: run `git lfs "
                                       "pull` in its folder, or download it again from the hub")
    return CheckpointError(f"{path} {fault}: {again(path)}")


def again(path):
    """How to get a file again. The hub's cache takes a file that is there for whole, however damaged."""
    if re.search(r"models--[^/\\]+[/\\]snapshots[/\\]", str(path)):
        return f"delete {path.resolve()} and run again, which will download it again"
    return "download it again"


def other_format(folder):
    """What to do with a folder that holds something else than a checkpoint; None if that cannot be told."""
    if any((folder / f"adapter_{name}").exists() for name in ("config.json", "model.safetensors")):
        return ("the folder holds a LoRA adapter: name its base model, and this folder with --adapter (in Python "
                "load_adapter), or merge them with peft, or take the adapter's files out")
    if files := sorted(folder.glob("*.gguf")):
        return f"its weights are in a GGUF file, which is named itself: {files[0]}"
    if re.search(r"models--[^/]+-gguf/", folder.as_posix().lower()):  # in the cache, its weights were not fetched
        return "a repository of GGUF files: download one of them from its page and name that file"
    return None


def write_json(path, value):
    """Write JSON through a temporary file, so that an interrupted write leaves the old file whole."""
    with_temporary(path, lambda part: part.write_text(
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"))


def with_temporary(path, write):
    """Call `write(temporary path)` in the folder of `path`, then rename: `path` is always whole, old or new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # of a process that was killed
        with contextlib.suppress(OSError):
            stale.unlink()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("r+b") as file:
            os.fsync(file.fileno())  # on the disk before it has the name, or a power cut leaves the name without it
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def replace_folder(new: Path, folder: Path):
    """Put the folder `new` in the place of `folder`, which need not exist: at every moment one of them is whole.

    Killed in between, the old folder is still there as .NAME.old, and the next call deletes it.
    """
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(folder: Path):
    """An empty folder to write into, which takes the place of `folder` at the end; after an error nothing of it stays.

    Only for one process at a time: what another one left, that was killed, is deleted.
    """
    for stale in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path):
    """Hold a folder for this process alone, `ValueError` if another one does. A process that is killed lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not kept alive by child processes
        except (BlockingIOError, PermissionError):
            raise ValueError(f"another process is at work in {folder}: wait for it, or name another folder") from None
        yield


def resolve(source=None, revision=None, weights=True):
    """Return the local folder of a checkpoint, or its file if it is a GGUF file.

    source: None for the model shipped in assets/; a folder; a GGUF file; or a hub id such as
        "LGAI-EXAONE/EXAONE-4.0-1.2B", which is downloaded (progress bar, kept in the Hugging Face cache). Where several
        things are read from it, resolve once and pass the folder on: a branch may move in between.
    revision: branch, tag or commit of a hub id.
    weights: False fetches only the small files (configuration, tokenizer).
    """
    if source is not None and not str(source).strip():
        raise CheckpointError("the model's name is empty: name a folder or a hub id, or none at all (MINEXAONE_MODEL "
                              "unset) for the shipped model")
    folder = SHIPPED if source is None else Path(source).expanduser()
    if source is None and not folder.is_dir():
        raise CheckpointError(f"there is no shipped model at {SHIPPED}: run `pip install .` in a clone of the "
                              "repository, or name a model folder or hub id, say LGAI-EXAONE/EXAONE-4.0-1.2B")
    gguf = folder.suffix.lower() == ".gguf"
    if folder.is_dir() or gguf and folder.is_file():
        if revision is not None:
            raise CheckpointError(f"{folder} is a {'folder' if folder.is_dir() else 'file'} and has no revision "
                                  f"{revision!r}: only a hub id has revisions")
        return folder
    if folder.is_file():
        raise CheckpointError(f"{source} is a file: name the folder with all of the model, {folder.parent}")
    if gguf:
        raise CheckpointError(f"there is no file {source}: check the path")
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


class Stored(NamedTuple):
    """Where a tensor is stored: the file, the name in it, the file's stamp when its names were read; and as what.

    span: of a GGUF file, from which byte to which; None in a safetensors file, whose library finds it.
    """

    path: Path
    name: str
    stamp: tuple
    dtype: str
    shape: list[int]
    span: tuple[int, int] | None = None


def weight_files(folder, shapes):
    """Map the published name of every stored tensor to where it is, as `Stored`.

    shapes: of the model's parameters, by published name; without `lm_head.weight`, the model is tied. Known besides the
    published names: those without `model.`, those that a wrapper left (`WRAPPERS`), and a tied model's head, which is
    its embedding. A stored `rotary_emb.inv_freq` is left out, since it follows from config.json. Of EXAONE 4.5, only
    the language model is taken, and a warning says what is left out. `CheckpointError` if two stored tensors contradict
    each other.
    """
    found, parts = {}, {name.split(".")[1] for name in shapes if name.startswith("model.")}
    stored = _stored_names(folder)
    if any(LANGUAGE_MODEL in name.split(".") for name in stored):
        beside = {start: sum(name.startswith(start) for name in stored) for start in BESIDE_IT}
        stored = {name: place for name, place in stored.items() if not name.startswith(BESIDE_IT)}
        warnings.warn(f"{folder}: only the language model is loaded; left out are " + " and ".join(
            f"{start}* ({n} tensors)" for start, n in beside.items()), stacklevel=3)
    for name, place in sorted(stored.items()):
        plain = ".".join(part for part in name.split(".") if part not in {*WRAPPERS, LANGUAGE_MODEL})
        if plain.endswith("rotary_emb.inv_freq"):
            continue
        if plain.split(".")[0] in parts:
            plain = f"model.{plain}"
        if plain in found:
            raise CheckpointError(f"{folder} stores {plain} twice, as {found[plain].name} and as {name}: remove one")
        found[plain] = place
    if HEAD in found and HEAD not in shapes and EMBEDDING in shapes:
        head = found.pop(HEAD)
        first, second = (read_tensor(stored, shapes[EMBEDDING]) for stored in (head, found.setdefault(EMBEDDING, head)))
        if first.dtype != second.dtype or not first.equal(second):
            raise CheckpointError(f"{folder}: by tie_word_embeddings in config.json {head.name} and "
                                  f"{found[EMBEDDING].name} are one, but they differ: set it to false, or remove one")
    return found


def _stored_names(folder):
    """Map every stored name to its `Stored`: in model.safetensors, or in shards with an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} is no plain checkpoint: {other_format(folder)}")
    if is_there(single):
        return tensors_in(single)
    if not is_there(index):
        hint = other_format(folder) or ("download the weights as safetensors (pickled *.bin or *.pt files are never "
                                        "loaded)")
        raise CheckpointError(f"{folder} has neither {single.name} nor {index.name}: {hint}")
    raw = read_json(index)
    listed = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names: {again(index)}")
    shards = sorted(set(listed.values()))
    for name in shards:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names the file {name!r}, expected a *.safetensors file in the same folder: "
                                  f"{again(index)}")
    held = {shard: tensors_in(folder / shard) for shard in shards}
    pairs = {(tensor, shard) for shard, names in held.items() for tensor in names}
    if wrong := sorted({tensor for tensor, _ in pairs ^ set(listed.items())}):
        raise CheckpointError(f"{index} and its shards disagree on where {few(wrong)} is: they are not of one "
                              "checkpoint, download them again")
    return {tensor: held[shard][tensor] for tensor, shard in listed.items()}


def stored_dtype(folder):
    """In what the weights of a folder are stored, by the names of config.json: as its embedding or head; None if that
    is quantized or cannot be told."""
    with contextlib.suppress(CheckpointError):  # said when the weights are loaded
        for name, place in _stored_names(folder).items():
            if name.endswith((EMBEDDING.removeprefix("model."), HEAD)):
                return {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}.get(place.dtype)
    return None


def few(names):
    """Some names for a message, and how many more there are."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"


def tensors_in(path):
    """Map every name in a safetensors file to its `Stored`. `CheckpointError` if it is missing or broken."""
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        now = stamp(path)
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            return {name: Stored(path, name, now, part.get_dtype(), part.get_shape()) for name, part in parts.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise bad_file(path, f"is missing, cut short or no safetensors file ({error})") from None


def stamp(path):
    """What changes when a file is replaced."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_tensor(stored, shape, dtypes=FLOATS):
    """One tensor as stored, on the CPU, which must be of one of the types. Its pages are mapped, not copied, and let go
    with it.

    Its file is opened for it alone, for the same reason: `CheckpointError` if that is no longer the file that
    `weight_files` saw.
    """
    path, name, seen = stored[:3]
    if stored.span:
        return _mapped(stored, shape, dtypes)
    try:
        with safe_open(path, framework="pt") as file:
            if stamp(path) != seen:
                raise CheckpointError(f"{path} was replaced while it was read: load again")
            part = file.get_slice(name)
            if part.get_shape() != list(shape) or part.get_dtype() not in dtypes:
                raise CheckpointError(f"{path}: {name} is {part.get_shape()} {part.get_dtype()}, expected "
                                      f"{list(shape)} in {' or '.join(dtypes)}: config.json and weights are not of one "
                                      f"{'unquantized ' * (dtypes is FLOATS)}checkpoint, download both again")
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} was replaced while it was read ({error}): load again") from None


def _mapped(stored, shape, dtypes):
    """A tensor of a GGUF file; blocks of rounded weights as they are, uint8 [O, bytes of a row]."""
    import numpy
    import torch

    start, end = stored.span
    if stored.shape != list(shape) or stored.dtype not in dtypes:
        raise CheckpointError(f"{stored.path}: {stored.name} is {stored.shape} {stored.dtype}, expected {list(shape)} "
                              f"in {' or '.join(dtypes)}: {again(stored.path)}")
    try:
        octets = numpy.memmap(stored.path, mode="c", offset=start, shape=end - start)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{stored.path} was replaced while it was read ({error}): load again") from None
    if stamp(stored.path) != stored.stamp:
        raise CheckpointError(f"{stored.path} was replaced while it was read: load again")
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    octets = torch.from_numpy(octets)
    return octets.view(kinds[stored.dtype]).view(*shape) if stored.dtype in kinds else octets.view(shape[0], -1)


def write_tensors(path, tensors, metadata):
    """Write a safetensors file. `OSError` on a full disk; `path` is whole at every moment, old or new.

    Not by the library's `save_file`: that leaves a file of another name when it is killed, lets nobody else read, and
    needs all tensors on the CPU at once.
    """
    import torch  # here, because the readers of JSON do not need it

    kinds = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float8_e4m3fn": "F8_E4M3", "int64": "I64",
             "int32": "I32", "int8": "I8", "uint8": "U8"}
    header, end = {"__metadata__": metadata}, 0
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))  # stable; keeps every tensor aligned
    for name, tensor in tensors.items():
        header[name] = {"dtype": kinds[str(tensor.dtype).removeprefix("torch.")], "shape": list(tensor.shape),
                        "data_offsets": [end, end := end + tensor.nbytes]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)

    def write(part):
        with part.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for tensor in tensors.values():
                file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())

    with_temporary(path, write)
