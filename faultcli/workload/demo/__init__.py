"""The embedded demo: 1797 real handwritten digits and a network trained on 1297 of them.

`digits.npz`: `images` uint8 [1797, 8, 8] with values 0 to 16, `labels` uint8 [1797], `is_test` bool [1797] (500 are).
The digits are the test set of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and Kaynak, 1998,
CC BY 4.0), as scikit-learn ships it; the last 500 are the test split. `digits-cnn.safetensors`: the weights.
Both are made by `examples/train_digits.py`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

_HERE = Path(__file__).parent


def demo_checkpoint_path() -> Path:
    """Return the trained `digits-cnn` checkpoint."""
    return _HERE / "digits-cnn.safetensors"


def demo_data_path() -> Path:
    """Return the archive of the digits."""
    return _HERE / "digits.npz"


def demo_files() -> dict[str, bytes]:
    """Return the demo as a user would have it, by file name: `model.safetensors` as it is, then `data.npz` with
    `images` uint8 [500, 8, 8] and `labels` uint8 [500], the digits that the network was not trained on."""
    packed = BytesIO()
    with np.load(demo_data_path(), allow_pickle=False) as archive:
        chosen = archive["is_test"]
        np.savez_compressed(packed, images=archive["images"][chosen], labels=archive["labels"][chosen])
    return {"model.safetensors": demo_checkpoint_path().read_bytes(), "data.npz": packed.getvalue()}
