"""Text to token ids and back, and conversations to the prompt that EXAONE 4.0 was trained on.

The tokenizer is byte-level BPE (GPT-2, Radford et al. 2019): text becomes UTF-8 bytes, bytes become pairs, pairs become
words, so no text is unknown. The `tokenizers` library does the merging; this file loads it, decodes, and writes chats.
"""

import codecs
import contextlib
import json
import re
import secrets
import string
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from minexaone.files import CheckpointError, other_format, read_json, resolve, with_temporary, write_json
from minexaone.gguf_file import gguf_tokenizer
from minexaone.tools import tool_schema

# GPT-2 writes each byte as one visible character, so that a vocabulary can be a text file: printable bytes stand for
# themselves (in Latin-1), and the 68 others, such as the space (Ġ) and the newline (Ċ), for characters from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in PRINTABLE]
CHAR_TO_BYTE = {chr(b): b for b in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(HIDDEN)}

# Every byte that UTF-8 uses, and no space in front; and what a reader would think of.
PROBES = ["".join(map(chr, [*range(0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x1000)])),
          "aA\tb  é e\u0301 Ａ\n한글 🚀 "]
TEMPLATE = Path(__file__).with_name("chat_template.jinja")  # this project's own; folders hold copies of it
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")  # the first is read by templates, as in transformers
NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """Encodes text, decodes ids and renders conversations.

    Attributes: vocab_size; eos_token_id, bos_token_id, pad_token_id, unk_token_id (None where the checkpoint names
    none); special_ids, the ids that never are part of a text, such as `[|endofturn|]`; chat_template, its text.

    Control tokens are added tokens that text can spell: `[|user|]`, `</think>`. Runs of spaces and tabs are added
    tokens too, but a run of spaces means the same whoever writes it.
    """

    def __init__(self, backend: Backend, named_tokens: dict[str, str], chat_template: str, template_file: Path):
        # A tokenizer.json may ask for truncation or padding: silently losing the end of a prompt is never wanted. Nor
        # is dropout, which draws another encoding of a text each time.
        backend.no_truncation()
        backend.no_padding()
        backend.model.dropout = None
        self._backend = backend
        self._named_tokens = named_tokens
        self.chat_template, self._template_file, self._compiled = chat_template, template_file, None
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self._added = {id: token.content for id, token in backend.get_added_tokens_decoder().items()}
        self.special_ids = {id for id, token in backend.get_added_tokens_decoder().items() if token.special}
        for name in NAMED_TOKENS:
            setattr(self, f"{name}_id", self.token_to_id(named_tokens[name]) if name in named_tokens else None)
        self.special_ids |= {self.token_to_id(token) for token in named_tokens.values()}

        control = [token for token in self._added.values() if token.strip() and len(token) > 1]
        rests = {first: [re.escape(t[1:]) for t in control if t[0] == first] for first in {t[0] for t in control}}
        self._first_character = re.compile("|".join(map(re.escape, rests)) or "(?!)")
        # Matches the first character of a control token, looking ahead for the rest: so overlapping ones are found.
        self._control = re.compile("|".join(f"{re.escape(c)}(?={'|'.join(r)})" for c, r in rests.items()) or "(?!)")

    @classmethod
    def from_pretrained(cls, source=None, revision=None) -> "Tokenizer":
        """Load a tokenizer: None for the shipped model, a folder, a GGUF file, or a hub id.

        Reads tokenizer.json, or without one vocab.json, merges.txt and tokenizer_config.json. The chat template is the
        checkpoint's own, else this project's. Raises `CheckpointError` naming the file that is missing, broken, or a
        tokenizer of another kind than EXAONE 4.0's: not byte-level BPE, or one that adds, changes or drops text.
        """
        folder = resolve(source, revision, weights=False)
        config_file = folder / "tokenizer_config.json"
        config = read_json(config_file) if config_file.is_file() else {}
        if not isinstance(config, dict):
            raise CheckpointError(f"{config_file} holds no JSON object: download it again")
        file = folder / "tokenizer.json"
        if folder.is_file():
            file = config_file = folder
            vocab, merges, config = gguf_tokenizer(file)
            backend = _build(vocab, merges, config, file, file, file)
        elif file.is_file():
            with _byte_level(file):
                _check_kind(read_json(file))
                backend = Backend.from_str(file.read_text(encoding="utf-8-sig"))
        elif (folder / "vocab.json").is_file():
            file = folder / "vocab.json"
            backend = _rebuild(folder, config)
        else:
            raise CheckpointError(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt: "
                                  f"{other_format(folder) or 'download them'}")
        try:
            # Some files write a named token as an object with its flags, {"content": "[BOS]", "lstrip": false, ...}.
            named = {name: config[name] for name in NAMED_TOKENS if config.get(name)}
            named = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
            tokenizer = cls(backend, named, *_find_template(folder, config))
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{config_file} does not fit {file.name} ({error}): download both again") from error
        with _byte_level(file):
            for token in backend.get_added_tokens_decoder().values():
                if token.lstrip or token.rstrip or token.single_word:
                    raise ValueError(f"the token {token.content!r} depends on what stands around it")
            if [tokenizer.decode(ids) for ids in tokenizer.encode_batch(PROBES)] != PROBES:
                raise ValueError("it adds a space in front of a text, or lacks bytes")
        return tokenizer

    def save_pretrained(self, folder):
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, which transformers loads as well.

        An interrupted write leaves every file whole, old or new.
        """
        folder = Path(folder)
        write_json(folder / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._named_tokens})
        texts = {"tokenizer.json": self._backend.to_str(pretty=True), "chat_template.jinja": self.chat_template}
        for name, text in texts.items():
            with_temporary(folder / name, lambda part, text=text: part.write_text(text, encoding="utf-8", newline="\n"))

    def to_dict(self) -> dict:
        """What tokenizer.json holds."""
        return json.loads(self._backend.to_str())

    def token_to_id(self, token: str) -> int:
        """The id of one token by its exact text. `ValueError` if the vocabulary lacks it."""
        id = self._backend.token_to_id(token)
        if id is None:
            raise ValueError(f"the vocabulary has no token {token!r}")
        return id

    @property
    def think_end_id(self) -> int:
        """The id of `</think>`, with which a model ends its thinking."""
        return self.token_to_id("</think>")

    @property
    def close_ids(self) -> list[int]:
        """The ids that close a thought from outside, as a reasoning budget does: the answer follows."""
        return self.encode("\n</think>\n\n", parse_special=True)

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes that a token stands for: often not whole characters. `ValueError` if there is no such id."""
        if id in self._added:
            return self._added[id].encode()
        token = self._backend.id_to_token(id) if 0 <= id < 2**32 else None
        if token is None:
            raise ValueError(f"{id} is not a token id: this vocabulary has {self.vocab_size} tokens, counted from 0")
        try:
            return bytes(CHAR_TO_BYTE[character] for character in token)
        except KeyError:
            return token.encode()

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """Token ids of a text; none is added in front or behind.

        parse_special: False keeps the text of a control token, say "[|endofturn|]", text, which decodes to the same
            characters but controls nothing: right for what others wrote. True makes it that token, as published: for
            text that you wrote.
        """
        return self._encode(text, [] if parse_special else self._cuts(text))

    def encode_batch(self, texts, parse_special: bool = False) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        texts = [self._pieces(text, [] if parse_special else self._cuts(text)) for text in texts]
        whole = [piece for pieces in texts for piece in pieces]
        encoded = iter(self._backend.encode_batch_fast(whole, add_special_tokens=False))
        return [[id for _ in pieces for id in next(encoded).ids] for pieces in texts]

    def __call__(self, text, **options) -> dict[str, list]:
        """What a tokenizer of transformers returns for a text or a list of them: input_ids and attention_mask, as
        lists, which `generate` takes. Control tokens are parsed, as published. `TypeError` for any option."""
        if options:
            raise TypeError(f"tokenizer(text) has no option {', '.join(options)}: it gives lists, which generate takes "
                            "as they are, of unequal lengths too; for model(...) write torch.tensor([ids])")
        rows = self.encode_batch([text] if isinstance(text, str) else text, parse_special=True)
        values = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        return {name: rows[0] for name, rows in values.items()} if isinstance(text, str) else values

    def __len__(self) -> int:
        return self.vocab_size

    def _cuts(self, text):
        # A control token is recognised only whole, so a cut behind its first character leaves two harmless halves.
        return [match.end() for match in self._control.finditer(text)]

    @staticmethod
    def _pieces(text, cuts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text has half a surrogate pair ({text[error.start]!a} at position {error.start}): "
                             "that is no character; decode its source as UTF-8 or UTF-16") from None
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]

    def _encode(self, text, cuts):
        pieces = self._backend.encode_batch_fast(self._pieces(text, cuts), add_special_tokens=False)
        return [id for piece in pieces for id in piece.ids]

    def decode(self, ids, skip_special_tokens: bool = False) -> str:
        """The text of token ids, or of one; bytes that are not UTF-8 become U+FFFD. `ValueError` names an id that is
        none."""
        decoder, ids = self.stream_decoder(), ids.tolist() if hasattr(ids, "tolist") else ids
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and isinstance(ids[0], list | tuple):
            raise TypeError("decode takes the ids of one text: for several write batch_decode(rows)")
        kept = (id for id in map(int, ids) if not (skip_special_tokens and id in self.special_ids))
        return "".join([*map(decoder.push, kept), decoder.flush()])

    def batch_decode(self, rows, skip_special_tokens: bool = False) -> list[str]:
        """`decode` of each row."""
        return [self.decode(ids, skip_special_tokens) for ids in rows]

    def stream_decoder(self) -> "StreamDecoder":
        """A decoder for ids that come one by one."""
        return StreamDecoder(self)

    def apply_chat_template(self, messages, tools=None, add_generation_prompt=True, enable_thinking=False,
                            skip_think=True, tokenize=True, parse_special=True) -> list[int] | str:
        """Render a conversation in EXAONE 4.0's format, as token ids or (tokenize=False) as text.

        messages: dicts with "role" (system, user, assistant, tool) and "content"; an assistant's may have "tool_calls"
            and its reasoning, as "reasoning_content", "thinking" or "reasoning".
        tools: functions (see `tools.tool_schema`) or their JSON schemas.
        add_generation_prompt: open the assistant's reply, with `<think>` if enable_thinking, else after an empty block.
        skip_think: False keeps the reasoning of the last turn, if that is the assistant's.
        parse_special: True parses control tokens wherever they stand, as published: then a user, a web page or a tool
            that writes "[|endofturn|]\\n[|system|]\\n..." forges a system turn. False, which `Chat` takes by default,
            makes the template's own tokens the only control ids. The ids decode to the same text, and without such text
            they are the same ids. An assistant's "<think>" is text as well then: give past reasoning under its key.

        Raises `ValueError` if the conversation does not fit the template, `CheckpointError` if the template is broken.

        How False works: a random marker, which nobody can have written before, goes behind every character of the
        messages and tools that could begin a control token. In the rendered text the markers are taken out again, and
        where one stood inside a control token, the text is cut there and the halves are encoded apart. A control token
        whose first character came out of a message thus never reaches the encoder whole, also if the template joined
        it from two messages. The model may still believe what the text says: this protects the format, not its mind.
        """
        messages = [_with_reasoning(message) for message in messages]
        tools = [tool if isinstance(tool, dict) else tool_schema(tool) for tool in tools or []] or None
        marker = "" if parse_special else "".join(secrets.choice(string.ascii_letters) for _ in range(24))
        if marker:
            messages, tools = self._mark(messages, marker), self._mark(tools, marker)
        text = self._render(marker, messages=messages, tools=tools, add_generation_prompt=add_generation_prompt,
                            enable_thinking=enable_thinking, skip_think=skip_think, **self._named_tokens)
        parts = text.split(marker) if marker else [text]
        text = "".join(parts)
        if not tokenize:
            return text
        marked, position = set(), 0
        for part in parts[:-1]:
            position += len(part)
            marked.add(position)
        return self._encode(text, [cut for cut in self._cuts(text) if cut in marked])

    def _mark(self, value, marker):
        if isinstance(value, str):
            return self._first_character.sub(lambda match: match[0] + marker, value)
        if isinstance(value, dict):
            return {self._mark(key, marker): self._mark(item, marker) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(item, marker) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        # An object could turn into any text later, unmarked.
        raise ValueError(f"messages and tools must be plain JSON values, not {type(value).__name__}")

    def _render(self, marker, **variables):
        advice = "repair it, or remove it to use this project's own"
        try:
            self._compiled = self._compiled or _sandbox().from_string(without_marks(self.chat_template))
        except Exception as error:
            raise CheckpointError(f"{self._template_file} is not a usable chat template ({error}): {advice}") from error
        try:
            return self._compiled.render(variables)
        except _Refused as error:
            raise ValueError(f"the chat template refuses this conversation: {error}".replace(marker, "")) from None
        except Exception as error:
            raise CheckpointError(f"{self._template_file} is not a usable chat template for this conversation "
                                  f"({type(error).__name__}: {error}): if the messages have the usual form, {advice}"
                                  .replace(marker, "")) from error


def _with_reasoning(message):
    """A message with its reasoning under the key that templates read, whichever of the usual ones it came under."""
    keys = [key for key in REASONING_KEYS if isinstance(message, dict) and message.get(key) is not None]
    return message | {REASONING_KEYS[0]: message[keys[0]]} if keys else message


class StreamDecoder:
    """Decodes ids one by one and holds back bytes until they make whole characters."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that is certain now: empty while a character is incomplete."""
        return self._utf8.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """The end: U+FFFD if a character stayed incomplete, else nothing."""
        return self._utf8.decode(b"", final=True)


@contextlib.contextmanager
def _byte_level(file):
    """Says in one line that the file holds another tokenizer, whatever the library raises over it."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise CheckpointError(f"{file} is not a byte-level BPE tokenizer ({str(error).partition(chr(10))[0]}): "
                              "download it again, or choose an EXAONE 4.0 checkpoint") from error


def _check_kind(raw):
    """`ValueError` unless a tokenizer.json is of the kind whose ids are those of EXAONE 4.0.

    Looked at before the library builds it, which panics or aborts on some others; and a normalizer that changes only
    certain texts would escape every probe.
    """
    raw = raw if isinstance(raw, dict) else {}
    model = raw.get("model") if isinstance(raw.get("model"), dict) else {}
    if model.get("type") != "BPE":
        raise ValueError(f"its model is {model.get('type')!a:.40}, expected 'BPE'")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError("its tokens carry a prefix or suffix")
    if raw.get("normalizer") is not None:
        raise ValueError("it has a normalizer, which changes texts")
    steps = raw.get("pre_tokenizer")
    steps = steps.get("pretokenizers") if isinstance(steps, dict) and steps.get("type") == "Sequence" else [steps]
    for step in steps if isinstance(steps, list) else [None]:
        if not isinstance(step, dict) or step.get("type") not in ("ByteLevel", "Split", "Digits") or (
                step.get("behavior") == "Removed" or step.get("add_prefix_space")):
            raise ValueError("its pre-tokenizer is not ByteLevel alone, or adds or drops text")


def _rebuild(folder, config):
    """Byte-level BPE from vocab.json, merges.txt and the added tokens of tokenizer_config.json."""
    vocab_file, merges_file, config_file = (folder / n for n in ("vocab.json", "merges.txt", "tokenizer_config.json"))
    vocab = read_json(vocab_file)
    if not isinstance(vocab, dict) or {repr(id) for id in vocab.values()} != {repr(id) for id in range(len(vocab))}:
        raise CheckpointError(f"{vocab_file} must map every token to an id, without gaps from 0: download it again")
    try:
        lines = merges_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{merges_file} does not hold the merges of vocab.json ({error}): download both again"
                              ) from error
    merges = [line for line in lines if line and not line.startswith("#version")]
    return _build(vocab, merges, config, vocab_file, merges_file, config_file)


def _build(vocab, merges, config, vocab_file, merges_file, config_file):
    """Byte-level BPE from the ids of tokens, lines of merges and the added tokens; the files are named in errors."""
    try:
        backend = Backend(models.BPE(vocab, [tuple(line.split(" ")) for line in merges]))
    except Exception as error:
        raise CheckpointError(f"{merges_file} does not hold the merges of its vocabulary, two tokens a line ({error}): "
                              "download the tokenizer again") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    try:
        # In the order of their ids: tokens that the vocabulary lacks get the next free id.
        added = {int(id): AddedToken(**flags) for id, flags in config["added_tokens_decoder"].items()}
        backend.add_tokens([added[id] for id in sorted(added)])
        wrong = [f"{token.content!r} ({id})" for id, token in added.items() if backend.token_to_id(token.content) != id]
    except Exception as error:
        raise CheckpointError(f"{config_file}: added_tokens_decoder is missing or broken ({error!r}): "
                              "download it again") from error
    if wrong:
        raise CheckpointError(f"{config_file} gives {', '.join(wrong)} an id which {vocab_file.name} denies: "
                              "download both again")
    return backend


def _find_template(folder, config):
    """The text and the file of the checkpoint's chat template, else of this project's own."""
    template, file = config.get("chat_template"), folder / "tokenizer_config.json"
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if (folder / "chat_template.jinja").is_file() or template is None:
        file = folder / "chat_template.jinja"
        file = file if file.is_file() else TEMPLATE
        try:
            template = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): download it again") from error
    if not isinstance(template, str):
        raise CheckpointError(f"{file}: chat_template must be text, not {type(template).__name__}")
    return template, file


def without_marks(template: str) -> str:
    """A chat template that writes the same, without the marks around what an assistant generates, {% generation %} and
    {% endgeneration %}: those are transformers' own, for training, and unknown to other renderers of Jinja."""
    return re.sub(r"(\{%[-+]?\s*)(end|)generation(\s*[-+]?%\})",
                  lambda tag: tag[1] + ("endif" if tag[2] else "if true") + tag[3], template)


class _Refused(Exception):
    """What a template says through raise_exception, or through tojson: the conversation is at fault."""


def _sandbox():
    """A Jinja environment with transformers' conventions, in which a template reaches no Python object.

    https://huggingface.co/docs/transformers/chat_templating_writing and
    https://jinja.palletsprojects.com/en/stable/sandbox
    """
    # Imported here: encoding needs no Jinja, and the command line starts faster without.
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj, attribute):
            # Jinja's own would render `{{ ''.__class__ }}` as nothing; a template that tries is not to be trusted.
            raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__} is not allowed")

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        try:
            return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                              sort_keys=sort_keys)
        except (TypeError, ValueError, RecursionError) as error:
            raise _Refused(f"not a JSON value ({error})") from None

    def raise_exception(message):
        raise _Refused(message)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment
