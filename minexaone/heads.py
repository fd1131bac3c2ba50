"""Other heads on the layers of the language model: classes for a text, classes for its tokens, answers found in it.

Names of weights, logits and losses are those of transformers, whose classes have the same names. A model is called with
padded rows of ids [B, T] and their mask, and returns logits; `loss` compares these with labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.checks import MOST
from minexaone.files import CheckpointError
from minexaone.model import Config, Exaone4, attention

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class HeadConfig(Config):
    """A `Config` and what a head adds to it. Raises `CheckpointError` naming the key.

    labels: the names of the classes, in the order of the logits. problem_type: one of `PROBLEMS`, of sequence
    classification; None is told by the labels of the first loss. architectures: the name of the head's class.
    """

    labels: list[str] = field(default_factory=lambda: ["LABEL_0", "LABEL_1"])
    problem_type: str | None = None
    classifier_dropout: float = 0.1  # before the head of token classification
    architectures: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.labels, list) or not 0 < len(self.labels) <= MOST or not all(
                isinstance(label, str) for label in self.labels):
            raise CheckpointError(f"labels is {self.labels!r:.200}, expected a list with the name of each class")
        if self.problem_type not in (None, *PROBLEMS):
            raise CheckpointError(f"problem_type is {self.problem_type!r:.80}, expected null or {', '.join(PROBLEMS)}")
        if type(self.classifier_dropout) not in (int, float) or not 0 <= self.classifier_dropout < 1:
            raise CheckpointError(f"classifier_dropout is {self.classifier_dropout!r:.80}, expected 0 to below 1")

    @classmethod
    def from_dict(cls, raw: dict) -> "HeadConfig":
        """From a config.json of transformers, which leaves out what is its default, as two classes without names."""
        dropout = [raw[key] for key in ("classifier_dropout", "hidden_dropout") if raw.get(key) is not None]
        base = vars(Config.from_dict(raw))
        try:
            return cls(**base, labels=label_names(raw), problem_type=raw.get("problem_type"),
                       classifier_dropout=dropout[0] if dropout else 0.1, architectures=raw.get("architectures"))
        except CheckpointError as error:
            raise CheckpointError(f"config.json: {error}") from None

    def to_dict(self) -> dict:
        """The config.json that transformers reads."""
        values = super().to_dict()
        labels = values.pop("labels")
        return values | {"num_labels": len(labels), "id2label": {str(n): label for n, label in enumerate(labels)},
                         "label2id": {label: n for n, label in enumerate(labels)}}


def label_names(raw: dict) -> list[str]:
    """The names of the classes by a config.json: `id2label`, or as many as `num_labels` says, or two."""
    names = raw.get("id2label")
    if names is None:
        count = 2 if raw.get("num_labels") is None else raw["num_labels"]
        if type(count) is not int or not 0 < count <= MOST:
            raise CheckpointError(f"num_labels is {count!r:.80}, expected an integer from 1 to {MOST}")
        return [f"LABEL_{n}" for n in range(count)]
    if not isinstance(names, dict) or names.keys() != {str(n) for n in range(len(names))}:
        raise CheckpointError(f"id2label is {names!r:.200}, expected names for 0, 1 and so on")
    return [names[str(n)] for n in range(len(names))]


def sees_some(mask: Tensor, window: int | None) -> Tensor:
    """Which tokens see at least one that counts, up to their own: bool [B, T] of a mask [B, T].

    The others must get 0 from attention, as in transformers by its default, sdpa: some kernels make NaN of them.
    """
    count = mask.long().cumsum(1)
    return count > (0 if window is None else F.pad(count, (window, 0))[:, :mask.shape[1]])


class Head(Exaone4):
    """What the three have in common: the model with a linear layer in the place of its head. It writes no text."""

    config_class = HeadConfig
    layer = "score"  # the name of the linear layer
    bias = True

    def __init__(self, config: HeadConfig):
        name = type(self).__name__
        if config.architectures not in (None, [name]):
            raise CheckpointError(f"config.json: architectures is {config.architectures!r:.80}, expected [{name!r}]: "
                                  f"name such a checkpoint; {name}.from_language_model(...) gives a language model a "
                                  "new head, which is still to be trained")
        super().__init__(replace(config, architectures=[name]))
        self.lm_head = None
        setattr(self, self.layer, nn.Linear(config.hidden_size, self.outputs(), self.bias))
        if self.device.type != "meta":
            self.reset_head()

    @classmethod
    def from_language_model(cls, source: str | Path | None = None, labels: Sequence[str] = ("LABEL_0", "LABEL_1"),
                            problem_type: str | None = None, **loading) -> "Head":
        """A language model's layers with a new head, random and still to be trained (seed: `torch.manual_seed`).

        source and loading: see `Exaone4.from_pretrained`; what is quantized there stays packed. labels and
        problem_type: see `HeadConfig`.
        """
        body = Exaone4.from_pretrained(source, **loading)
        with torch.device("meta"):
            model = cls(HeadConfig(**vars(body.config), labels=list(labels), problem_type=problem_type))
        model.embed_tokens, model.layers, model.norm = body.embed_tokens, body.layers, body.norm
        model.form = body.form
        getattr(model, cls.layer).to(getattr(torch, body.config.dtype)).to_empty(device=body.device)
        model.reset_head()
        return model.eval()

    @torch.no_grad()
    def reset_head(self):
        """Draw the head's weights anew, as a new model has them."""
        layer = getattr(self, self.layer)
        layer.weight.normal_(std=self.config.initializer_range)
        if layer.bias is not None:
            layer.bias.zero_()

    def outputs(self) -> int:
        """How many logits the head has."""
        return len(self.config.labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, outputs] of every token of input_ids [B, T].

        attention_mask [B, T]: 0 for padding, which no token looks at; None: there is none. Padding has logits as well,
        and `Exaone4ForQuestionAnswering.loss` counts them. `ValueError` for a mask of another shape.
        """
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask is {list(attention_mask.shape)}, but input_ids {list(input_ids.shape)}")
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)

        def attend(attn, q, k, v):
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            if attention_mask is None:
                return attention(q, k, v, positions, positions, attn.window).transpose(1, 2)
            keys, sees = positions.where(attention_mask.bool(), -1), sees_some(attention_mask, attn.window)
            out = attention(q, k, v, positions.where(sees, -1), keys, attn.window).transpose(1, 2)
            return out * sees[..., None, None]

        return self.head(self.hidden_states(input_ids, positions, attend))

    def head(self, x: Tensor) -> Tensor:
        """Logits [..., outputs] of hidden states [..., hidden_size]."""
        return getattr(self, self.layer)(x)

    def generate(self, *prompts, **options):
        """`TypeError`: a text is written by a language model."""
        raise TypeError(f"{type(self).__name__} writes no text: load an Exaone4 to generate")

    stream = generate


class Exaone4ForSequenceClassification(Head):
    """Classes for a whole text, or numbers (regression), read off its last token, which has seen all others."""

    bias = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, labels] of input_ids [B, T], at the last token of each row that is not `pad_token_id`.

        `ValueError` for several rows in a model without that id.
        """
        logits, pad = super().forward(input_ids, attention_mask), self.config.pad_token_id
        if pad is None and len(input_ids) > 1:
            raise ValueError(f"{len(input_ids)} rows, but the model has no pad_token_id, by which the last token of a "
                             "row is found: set it in config.json, or classify one text at a time")
        if pad is None:
            return logits[:, -1]
        rows, columns = (torch.arange(n, device=input_ids.device) for n in input_ids.shape)
        return logits[rows, (columns * (input_ids != pad)).amax(1)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of logits [B, labels].

        labels: of single labels int64 [B], where -100 is left out; of multiple ones float [B, labels], 0 or 1; of
        regression float [B, labels], or [B] for one. A config without problem_type takes one label for regression, and
        more for the kind that the labels' dtype speaks of.
        """
        kind = self.config.problem_type
        if kind is None:
            kind = PROBLEMS[0 if self.outputs() == 1 else 1 if labels.dtype in (torch.int64, torch.int32) else 2]
        if kind == "regression":
            return F.mse_loss(logits.float(), labels.float().view_as(logits))
        if kind == "single_label_classification":
            return F.cross_entropy(logits.float(), labels.flatten().long())
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


class Exaone4ForTokenClassification(Head):
    """A class for every token, which has seen the tokens before it, not those behind."""

    def __init__(self, config: HeadConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def head(self, x: Tensor) -> Tensor:
        """Logits [..., labels] of hidden states [..., hidden_size]."""
        return self.score(self.dropout(x))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean cross entropy of logits [B, T, labels] for labels int64 [B, T]; -100 is left out."""
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


class Exaone4ForQuestionAnswering(Head):
    """Where in a text the answer begins and ends: two logits for every token."""

    layer = "qa_outputs"
    body = "transformer"  # in the files; transformers begins at random, with a warning alone, where it reads "model."

    def outputs(self) -> int:
        """Two: the first and the last token of the answer."""
        return 2

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean cross entropy of logits [B, T, 2] for labels int64 [B, 2], the columns of the first and last token.

        A column beyond T is left out, as where the text was cut before the answer; a negative one counts as 0. Padding
        takes part, so the loss depends on it: logits.masked_fill(mask[..., None] == 0, -math.inf) leaves it out.
        """
        T = logits.shape[1]
        return sum(F.cross_entropy(scores.float(), columns.clamp(0, T), ignore_index=T)
                   for scores, columns in zip(logits.unbind(2), labels.unbind(1), strict=True)) / 2
