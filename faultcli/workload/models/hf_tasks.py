"""The tasks that models of transformers are made for, as far as their answer is one of K classes or the next token."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.workload.models.architectures import Architecture, Language, Texts
from faultcli.workload.models.hf_config import CONFIG, count
from faultcli.workload.models.hf_labels import class_names, offset_of
from faultcli.workload.models.hf_processor import preprocessing
from faultcli.workload.models.hf_weights import ImageClassifier, LanguageModel, Wrap

_NOT_INPUTS = {"labels", "self", "return_dict", "output_attentions", "output_hidden_states", "use_cache"}


class AnyModel(nn.Module):
    """A model of transformers as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the model's own output."""
        return self.model(*inputs, **named)


class NamedClassifier(AnyModel):
    """Inputs by the names that transformers has for them, the first also by position, to logits [N, K].

    A model that knows no padding takes one sequence at a time, without its padding: it may answer from the last token.
    """

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Run the model, floating-point inputs in its own dtype."""
        takes = inspect.signature(self.model.forward).parameters
        given = {**dict(zip(takes, inputs, strict=False)), **named}
        given = {key: one.to(self.model.dtype) if one.is_floating_point() else one for key, one in given.items()}
        ids = given.get("input_ids")
        if ids is None or not _knows_no_padding(self.model.config):
            return self._logits(given)
        rows = [{key: one[at : at + 1] for key, one in given.items()} for at in range(len(ids))]
        return torch.cat([self._logits(_unpadded(row)) for row in rows])

    def _logits(self, given: Mapping[str, Tensor]) -> Tensor:
        cache = {"use_cache": False} if "use_cache" in inspect.signature(self.model.forward).parameters else {}
        logits: Tensor = self.model(**given, **cache).logits
        return logits


def _knows_no_padding(config: Any) -> bool:
    return config.get_text_config().pad_token_id is None and not config.is_encoder_decoder


def _unpadded(row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one sequence without its padding, as far as a mask says which of its tokens are."""
    mask = row.get("attention_mask")
    if mask is None or mask.dim() != 2 or not bool(mask.any()):
        return dict(row)
    kept = mask[0].bool()
    return {key: one[:, kept] if one.shape == mask.shape else one for key, one in row.items()}


@dataclass(frozen=True)
class HfTask:
    """A task of models of transformers.

    Attributes:
        name: what a model of it is, for people.
        mapping: the table of transformers that lists its classes, `MODEL_FOR_{mapping}_MAPPING_NAMES`.
        wrap: what makes a module of the workload of the model.
        complete: says what is known of the model's inputs and answers, from the directory and its configuration.
    """

    name: str
    mapping: str
    wrap: Wrap
    complete: Callable[[Architecture, Path, Any], Architecture]

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """The names of its classes by the model types that they are for."""
        from transformers.models.auto import modeling_auto

        names: Mapping[str, Any] = getattr(modeling_auto, f"MODEL_FOR_{self.mapping}_MAPPING_NAMES")
        return {kind: name if isinstance(name, tuple) else (name,) for kind, name in names.items()}


def _images(made: Architecture, directory: Path, config: Any) -> Architecture:
    preprocess, geometry = preprocessing(directory, config)
    names = class_names(config)
    return replace(
        made,
        preprocess=preprocess,
        geometry=geometry,
        input_shape=None if geometry is None else geometry.input_shape,
        num_classes=count("num_labels", config.num_labels),
        class_names=names,
        label_offset=offset_of(names),
        data="images:DIR",
    )


def _language(made: Architecture, directory: Path, config: Any) -> Architecture:
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    language = Language(
        count("vocab_size", text.vocab_size),
        None if context is None else count("max_position_embeddings", context),
        directory,
    )
    return replace(
        made, language=language, data="FILE.safetensors (input_ids, attention_mask), FILE.txt or FILE.jsonl (questions)"
    )


def _texts(made: Architecture, directory: Path, config: Any) -> Architecture:
    text = config.get_text_config()
    vocabulary, longest = getattr(text, "vocab_size", None), getattr(text, "max_position_embeddings", None)
    classes = {str(name): int(at) for at, name in (config.id2label or {}).items()}
    texts = Texts(
        None if vocabulary is None else count("vocab_size", vocabulary),
        longest if type(longest) is int and longest > 0 else None,  # -1: no limit
        text.pad_token_id if type(text.pad_token_id) is int else None,
        directory,
        classes,
    )
    data = "FILE.npz (input_ids, attention_mask, labels) or FILE.jsonl (text, label)"
    slow = (f"{directory / CONFIG}: names no pad_token_id: one sequence at a time is run, without its padding",)
    notes = (*made.notes, *(slow if _knows_no_padding(config) else ()))
    made = replace(made, texts=texts, data=data, takes=inputs_of(made.name), notes=notes)
    return _classes(made, directory, config)


def _sound(made: Architecture, directory: Path, config: Any) -> Architecture:
    data = "FILE.npz (inputs as its feature extractor makes them, labels)"
    return _classes(replace(made, data=data, takes=inputs_of(made.name)), directory, config)


def _classes(made: Architecture, directory: Path, config: Any) -> Architecture:
    """Return a classifier with its number of classes, if it is one."""
    labels = count("num_labels", config.num_labels)
    if labels == 1 or config.problem_type in ("regression", "multi_label_classification"):
        kind = config.problem_type or "regression"
        answers = {"regression": "numbers", "multi_label_classification": "any number of classes at once"}[kind]
        problem = f"{directory / CONFIG}: {made.name} is for {kind}: it answers with {answers} and not with one of K"
        return replace(made, no_classes=f"{problem} classes")
    return replace(made, num_classes=labels)


def inputs_of(name: str) -> tuple[str, ...]:
    """Return the names of the inputs that a class of transformers takes, the main one first."""
    import transformers

    parameters = inspect.signature(getattr(transformers, name).forward).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(key for key, one in parameters.items() if one.kind in kinds and key not in _NOT_INPUTS)


TASKS = (
    HfTask("image classifier", "IMAGE_CLASSIFICATION", ImageClassifier, _images),
    HfTask("causal language model", "CAUSAL_LM", LanguageModel, _language),
    HfTask("text classifier", "SEQUENCE_CLASSIFICATION", NamedClassifier, _texts),
    HfTask("audio classifier", "AUDIO_CLASSIFICATION", NamedClassifier, _sound),
)
