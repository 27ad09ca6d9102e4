"""Chains by tensor in a file: `plan.toml`, with a default and globs of tensors' names.

    default = "inplace=1"

    [tensors]  # the first glob that matches counts
    "features.*.conv.*.0.weight" = "secded=64"

What such a file says is the chain, wherever it is kept: records and stores have its content, not its path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from faultcli.errors import UsageError
from faultcli.foreign import ForeignError, parse_toml, read_text
from faultcli.protect.chain import Chain, chain_of, parse_chain

Protect: TypeAlias = (
    "str | Path | Mapping[str, Any] | Chain"  # a chain's text, a plan's file or content, or either read
)
ENDING = ".toml"
_LARGEST = 1 << 20  # bytes


def read_chain(asked: Protect) -> Chain:
    """Return the protections that a user asks for: a chain such as `scale=max,guard`, a file that ends in `.toml`, or
    what such a file says (`{"default": "inplace=1", "tensors": {"*.fc.weight": "secded=64"}}`).

    Raises:
        UsageError: it is none of these; of a file, it is named.
    """
    if isinstance(asked, Chain):
        return asked
    if isinstance(asked, Mapping):
        return chain_of(asked)
    if isinstance(asked, str) and not asked.strip().endswith(ENDING):
        return parse_chain(asked)
    path = Path(asked.strip() if isinstance(asked, str) else asked)
    try:
        return chain_of(parse_toml(read_text(path, _LARGEST)))
    except ForeignError as error:
        raise UsageError(f"{path}: {error}", 'a TOML file: default = "inplace=1", and a table [tensors]') from None
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.remedy) from None


def plan_text(chain: Chain, *comments: str) -> str:
    """Return a chain as the content of a plan's file, comments first."""
    quoted = {glob: Chain(links).text for glob, links in chain.rules}
    lines = [*(f"# {line}" for line in comments), f"default = {_quoted(Chain(chain.links).text)}"]
    if quoted:
        lines += ["", "[tensors]", *(f"{_quoted(glob)} = {_quoted(text)}" for glob, text in quoted.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a basic string of TOML, of which those of JSON are a part but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
