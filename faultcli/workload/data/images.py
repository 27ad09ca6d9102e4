"""A folder of images per class: found, decoded once by all cores, kept as bytes.

What is kept is uint8 [N, C, H, W] at the size that the network takes, 150 kB an image of 224×224. Up to `IN_MEMORY` it
lies in RAM, above that in a temporary file that has no name and goes with the process; RAM use is then bounded by what
the system caches of it, and by one image per core while decoding.
"""

from __future__ import annotations

import csv
import os
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultcli.errors import WorkloadError, install
from faultcli.foreign import ForeignError, read_text, whole_number
from faultcli.workload.data.readers import Arrays
from faultcli.workload.preprocess import Geometry

IN_MEMORY = 1 << 30
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MORE = "\0more"  # where the fields go that a line of a table has beyond its header's
_NO_EIGHT_BITS = ("I", "F")  # Pillow's modes of 16 and 32 bits per channel start with these


def read_images(
    directory: Path, geometry: Geometry | None = None, limit: int | None = None, classes: Path | None = None
) -> Arrays:
    """Read `directory`, which has a folder for every class.

    Classes are numbered by the sorted names of the folders, or by a mapping file. The order is the first image of
    every class, then the second of every class and so on, so that a limit takes from all classes alike.

    Images are turned as their EXIF data say, and become RGB (or grey, where the network takes one channel) whatever
    they are; transparency is dropped. Images of 16 and more bits per channel, damaged ones, and those with more pixels
    than Pillow deems safe are refused.

    Args:
        directory: holds folders; files beside them are ignored, and so are files in them that are no images.
        geometry: how they get one size; None: they have to have one.
        limit: read only so many.
        classes: a CSV file with a header, a column `index`, a column with the folders' names, and maybe `name`.

    Raises:
        WorkloadError: Pillow is not installed, there are no images, a folder is in no line of `classes`, an image
            cannot be used (it is named), or the disk has no room.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise WorkloadError(f"images:{directory} needs Pillow", install("images")) from error
    folders = _folders(directory)
    if geometry is not None and geometry.refused is not None:
        raise geometry.refused
    index, names = _numbered(sorted(folders), classes)
    rows = [[(path, index[folder]) for path in paths] for folder, paths in sorted(folders.items())]
    chosen = [item for item in chain.from_iterable(zip_longest(*rows)) if item is not None][:limit]
    paths = [path for path, _ in chosen]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        images, fitting = _decode_all(paths, geometry)
    notes = _as_they_are(f"images:{directory}", fitting, images)
    return Arrays(images, np.array([number for _, number in chosen]), names, "NCHW", notes=notes)


def _folders(directory: Path) -> dict[str, list[Path]]:
    try:
        entries = [entry for entry in directory.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
        found = {
            entry.name: sorted(path for path in entry.iterdir() if path.suffix.lower() in _SUFFIXES)
            for entry in entries
        }
    except OSError as error:
        raise WorkloadError(
            f"images:{directory}: cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from error
    remedy = f"a folder for every class is needed, with images ending in {', '.join(sorted(_SUFFIXES))}"
    if not found:
        raise WorkloadError(f"images:{directory}: has no folders", remedy)
    empty = sorted(name for name, paths in found.items() if not paths)
    if empty:
        raise WorkloadError(f"images:{directory}: the folder {empty[0]!r} has no images", remedy)
    return found


def _numbered(folders: list[str], classes: Path | None) -> tuple[dict[str, int], tuple[str, ...] | None]:
    """Return the class of every folder, and the classes' names from 0 on (None where not all have one)."""
    if classes is None:
        return {folder: number for number, folder in enumerate(folders)}, tuple(folders)
    remedy = "it needs a header line with index and one other column that holds the folders' names"
    try:
        table = StringIO(read_text(classes).removeprefix("\ufeff"), newline="")
        lines = list(csv.DictReader(table, restkey=_MORE, restval=""))
    except ForeignError as error:
        raise WorkloadError(f"{classes}: {error}", remedy) from None
    except csv.Error as error:
        raise WorkloadError(f"{classes}: is no table of classes: {error}", remedy) from error
    if lines and "index" not in lines[0]:
        raise WorkloadError(f"{classes}: has no column index", remedy)
    numbers = [number for line in lines if (number := whole_number(line["index"])) is not None]
    if len(numbers) < len(lines):
        raise WorkloadError(f"{classes}: is no table of classes: an index is no whole number", remedy)
    if not lines or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise WorkloadError(f"{classes}: the indexes have to differ and to count from 0", remedy)
    columns: list[dict[Any, int]] = [
        {line.get(column, ""): number for line, number in zip(lines, numbers, strict=True)}
        for column in lines[0]
        if column not in ("index", _MORE)
    ]
    best = max(columns, key=lambda column: sum(folder in column for folder in folders), default={})
    lost = [folder for folder in folders if folder not in best]
    if lost:
        raise WorkloadError(f"{classes}: has no class for the folder {lost[0]!r}", remedy)
    named = dict(zip(numbers, (line.get("name") or "" for line in lines), strict=True))
    complete = all(named.get(number) for number in range(len(named)))
    return {folder: best[folder] for folder in folders}, (
        tuple(named[number] for number in range(len(named))) if complete else None
    )


def _as_they_are(name: str, fitting: int, images: NDArray[np.uint8]) -> tuple[str, ...]:
    """Say that images were not resized and cropped because they have the size that the network takes."""
    if not fitting:
        return ()
    number, _, height, width = images.shape
    some = f"{fitting:,} of {number:,}" if fitting < number else "all"
    return (f"{name}: {some} images have the network's {width}×{height} and are not resized and cropped again",)


def _decode_all(paths: list[Path], geometry: Geometry | None) -> tuple[NDArray[np.uint8], int]:
    """Return the images, and how many of them were left as they are though others of their size would not be."""
    first, fits = _decode(paths[0], geometry)
    images = _room((len(paths), *first.shape))
    images[0] = first

    def put(number: int) -> bool:
        image, fits = _decode(paths[number], geometry)
        if image.shape != first.shape:
            sizes = [f"{shape[2]}×{shape[1]}" for shape in (first.shape, image.shape)]
            raise WorkloadError(
                f"{paths[number]}: is {sizes[1]}, {paths[0].name} is {sizes[0]}, and it is not known what the network"
                " takes",
                "resize the images to one size",
            )
        images[number] = image
        return fits

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        try:
            fitting = fits + sum(pool.map(put, range(1, len(paths))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return images, fitting


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    size = int(np.prod(shape))
    if size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows here, and not as a signal later
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise WorkloadError(
            f"{shape[0]:,} decoded images take {size / 1e9:.1f} GB in {tempfile.gettempdir()}: {error.strerror}",
            "set TMPDIR to a larger disk, or use fewer with --limit",
        ) from error


def _decode(path: Path, geometry: Geometry | None) -> tuple[NDArray[np.uint8], bool]:
    """Return one image as uint8 [C, H, W], and whether it was left as it is because it fits."""
    from PIL import Image, ImageOps

    grey = geometry is not None and geometry.channels == 1
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_NO_EIGHT_BITS):
                raise WorkloadError(
                    f"{path}: has more than 8 bits per channel (mode {image.mode})", "store it as 8-bit"
                )
            turned = ImageOps.exif_transpose(image)
            if geometry is not None and geometry.on_white:
                turned = _on_white(turned)
            turned = turned.convert("L" if grey else "RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise WorkloadError(f"{path}: has more than {limit} pixels", "resize it, or leave it out") from error
    except WorkloadError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they come upon
        raise WorkloadError(f"{path}: cannot be decoded: {error}", "fetch it again, or leave it out") from error
    try:
        pixels = np.asarray(turned if geometry is None else geometry.framed(turned))
    except ValueError as error:
        raise WorkloadError(f"{path}: {error}", "crop it, or leave it out") from error
    fits = geometry is not None and geometry.changes((turned.height, turned.width))
    return (pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))), fits


def _on_white(image: Any) -> Any:
    """Return an image of Pillow without transparency, what shows through it being white."""
    from PIL import Image

    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear)
