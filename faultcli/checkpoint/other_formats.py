"""Files that are no safetensors: what they are, told by their content first and by their name where it has no mark."""

from __future__ import annotations

import re
import shlex
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

START = 512  # bytes from the beginning that tell a file

_AS_TRAINED = "faultcli works on the weights as they were trained: save them as safetensors"
_AGAIN = "download or export it again"
_CONVERT = "convert it: faultcli convert {name}"


@dataclass(frozen=True)
class OtherFormat:
    """A kind of file that holds something else than safetensors.

    Attributes:
        what: completes "FILE: is …".
        remedy: what to do; `{name}` stands for the file as a shell takes it.
        convertible: `faultcli convert` reads it.
    """

    what: str
    remedy: str
    convertible: bool = False

    def remedy_for(self, path: Path) -> str:
        """Return what to do with this file."""
        return self.remedy.format(name=quoted(path))


def quoted(path: Path) -> str:
    """Return a file's name as a shell takes it, and no command for an option."""
    name = str(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


ZIPPED_PICKLE = OtherFormat("a pickle checkpoint (zip), not safetensors", _CONVERT, convertible=True)
PICKLE = OtherFormat("a pickle checkpoint, not safetensors", _CONVERT, convertible=True)
_ARRAYS = "a file of numpy arrays, not safetensors"
ARRAYS = OtherFormat(_ARRAYS, _CONVERT, convertible=True)
_NPZ = OtherFormat(_ARRAYS, f"as data it is --data {{name}}; as weights, {_CONVERT}", convertible=True)
_EXPORTED = OtherFormat(
    "an exported program: its weights are not read from there",
    'take them out: python -c "import sys, torch, safetensors.torch as s; s.save_file({{k: v.detach().clone() for k, v '
    "in torch.export.load(sys.argv[1]).state_dict.items()}}, 'model.safetensors')\" {name}; then: model.safetensors "
    "--arch {name}",
)
_TORCHSCRIPT = OtherFormat(
    "a TorchScript program, and reading one runs code that comes with it",
    'if you trust it, take its weights out: python -c "import sys, torch; torch.save(torch.jit.load(sys.argv[1], '
    "map_location='cpu').state_dict(), 'weights.pt')\" {name}; then: faultcli convert weights.pt",
)
_KERAS = OtherFormat("a Keras file, not safetensors", _AS_TRAINED)
_GGUF = OtherFormat(
    "a GGUF file, not safetensors",
    "most commands take it as it is: faultcli inspect {name}; for the others, the safetensors that it was made from",
)
_HDF5 = OtherFormat("an HDF5 file, as Keras writes them, not safetensors", _AS_TRAINED)
_LFS = OtherFormat("a Git LFS pointer, not the file itself", "fetch it: git lfs pull")
_PAGE = OtherFormat("a web page, not the file itself", "download it again: the address gave a page and no file")
_NUMPY = OtherFormat("one numpy array, not safetensors", "save all tensors of the model, by name: numpy.savez")
_ARCHIVE = OtherFormat("an archive, not safetensors", "unpack it, and name the checkpoint in it")
_ONNX = OtherFormat("an ONNX file, not safetensors", _AS_TRAINED)
_TFLITE = OtherFormat("a TensorFlow Lite file, not safetensors", _AS_TRAINED)
_TENSORFLOW = OtherFormat("a TensorFlow graph, not safetensors", _AS_TRAINED)
_FLAX = OtherFormat("a Flax file, not safetensors", _AS_TRAINED)
_PADDLE = OtherFormat("a PaddlePaddle file, not safetensors", _AS_TRAINED)
_CORE_ML = OtherFormat("a Core ML file, not safetensors", _AS_TRAINED)
_TENSORRT = OtherFormat("a TensorRT engine, not safetensors", _AS_TRAINED)

# First bytes that give away what a file really is. A zip is looked into, see `_in_zip`.
_BY_CONTENT: tuple[tuple[re.Pattern[bytes], OtherFormat], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), found)
    for pattern, found in (
        (rb"version https://git-lfs", _LFS),
        (rb"\s*<(!doctype|html|\?xml)", _PAGE),
        (rb"GGUF", _GGUF),
        (rb"\x89HDF", _HDF5),
        (rb"\x93NUMPY", _NUMPY),
        (rb".{4}TFL3", _TFLITE),
        (rb"\x1f\x8b|\x28\xb5\x2f\xfd|\xfd7zXZ|.{257}ustar", _ARCHIVE),
        (rb"\x08[\x01-\x20](\x12.{1,32}(pytorch|onnx|tf2|keras)|\x12\x07pytorch)", _ONNX),
    )
)
_PICKLED = re.compile(rb"\x80[\x02-\x05]")
# Endings that do: of formats without a mark of their own, or with the mark of another.
_BY_NAME: dict[str, OtherFormat] = {
    ".pt2": _EXPORTED,
    ".onnx": _ONNX,
    ".tflite": _TFLITE,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".keras": _KERAS,
    ".pb": _TENSORFLOW,
    ".msgpack": _FLAX,
    ".pdparams": _PADDLE,
    ".mlmodel": _CORE_ML,
    ".engine": _TENSORRT,
    ".gguf": _GGUF,
    ".npz": _NPZ,
}
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def other_format(path: Path, start: bytes) -> OtherFormat | None:
    """Return what a file is, if it is one of the formats that are known and not safetensors.

    Args:
        path: the file; looked into where it is a zip.
        start: its first bytes, `START` of them where there are as many.
    """
    if start[8:9] == b"{":  # a header; its length may begin as other files do: 640 bytes is b"\x80\x02"
        return None
    suffix = path.suffix.lower()
    if start.startswith(b"PK\x03\x04"):
        return _BY_NAME.get(suffix) if suffix == ".pt2" else _in_zip(path)
    for pattern, found in _BY_CONTENT:
        if pattern.match(start):
            return found
    if suffix in _BY_NAME and suffix != ".npz":
        return _BY_NAME[suffix]
    if _PICKLED.match(start):
        return PICKLE
    return _BY_NAME.get(suffix)


def how_to_convert(directory: Path, pickles: Collection[str]) -> str:
    """Return what makes safetensors of the pickles in a directory."""
    whole = any(name.startswith("pytorch_model") for name in pickles)
    names = [directory] if whole else [directory / name for name in pickles]
    return _CONVERT.format(name=quoted(names[0])) + (f", or another of {len(names)}" if len(names) > 1 else "")


def _in_zip(path: Path) -> OtherFormat:
    """Tell the kinds of zip files by the names in them; one that cannot be read is the usual kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return _BY_NAME.get(path.suffix.lower(), ZIPPED_PICKLE)
    if names and all(name.endswith(".npy") for name in names):
        return _NPZ if path.suffix.lower() == ".npz" else ARRAYS
    if "model.weights.h5" in names:
        return _KERAS
    if _inside(names, "data.pkl"):
        return _TORCHSCRIPT if any("/code/" in f"/{name}" for name in names) else ZIPPED_PICKLE
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names):
        return _EXPORTED
    return _ARCHIVE


def _inside(names: Collection[str], wanted: str) -> bool:
    return any(name.rpartition("/")[2] == wanted for name in names)
