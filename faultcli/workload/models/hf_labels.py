"""What the configuration of a model of transformers calls its classes."""

from __future__ import annotations

from typing import Any

_BACKGROUND = "background"


def class_names(config: Any) -> tuple[str, ...]:
    """Return the names of all classes, from index 0 on; empty where the configuration has none, or not of all."""
    table = getattr(config, "id2label", None) or {}
    if not isinstance(table, dict) or not all(index in table for index in range(len(table))):
        return ()
    return tuple(str(table[index]) for index in range(len(table)))


def offset_of(names: tuple[str, ...]) -> int:
    """Return the class that the network has for label 0 of data that know no background: 1 where its class 0 is that,
    as in the models that come from TF-Slim."""
    return int(bool(names) and names[0].lower() == _BACKGROUND)
