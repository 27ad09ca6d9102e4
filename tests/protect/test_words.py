"""Protections of single words and blocks: every word, every single flip, and sampled double flips."""

from itertools import combinations

import numpy as np
import pytest
import torch

from faultcli.formats import container_dtype, parse_format
from faultcli.protect.base import Fitted, Words, Written, codes_of, words_of
from faultcli.protect.bch import bch_code
from faultcli.protect.chain import PROTECTIONS, parse_chain
from faultcli.protect.factors import largest_fitting
from faultcli.protect.inplace import FittedInPlace

ALL16 = np.arange(1 << 16, dtype=np.uint16)
DOUBLES = [(a, b) for a, b in combinations(range(16), 2) if (a * 5 + b) % 3 == 0]


def fit(chain: str, words: Words, format: str = "q7.8") -> Fitted:
    fmt = parse_format(format)
    (link,) = parse_chain(chain).links
    return link.fit(Written(fmt.decode(codes_of(words)), words, fmt, None))


def read(link: Fitted, words: Words, checks: Words) -> Words:
    return link.read_words(words.reshape(-1, link.block), checks).reshape(-1)


@pytest.mark.parametrize(("format", "top"), [("q7.8", 15), ("fp16", 14), ("bf16", 14)])
def test_mset_outvotes_every_single_flip_of_the_top_bit_and_its_copies(format: str, top: int) -> None:
    link = fit("mset", ALL16, format)
    written = link.write_words(ALL16[:, None])[:, 0]
    none = np.empty((0, 0), np.uint8)
    clean = read(link, written, none)
    assert np.array_equal(clean, ALL16 & 0xFFFC)
    for bit in range(16):
        faulty = read(link, written ^ np.uint16(1 << bit), none)
        assert np.array_equal(faulty, clean if bit in (0, 1, top) else clean ^ np.uint16(1 << bit))
    for a, b in DOUBLES:
        faulty = read(link, written ^ np.uint16(1 << a | 1 << b), none)
        outvoted = len({a, b} & {0, 1, top}) == 2
        expected = clean ^ np.uint16(1 << top if outvoted else sum(1 << x for x in (a, b) if x not in (0, 1, top)))
        assert np.array_equal(faulty, expected)


@pytest.mark.parametrize(("chunk", "data"), [("d3p1", 3), ("d7p1", 7), ("d15p1", 15)])
def test_cep_zeroes_the_chunk_of_a_flip(chunk: str, data: int) -> None:
    link = fit(f"cep={chunk}", ALL16)
    chunks = 16 // (data + 1)
    written = link.write_words(ALL16[:, None])[:, 0]
    none = np.empty((0, 0), np.uint8)
    clean = read(link, written, none)
    low = (1 << chunks) - 1
    assert np.array_equal(clean, ALL16 & ~np.uint16(low))
    masks = [((1 << data) - 1) << (16 - data * (k + 1)) for k in range(chunks)]

    def chunk_of(bit: int) -> int:
        return bit if bit < chunks else next(k for k, mask in enumerate(masks) if mask >> bit & 1)

    for flipped in [(bit,) for bit in range(16)] + DOUBLES:
        faulty = read(link, written ^ np.uint16(sum(1 << bit for bit in flipped)), none)
        hits = [chunk_of(bit) for bit in flipped]
        expected = clean.copy()
        for k, mask in enumerate(masks):
            if hits.count(k) == 1:
                expected &= ~np.uint16(mask)
            elif hits.count(k) == 2:  # an even number of flips goes unseen
                expected ^= np.uint16(sum(1 << bit for bit in flipped if bit >= chunks))
        assert np.array_equal(faulty, expected)


def test_parity_zeroes_words_with_an_odd_number_of_flips() -> None:
    link = fit("parity", ALL16)
    checks = link.checks(ALL16[:, None])
    assert np.array_equal(read(link, ALL16, checks), ALL16)
    for bit in range(16):
        assert not read(link, ALL16 ^ np.uint16(1 << bit), checks).any()
    assert not read(link, ALL16, checks ^ np.uint8(1)).any()
    for a, b in DOUBLES:
        faulty = ALL16 ^ np.uint16(1 << a | 1 << b)
        assert np.array_equal(read(link, faulty, checks), faulty)
    for bit in range(16):  # a flip that takes the parity bit with it goes unseen, too
        faulty = ALL16 ^ np.uint16(1 << bit)
        assert np.array_equal(read(link, faulty, checks ^ np.uint8(1)), faulty)


@pytest.mark.parametrize("kept", [16, 3])
def test_tmr_outvotes_any_one_flip_of_a_bits_copies(kept: int) -> None:
    link = fit("tmr" if kept == 16 else f"tmr=msb:{kept}", ALL16)
    checks = link.checks(ALL16[:, None])
    assert link.check_bits == kept
    flips = [(0, bit) for bit in range(16)] + [(copy, bit) for copy in (1, 2) for bit in range(16 - kept, 16)]
    pairs = list(combinations(flips, 2))
    if kept == 16:  # every pair within a bit's copies, and some of the others
        pairs = [(a, b) for a, b in pairs if a[1] == b[1]] + pairs[::4]
    for chosen in [*((flip,) for flip in flips), *pairs]:
        words, hit = ALL16.copy(), checks.copy()
        for copy, bit in chosen:
            if copy == 0:
                words ^= np.uint16(1 << bit)
            else:
                hit[:, copy - 1] ^= np.uint16(1 << bit - (16 - kept))
        bits = [bit for _, bit in chosen]
        single = [bit for copy, bit in chosen if copy == 0 and bit < 16 - kept]  # bits that have no copies
        beaten = {bit for bit in bits if bits.count(bit) == 2} | set(single)
        assert np.array_equal(read(link, words, hit), ALL16 ^ np.uint16(sum(1 << bit for bit in beaten)))


@pytest.mark.parametrize(
    ("data", "format"), [(64, "q2.5"), (64, "fp16"), (64, "fp32"), (128, "q2.5"), (64, "fp6-e3m2")]
)
def test_secded_corrects_every_single_and_flags_every_double_flip_of_a_block(data: int, format: str) -> None:
    fmt = parse_format(format)
    size = data // fmt.bits
    dtype = np.dtype(f"u{max(1, (fmt.bits + 7) // 8)}" if fmt.bits <= 16 else "u4")
    generator = np.random.default_rng(0)
    block = generator.integers(0, 1 << fmt.bits - 2, size).astype(dtype)  # small numbers: finite in every format
    link = fit(f"secded={data}", block, format)
    check = link.checks(block[None])
    assert link.check_bits == (8 if data == 64 else 9)
    total = size * fmt.bits + link.check_bits

    def flipped(positions: np.ndarray) -> tuple[Words, Words]:
        blocks, checks = np.tile(block, (len(positions), 1)), np.tile(check, (len(positions), 1))
        for row, chosen in enumerate(positions):
            for bit in chosen:
                if bit < size * fmt.bits:
                    blocks[row, bit // fmt.bits] ^= dtype.type(1 << bit % fmt.bits)
                else:
                    checks[row, 0] ^= np.uint16(1 << bit - size * fmt.bits)
        return blocks, checks

    singles = np.arange(total)[:, None]
    assert (link.read_words(*flipped(singles)) == block).all()
    doubles = np.array(list(combinations(range(total), 2)))
    assert (link.read_words(*flipped(doubles)) == link.zero).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("t", [1, 2, 4, 8, 12])
def test_bch_corrects_up_to_t_flips_anywhere_and_sees_one_more(t: int) -> None:
    code = bch_code(t)
    assert code.check_bits <= 8 * t + 1
    assert code.check_bits + code.data_bits == 256
    generator = np.random.default_rng(t)
    data = generator.integers(0, 2, (300, code.data_bits)).astype(np.uint8)
    block = np.concatenate([code.checks(data), data], axis=1)
    assert (code.correct(data, code.checks(data))[1] == 0).all()
    for flips in range(1, t + 2):
        hit = block.copy()
        for row in hit:
            row[generator.choice(256, flips, replace=False)] ^= 1
        damaged, checks = hit[:, code.check_bits :], hit[:, : code.check_bits]
        fixed, lost = code.correct(damaged, checks)
        if flips <= t:
            assert not lost.any()
            assert np.array_equal(fixed, data)
        else:
            assert lost.all()
            assert np.array_equal(fixed, damaged)  # left as it is


def slow_product(a: int, b: int) -> int:
    """Product in GF(256) by shifting and adding, modulo x^8+x^4+x^3+x^2+1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = a << 1 ^ (0x11D if a & 0x80 else 0), b >> 1
    return product


def slow_syndromes(ones: list[int], t: int) -> tuple[int, ...]:
    """The word with ones at these positions as a polynomial, evaluated at the first 2t powers of x."""
    powers = [1]
    for _ in range(254):
        powers.append(slow_product(powers[-1], 2))
    sums = [0] * (2 * t)
    for position in ones:
        for root in range(1, 2 * t + 1):
            sums[root - 1] ^= powers[position * root % 255]
    return tuple(sums)


@pytest.mark.parametrize("t", [1, 2, 8])
def test_bch_words_have_the_roots_of_the_code_and_an_even_number_of_ones(t: int) -> None:
    code = bch_code(t)
    data = np.random.default_rng(t).integers(0, 2, (20, code.data_bits)).astype(np.uint8)
    checks = code.checks(data)
    for row in np.concatenate([checks[:, :-1], data], axis=1):
        assert slow_syndromes(np.flatnonzero(row).tolist(), t) == (0,) * (2 * t)
    assert (checks.sum(axis=1) + data.sum(axis=1) & 1 == 0).all()


def test_bch_decodes_as_a_table_of_all_syndromes_does() -> None:
    """Beyond its reach, too: four flips that look like two others are taken for those, all else is said to be lost."""
    code, rng = bch_code(2), np.random.default_rng(0)
    roots = [np.array([*slow_syndromes([position], 2), 1], np.uint8) for position in range(255)]
    roots.append(np.array([0, 0, 0, 0, 1], np.uint8))  # of the bit that makes the number of ones even
    table = {bytes(5): ()} | {roots[a].tobytes(): (a,) for a in range(256)}
    table |= {(roots[a] ^ roots[b]).tobytes(): (a, b) for a, b in combinations(range(256), 2)}
    assert len(table) == 1 + 256 + 256 * 255 // 2
    beyond = [tuple(sorted(rng.choice(256, flips, replace=False).tolist())) for flips in (3, 4) for _ in range(3000)]
    patterns = [*table.values(), *beyond]
    flips = np.zeros((len(patterns), 256), dtype=np.uint8)  # 255: the last check bit
    for row, pattern in enumerate(patterns):
        flips[row, list(pattern)] = 1
    data = rng.integers(0, 2, (1, code.data_bits)).astype(np.uint8)
    r, checks = code.parity_bits, code.checks(data)
    fixed, lost = code.correct(data ^ flips[:, r:255], checks ^ flips[:, [*range(r), 255]])
    for row, pattern in enumerate(patterns):
        seen = np.bitwise_xor.reduce([np.zeros(5, np.uint8), *(roots[position] for position in pattern)])
        believed = table.get(seen.tobytes())
        assert lost[row] == (believed is None)
        remaining = set(pattern) ^ set(believed or ())
        assert set((np.flatnonzero(fixed[row] ^ data[0]) + r).tolist()) == {bit for bit in remaining if r <= bit < 255}
    assert lost[len(table) : len(table) + 3000].all()  # three flips are always seen
    assert 0.3 < lost[len(table) + 3000 :].mean() < 0.7  # about 1/t! of four look like something else


INPLACE = [
    *(("q2.5", spare) for spare in (0.25, 0.5, 0.75, 1, 1.5, 2, 3)),
    *(("fp16", spare) for spare in (0.5, 2, 4)),
    *(("fp32", spare) for spare in (1, 8)),
    ("bf16", 2), ("int4", 1), ("int4", 0.5), ("int8-channel", 0.5), ("fp8-e4m3", 1), ("fp6-e2m3", 1),
]  # fmt: skip


@pytest.mark.parametrize(("format", "spare"), INPLACE)
def test_inplace_blocks_survive_their_flips(format: str, spare: float) -> None:
    fmt = parse_format(format)
    values = torch.randn(40, 256 // fmt.bits, generator=torch.Generator().manual_seed(0)) / 2
    fmt = fmt.fitted(values)
    (link,) = parse_chain(f"inplace={spare}").links
    written = Written(values, words_of(fmt.encode(values)), fmt, None)
    fitted = link.fit(written)
    assert isinstance(fitted, FittedInPlace)
    words = link.nearest(written).reshape(-1, fitted.block)
    assert fitted.code.t == int(spare * (256 // fmt.bits) / 8)
    stored = fitted.write_words(words)
    none = np.empty((0, 0), np.uint8)
    assert np.array_equal(fitted.read_words(stored, none), words)
    rng = np.random.default_rng(1)
    width = 8 * stored.dtype.itemsize
    assert len(fitted.blocks.layout.places) == fitted.block * fmt.bits
    for _ in range(20):
        hit = stored.copy()
        for row in hit:
            for place in rng.choice(fitted.blocks.layout.places, fitted.code.t, replace=False):
                word, bit = divmod(int(place), width)
                row[word] ^= row.dtype.type(1 << bit)
        assert np.array_equal(fitted.read_words(hit, none), words)


@pytest.mark.parametrize(("format", "spare"), INPLACE)
def test_blocks_written_and_read_byte_by_byte_are_those_of_the_code_bit_by_bit(format: str, spare: float) -> None:
    fmt = parse_format(format)
    rng = np.random.default_rng(2)
    dtype = words_of(torch.empty(0, dtype=container_dtype(fmt.bits))).dtype
    fitted = parse_chain(f"inplace={spare}").links[0].fit(Written(torch.empty(0), np.empty(0, dtype), fmt, None))
    assert isinstance(fitted, FittedInPlace)
    layout, code = fitted.blocks.layout, fitted.code
    words = rng.integers(0, 1 << fmt.bits, (60, fitted.block), dtype=np.uint64).astype(dtype)
    octets = words.view(np.uint8).reshape(60, -1)
    data, _ = layout.split(octets)
    slow = layout.join(data, code.checks(data))
    assert np.array_equal(layout.write(octets), slow)
    assert np.array_equal(fitted.write_words(words), slow.view(dtype))
    for flips in range(code.t + 4):
        hit = slow.copy()
        for row in hit:
            for place in rng.choice(layout.places, flips, replace=False):
                row[place // 8] ^= np.uint8(1 << place % 8)
        seen, checks = layout.split(hit)
        fixed, lost = code.correct(seen, checks)
        read, rows, beyond = layout.read(hit)
        assert np.array_equal(read, layout.join(fixed, np.zeros_like(checks)))
        assert np.array_equal(rows[beyond], np.flatnonzero(lost))
        assert len(rows) == (60 if flips else 0)
        seen = fitted.recover(hit.view(dtype), np.empty((0, 0), np.uint8))
        assert np.array_equal(seen.lost, lost)
        assert np.array_equal(seen.words[lost], hit.view(dtype)[lost])
        assert seen.beyond == lost.sum()
        if flips <= code.t:
            assert np.array_equal(seen.words, slow.view(dtype))
            assert seen.found[flips] == 60


@pytest.mark.parametrize(
    ("format", "spare", "flips", "share"),
    [
        ("q2.5", 1.0, 8, 0.4),
        ("q2.5", 2.0, 11, 0.4),
        ("fp16", 4.0, 11, 0.4),
        ("bf16", 4.0, 11, 0.5),
        ("fp32", 8.0, 12, 0.9),
    ],
)
def test_lost_blocks_read_as_what_they_probably_were(format: str, spare: float, flips: int, share: float) -> None:
    """Nearer to what was written than zeros, and than the words as they are."""
    fmt = parse_format(format)
    values = torch.randn(400, 256 // fmt.bits, generator=torch.Generator().manual_seed(4)) * 0.3
    (link,) = parse_chain(f"inplace={spare}").links
    values = largest_fitting(values, fmt) * values
    written = Written(values, words_of(fmt.encode(values)), fmt, None)
    words = link.nearest(written)
    fitted = link.fit(written)
    assert isinstance(fitted, FittedInPlace)
    hit, rng = fitted.write_words(words.reshape(-1, fitted.block)), np.random.default_rng(3)
    for row in hit.view(np.uint8).reshape(400, -1):
        for place in rng.choice(fitted.blocks.layout.places, flips, replace=False):
            row[place // 8] ^= np.uint8(1 << place % 8)
    lost = fitted.recover(hit, np.empty((0, 0), np.uint8)).lost
    assert lost.sum() > 300
    exact = values[lost].double().reshape(-1)
    errors = []
    for read in (fitted.read_words(hit, np.empty((0, 0), np.uint8)), hit):
        seen = fmt.decode(codes_of(read[lost].reshape(-1))).double().nan_to_num(0, 0, 0)
        errors.append(float((seen - exact).square().mean()))
    assert errors[0] < share * float(exact.square().mean())
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("format", "spare"), [case for case in INPLACE if "32" not in case[0] and "16" not in case[0]])
def test_inplace_stores_the_nearest_value_that_it_can(format: str, spare: float) -> None:
    fmt = parse_format(format)
    values = torch.randn(8, 256 // fmt.bits, generator=torch.Generator().manual_seed(3))  # some saturate
    fmt = fmt.fitted(values)
    (link,) = parse_chain(f"inplace={spare}").links
    written = Written(values, words_of(fmt.encode(values)), fmt, None)
    blocks = link.fit(written).blocks  # type: ignore[attr-defined]
    gives = blocks.spare[np.arange(values.numel()) % blocks.block]
    words = link.nearest(written)
    assert not (words & (1 << gives) - 1).any()
    read = fmt.decode(codes_of(words).view(values.shape)).reshape(-1)
    for place, value in enumerate(values.reshape(-1)):
        codes = np.arange(0, 1 << fmt.bits, 1 << gives[place], dtype=words.dtype)
        could = fmt.decode(codes_of(codes), torch.full((len(codes),), place))
        assert abs(read[place] - value) == (could - value).abs().nan_to_num(torch.inf).min()


def test_every_protection_says_what_it_stores() -> None:
    for name, link in PROTECTIONS.items():
        assert link.name == name
        assert link.summary
        assert link.__doc__
