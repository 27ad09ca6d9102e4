"""How a host reads a hardened file, flips corrected: numpy and safetensors, nothing else.

python examples/read_hardened.py model.hardened.safetensors

It reads fp64, fp32, fp16, bf16, fp8, qI.F, intN, intN-channel and intN-gK behind scale, guard, mset, cep, inplace,
parity, secded and tmr, and refuses anything else. The words of a block that `inplace` cannot correct stay as they were
read (faultcli takes them for what they probably were); values of BF16 checkpoints are float32, not rounded to it.
"""

import base64
import hashlib
import json
import math
import re
import sys
from functools import reduce
from itertools import combinations
from operator import xor

import numpy as np
from safetensors import safe_open

DTYPES = {"F64": ("fp64", "f8"), "F32": ("fp32", "f4"), "F16": ("fp16", "f2"), "BF16": ("bf16", "f4")}
FLOATS = {"fp64": 64, "fp32": 32, "fp16": 16, "bf16": 16, "fp8-e4m3": 8, "fp8-e5m2": 8}
WIDER = {"bf16": "<f4", "fp8-e4m3": "<f2", "fp8-e5m2": "<f2"}  # of what they are the top
KNOWN = {"scale", "guard", "mset", "cep", "inplace", "parity", "secded", "tmr"}

EXP = [1]  # powers of x in GF(256), modulo x^8+x^4+x^3+x^2+1
while len(EXP) < 255:
    EXP.append(EXP[-1] << 1 ^ (0x11D if EXP[-1] & 128 else 0))
LOG = {element: power for power, element in enumerate(EXP)}


def times(a, b):
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def find_flips(syndromes, t):  # Berlekamp and Massey: the positions of up to t flips; None if there are no such
    locator, previous, degree, scale = [1] + [0] * t, [1] + [0] * t, 0, 1
    for step in range(2 * t):
        previous = [0, *previous[:-1]]
        discrepancy = reduce(xor, map(times, locator, syndromes[step::-1]))
        ratio = times(discrepancy, EXP[-LOG[scale] % 255])
        updated = [own ^ times(ratio, other) for own, other in zip(locator, previous, strict=True)]
        if discrepancy and 2 * degree <= step:
            previous, scale, degree = locator, discrepancy, step + 1 - degree
        locator = updated
    values = [reduce(xor, [times(c, EXP[-at * k % 255]) for k, c in enumerate(locator)]) for at in range(255)]
    return [at for at in range(255) if not values[at]] if values.count(0) == degree <= t else None


def correct_inplace(blocks, bits, t):  # [n, bits of a block]; afterwards the check bits are 0
    size = blocks.shape[1] // bits  # words
    parity = len({(k << turn) % 255 for k in range(1, 2 * t, 2) for turn in range(8)})  # check bits but the last
    given = [(parity + size - word) // size for word in range(size)]  # low bits that each word gives up
    checks = [word * bits + bit for word in range(size) for bit in range(given[word])]
    data = [word * bits + bit for bit in reversed(range(bits)) for word in range(size) if bit >= given[word]]
    places = np.array(checks[:-1] + data)  # where bit 0, 1, ... of the BCH word lies
    powers = np.array([[EXP[at * k % 255] for at in range(len(places))] for k in range(1, 2 * t + 1)], np.uint8)
    syndromes = np.array([np.bitwise_xor.reduce(blocks[:, places] * row, axis=1) for row in powers])
    for hit in np.flatnonzero(syndromes.any(axis=0)):
        flips = find_flips(syndromes[:, hit].tolist(), t)
        odd = int(blocks[hit].sum()) % 2  # the last check bit makes the ones of a block even
        if flips and max(flips) < len(places) and len(flips) + (len(flips) + odd) % 2 <= t:  # else it is lost
            blocks[hit, places[flips]] ^= 1
    blocks[:, checks] = 0


def correct_secded(blocks, checks, keep_lost):
    width = checks.shape[1]
    chosen = [ones for weight in range(3, width + 1, 2) for ones in combinations(range(width), weight)]
    columns = np.array([sum(1 << bit for bit in ones) for ones in chosen[: blocks.shape[1]]])
    syndromes = np.bitwise_xor.reduce(blocks * columns, axis=1) ^ checks @ (1 << np.arange(width))
    for hit in np.flatnonzero(syndromes):
        if syndromes[hit] in columns:
            blocks[hit, columns == syndromes[hit]] ^= 1
        elif syndromes[hit].bit_count() > 1 and not keep_lost:  # one bit: a check bit flipped
            blocks[hit] = 0


def load(file, region, bits, count):  # words as bits, [count, bits], lowest first; below a byte they lie densely
    data = file.get_tensor(region).ravel()
    width = bits if bits < 8 else 8 * data.itemsize
    return np.unpackbits(data.view(np.uint8), bitorder="little", count=count * width).reshape(count, width)[:, :bits]


def read_words(file, name, format, bits, count, links):
    reach = {"inplace": 256, "secded": int(links.get("secded") or 64)}
    sizes = {link: reach[link] // bits for link in links if link in reach}  # words of a block
    words = load(file, name, bits, count)
    if "inplace" in links and (more := -count % math.lcm(*sizes.values())):
        words = np.concatenate([words, load(file, f"{name}#padding", bits, more)])
    for link, value in reversed(links.items()):
        if link == "parity":
            words[(words.sum(axis=1) + load(file, f"{name}#parity", 1, len(words))[:, 0]) % 2 == 1] = 0
        elif link == "tmr":
            top = int(value[4:] or bits)  # msb:K, or all
            copies = load(file, f"{name}#tmr", top, 2 * len(words)).reshape(-1, 2, top).sum(axis=1)
            words[:, bits - top :] = words[:, bits - top :] + copies > 1
        elif link in sizes:
            blocks = np.pad(words, ((0, -len(words) % sizes[link]), (0, 0))).reshape(-1, sizes[link] * bits)
            if link == "inplace":
                correct_inplace(blocks, bits, int(float(value) * sizes[link] / 8))
            else:
                checks = load(file, f"{name}#secded", 8 if blocks.shape[1] <= 64 else 9, len(blocks))
                correct_secded(blocks, checks, "inplace" in links)
            words = blocks.reshape(-1, bits)
        elif link == "mset":  # the exponent's top bit, or the sign, and two copies
            three = [0, 1, bits - 2 if format in FLOATS else bits - 1]
            words[:, three] = np.outer(words[:, three].sum(axis=1) > 1, [0, 0, 1])
        elif link == "cep":  # chunks from the top, their parities in the lowest bits
            size = int(value[1:-2] or 7)
            for k in range(bits // (size + 1)):
                chunk = words[:, bits - size * (k + 1) : bits - size * k]
                chunk[(chunk.sum(axis=1) + words[:, k]) % 2 == 1] = 0
            words[:, : bits // (size + 1)] = 0
    return words[:count]


def numbers(words, format):
    bits, zero, sign = words.shape[1], np.zeros_like(words[:, :1]), words[:, -1:]
    kind, unit = WIDER.get(format, f"<f{bits // 8}"), 1.0
    if format == "fp8-e4m3":  # a binary16 with one bit less of an exponent, whose bias is less by 8
        columns, unit = [zero] * 7 + [words[:, :7], zero, sign], 256.0
    elif format in FLOATS:
        columns = [zero] * (8 * np.dtype(kind).itemsize - bits) + [words]
    else:
        columns, kind, unit = [words] + [sign] * (32 - bits), "<i4", 2.0 ** -int(format.partition(".")[2] or 0)
    packed = np.packbits(np.concatenate(columns, axis=1), axis=1, bitorder="little").view(kind).ravel()
    return packed.astype("f8" if format == "fp64" or (kind == "<i4" and bits > 25) else "f4") * unit


def read_tensor(file, name, about, format, links):
    native, dtype = DTYPES.get(about["dtype"], (about["dtype"], None))
    format, shape, count = native if format == "native" else format, about["shape"], math.prod(about["shape"])
    form = re.fullmatch(r"q(\d+)\.(\d+)|int(\d+)(?:-channel|-g(\d+))?", format)
    if dtype is None or not (form or format in FLOATS) or links.keys() - KNOWN:
        raise ValueError(f"{name}: {about['dtype']} as {format} behind {[*links]} is not read here")
    bits = FLOATS.get(format) or int(form[3] or 0) or 1 + int(form[1]) + int(form[2])
    values = numbers(read_words(file, name, format, bits, count, links), format)

    def spread(constants):  # one for all, one per channel or one per group: over all values
        constants = np.frombuffer(base64.b64decode(constants[3:]), "<f4") if isinstance(constants, str) else constants
        return np.repeat(np.float32([constants]).ravel(), count // max(1, np.size(constants))).astype(values.dtype)

    if form and form[4] and count:  # a scale per group of a row, in the memory
        rows, group = shape[0] if len(shape) > 1 else 1, int(form[4])
        outer = {link: value for link, value in links.items() if link in ("parity", "secded", "tmr")}
        stored = read_words(file, f"{name}#scale", "fp16", 16, rows * -(-count // rows // group), outer)
        scales = numbers(stored, "fp16").reshape(rows, -1)
        values *= np.repeat(scales, group, axis=1)[:, : count // rows].ravel()
    elif "scales" in about:
        values *= spread(about["scales"])
    for (link, value), own in reversed(list(zip(links.items(), about["links"], strict=True))):
        if link == "guard":
            bound = spread(own["bounds"])
            if "clamp" in value:
                values = np.clip(values, -bound, bound)
            values[~(np.abs(values) <= bound)] = 0  # NaN, too
        elif link == "scale":
            values = values / spread(own["factors"])
    return (values if dtype == "f8" else values.astype("f4")).astype(dtype).reshape(shape)


def read_hardened(path):
    with safe_open(path, framework="numpy") as file, np.errstate(all="ignore"):
        copies = [file.metadata().get(f"faultcli.hardened{n}", "").partition(" ") for n in ("", ".2", ".3")]
        whole = [text for sha, _, text in copies if hashlib.sha256(text.encode()).hexdigest() == sha]
        if not whole:
            raise ValueError(f"{path}: all copies of the record are damaged")
        record = json.loads(whole[0])
        links = dict(part.partition("=")[::2] for part in record["protect"].split(",") if part != "none")
        inside = tuple(f"{name}#" for name in record["order"])
        found = {key: file.get_tensor(key) for key in file.keys() if not f"{key}#".startswith(inside)}  # noqa: SIM118
        about, format = record["tensors"], record["format"]
        return found | {name: read_tensor(file, name, about[name], format, links) for name in record["order"]}


if __name__ == "__main__":
    for name, tensor in read_hardened(sys.argv[1]).items():
        print(f"{name:30} {tensor.dtype} {list(tensor.shape)}")
