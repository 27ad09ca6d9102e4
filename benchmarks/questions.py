"""Questions with choices out of texts as tokens: which of four continuations is the text's own?

    python -m benchmarks.questions stories260k/eval_tokens_valid_head.safetensors -o questions.jsonl
    faultcli evaluate stories260k/hf --data questions.jsonl

Each is a window of a text, its continuation, and the continuations of three other windows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def questions(texts: list[list[int]], context: int, choice: int, seed: int) -> list[dict[str, object]]:
    """Return a question per window of `context` + `choice` tokens, with four choices in random order."""
    draw = np.random.default_rng(seed)
    size = context + choice
    windows = [text[at : at + size] for text in texts for at in range(0, len(text) - size + 1, size)]
    found = []
    for number, window in enumerate(windows):
        others = draw.choice([at for at in range(len(windows)) if at != number], 3, replace=False)
        choices = [window[context:], *(windows[at][context:] for at in others)]
        order = draw.permutation(4)
        found.append({"context": window[:context], "choices": [choices[at] for at in order],
                      "answer": int(np.flatnonzero(order == 0)[0])})  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path, help="input_ids and attention_mask, as --data takes them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--context", type=int, default=24)
    parser.add_argument("--choice", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    arrays = load_file(given.tokens)
    lengths = arrays["attention_mask"].sum(axis=1)
    texts = [row[:length].tolist() for row, length in zip(arrays["input_ids"], lengths, strict=True)]
    made = questions(texts, given.context, given.choice, given.seed)
    given.output.write_text("".join(f"{json.dumps(one)}\n" for one in made))


if __name__ == "__main__":
    main()
