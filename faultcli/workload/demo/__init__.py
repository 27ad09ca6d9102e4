"""The embedded demo: 1797 real handwritten digits and a network trained on 1297 of them.

`digits.npz`: `images` uint8 [1797, 8, 8] with values 0 to 16, `labels` uint8 [1797], `is_test` bool [1797] (500 are).
The digits are the test set of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and Kaynak, 1998,
CC BY 4.0), as scikit-learn ships it; the last 500 are the test split. `digits-cnn.safetensors`: the weights.
Both are made by `examples/train_digits.py`.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def demo_checkpoint_path() -> Path:
    """Return the trained `digits-cnn` checkpoint."""
    return _HERE / "digits-cnn.safetensors"


def demo_data_path() -> Path:
    """Return the archive of the digits."""
    return _HERE / "digits.npz"
