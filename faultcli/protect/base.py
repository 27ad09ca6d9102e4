"""What a protection is: something done to a tensor on its way into the memory and undone on its way out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias
from typing import Protocol as TypingProtocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.faults.maps import Layout
from faultcli.formats import NumberFormat
from faultcli.protect.parts import parts

Constants: TypeAlias = Mapping[str, float | Tensor]  # by name; tensors are float32 or int32, [n]
Words: TypeAlias = NDArray[Any]  # unsigned integers, wide enough for a format's code

_UNSIGNED = {torch.uint8: np.uint8, torch.int16: np.uint16, torch.int32: np.uint32, torch.int64: np.uint64}
_SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32, np.dtype(np.uint64): np.int64}


def words_of(codes: Tensor) -> Words:
    """Return codes as flat unsigned words that share their memory: the view in which bits are flipped."""
    return codes.reshape(-1).numpy().view(_UNSIGNED[codes.dtype])


def words_of_bytes(data: NDArray[np.uint8], bits: int) -> Words:
    """Return a tensor's little-endian bytes as unsigned words of 8, 16, 32 or 64 bits that share their memory."""
    return data.view(f"<u{bits // 8}")


def codes_of(words: Words) -> Tensor:
    """Return unsigned words as the codes that `NumberFormat.decode` takes, sharing their memory."""
    return torch.from_numpy(words.view(_SIGNED.get(words.dtype, words.dtype)))


class Unencoded(TypingProtocol):
    """What is to be stored, before it is computed."""

    @property
    def shape(self) -> Sequence[int]: ...

    def whole(self) -> Tensor: ...

    def parts(self) -> Iterable[Tensor]: ...


@dataclass(frozen=True)
class Written:
    """A tensor at the moment a protection is fitted to it: scaled and encoded, not yet protected further.

    `source`: what is to be stored, or what computes it when it is asked for. `words`: their codes, flat, one per
    element in row-major order. `ber`: the bit-error rate that the memory is designed for, None if nobody said.
    `corrected`: an earlier link of the chain corrects what this one leaves, which is better than to read it as 0.
    `elements`: how many words the tensor has; None: as many as there are here.
    """

    source: Tensor | Unencoded
    words: Words
    format: NumberFormat
    ber: float | None
    corrected: bool = False
    elements: int | None = None

    @property
    def count(self) -> int:
        """How many words the tensor has."""
        return len(self.words) if self.elements is None else self.elements

    @cached_property
    def values(self) -> Tensor:
        """What is to be stored, in the tensor's shape; as large as the tensor, in float32 or wider."""
        return self.source if isinstance(self.source, Tensor) else self.source.whole()

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's."""
        return tuple(self.source.shape)

    def value_parts(self) -> Iterable[Tensor]:
        """What is to be stored, in order, some rows of the tensor at a time."""
        return [self.source] if isinstance(self.source, Tensor) else self.source.parts()

    def stored(self) -> Tensor:
        """What the format reads in the words, in the tensor's shape."""
        return self.format.decode(codes_of(self.words).view(self.shape))

    def stored_parts(self) -> Iterator[Tensor]:
        """Yield what the format reads in the words, some rows of the tensor at a time."""
        codes = codes_of(self.words).view(self.shape)
        nothing: tuple[Fitted, ...] = ()
        return (part.format.decode(codes[part.rows]) for part in parts(self.shape, self.format, nothing))

    @property
    def zero_word(self) -> int:
        """The word that stands for 0."""
        return zero_word(self.format)

    @property
    def channels(self) -> int:
        """Output channels: the size of the first dimension; 1 for tensors of fewer than two dimensions."""
        return self.shape[0] if len(self.shape) >= 2 else 1


@dataclass(frozen=True)
class Recovery:
    """What a link makes of damaged words, to write them again.

    `words`: [n, block], as they were written, as far as the link can tell; those of lost blocks as they are. `lost`:
    bool [n]. `found`: int64 [t + 1], in how many code words so many flips were found. `beyond`: in how many more than
    that. `bits`: of a code word.
    """

    words: Words
    lost: NDArray[np.bool_]
    found: NDArray[np.int64]
    beyond: int
    bits: int


class Noticed(NamedTuple):
    """What a memory's protections say of what they read: whether flips were `corrected`, and whether words were
    `detected` as wrong that could not be."""

    corrected: bool = False
    detected: bool = False

    def __or__(self, other: object) -> Noticed:
        if not isinstance(other, Noticed):
            return NotImplemented
        return Noticed(self.corrected or other.corrected, self.detected or other.detected)


class Fitted:
    """A protection that knows one tensor. What it does not override is left as it is.

    Words are seen in blocks [n, block], so that they can protect each other; `block` is 1 where every word stands for
    itself. The last block of a tensor is filled up with zero words, which lie in no memory
    unless `fills_padding`.
    """

    side_bits: int = 0  # bits of constants and tables kept beside the memory, which faults do not reach
    block: int = 1  # words that are written and read together
    per_block: int = 0  # check words that each block has in memory of their own
    check_bits: int = 0  # bits of a check word
    copied_from: int | None = None  # every check word is a copy of its one-word block's bits from this one on
    fills_padding: bool = False  # whether a last, incomplete block is made complete with words that lie in the memory

    def constants(self) -> Constants:
        """Return what it knows of its tensor, for `Protection.restored`."""
        return {}

    def write_words(self, blocks: Words) -> Words:
        """Return the words [n, block] to store instead of these."""
        return blocks

    def checks(self, blocks: Words) -> Words:
        """Return the check words [n, per_block] that belong to the words [n, block]."""
        return np.empty((len(blocks), 0), dtype=np.uint8)

    def read_words(self, blocks: Words, checks: Words) -> Words:
        """Return words as they were written, as far as their bits and their check words tell. A word that is known to
        be wrong, but not how, reads as the word of 0."""
        return blocks

    def recover(self, blocks: Words, checks: Words) -> Recovery | None:
        """Return words [n, block] as `write_words` gave them, as far as these and their check words tell; None if the
        link cannot tell damaged words from others."""
        return None

    def read_values(self, values: Tensor, words: Words, index: Tensor | None, units: Tensor | None) -> Tensor:
        """Return better values than `values`, which is what the format reads in `words`.

        `index` (int64 [n]) holds the elements' flat positions in the tensor; None means all, in the tensor's shape.
        `units` (float32 [n]) holds the elements' scales as they were read, in formats that have such.
        """
        return values

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> Fitted | None:
        """Return the link as that of some rows (slices of the first dimension) of its tensor, which has this shape;
        None if only the whole tensor can be read."""
        return self if type(self).read_values is Fitted.read_values else None

    def block_failure(self, ber: float) -> float | None:
        """Return the probability that a block has more flips than can be corrected and is known to be lost; None if
        blocks are not corrected."""
        return None

    def unnoticed(self, ber: float) -> float:
        """Return the probability that a given bit is wrong in what `read_words` returns though the link looked after
        it: more flips met than it can tell from fewer. Flips that meet no other are not of this kind."""
        return 0.0

    def rate_left(self, ber: float) -> float:
        """Return the rate of wrong bits that the links before this one have to deal with."""
        return ber

    def check_layout(self, data_words: int) -> Layout:
        """Return the size of the check region for this many data words."""
        return Layout(-(-data_words // self.block) * self.per_block, self.check_bits)


class Protection(ABC):
    """One link of a chain as the command line names it; fitted to each tensor by itself.

    `rank` orders a chain from the values to the bits; a chain has at most one link of each rank.
    """

    name: ClassVar[str]
    examples: ClassVar[str]  # spellings, for tables
    overhead: ClassVar[str]  # what it adds to the memory or beside it, for tables
    summary: ClassVar[str]  # what is stored and what a flip of the protection's own bits does, for tables
    rank: ClassVar[int]

    # What is changed: values before they are encoded, values that were read, words; or nothing, and check words are
    # added. Links from CHECK on take words of any kind, scales included.
    VALUE, ESTIMATE, WORD, CHECK = range(4)

    @property
    def text(self) -> str:
        """The link as it is written on the command line; equal links have equal texts."""
        return self.name

    @property
    def needs_ber(self) -> bool:
        """Whether what is stored or read depends on the bit-error rate of the arm."""
        return False

    @property
    def by_row(self) -> bool:
        """Whether it keeps something for every output channel."""
        return False

    def conflict(self, other: Protection) -> tuple[str, str] | None:
        """Say why the link does not go with another one of its chain, and what to do; None if it does."""
        return None

    def doubt(self, format: NumberFormat, others: Collection[str]) -> str | None:
        """Say what may go wrong with it in a format, beside links of these names, that a user would not expect."""
        return None

    def spare_bits(self, format: NumberFormat) -> int:
        """Lowest bits of a word that do not hold the value any more."""
        return 0

    def fit_block(self, format: NumberFormat, words: int) -> int:
        """Words, of this many, that are written and read together."""
        return 1

    @classmethod
    def parse(cls, value: str | None) -> Self:
        """Read what follows `NAME=` in a chain; None if nothing does.

        Raises:
            UsageError: the value is malformed, or there is one and the link takes none.
        """
        if value is not None:
            raise UsageError(f"{cls.name}={value}: {cls.name} takes no value", f"write just {cls.name}")
        return cls()

    def for_tensors(
        self,
        tensors: Mapping[str, Tensor],
        format_of: Callable[[str], NumberFormat],
        behind: Sequence[Protection],
        ber: float | None,
    ) -> Mapping[str, Protection]:
        """Return the link of every tensor, with what is to be known of all of them together filled in.

        Args:
            tensors: all that lie in the memory, by name.
            format_of: what one word of a tensor is.
            behind: the links between this one and the memory.
            ber: the bit-error rate that the memory is designed for.
        """
        return dict.fromkeys(tensors, self)

    def write_values(self, values: Tensor) -> Tensor:
        """Return the values to encode instead of these."""
        return values

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> Protection | None:
        """Return the link as the one that writes some rows (slices of the first dimension) of a tensor of this shape,
        in whole blocks; None if `write_values` or `nearest` look at the whole tensor."""
        own = type(self)
        looks = own.write_values is not Protection.write_values or own.nearest is not Protection.nearest
        return None if looks else self

    @abstractmethod
    def fit(self, written: Written) -> Fitted:
        """Fit to one tensor.

        Raises:
            UsageError: the protection does not work on words of this format.
        """

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        """Return what `fit` has given for a tensor that lies in a memory.

        Args:
            constants: `Fitted.constants` of it.
            empty: no values and no words, of the tensor's format.
            shape: the tensor's.

        Raises:
            KeyError, ValueError: the constants are not of this protection, or do not fit the shape.
        """
        return self.fit(empty)

    def nearest(self, written: Written) -> Words:
        """Return the words, of those that can be stored and read back, that come nearest to the values: flat, like
        `written.words`. All links are fitted to what the last one asked returns.

        Raises:
            UsageError: as `fit` does.
        """
        return written.words


def floats(constant: float | Tensor, *sizes: int) -> Tensor:
    """Return a constant that has one of these sizes as float32 [n].

    Raises:
        ValueError: it has none of them, or is not finite.
    """
    values = torch.as_tensor(constant, dtype=torch.float32).reshape(-1)
    if len(values) not in sizes or not bool(values.isfinite().all()):
        raise ValueError(f"{len(values)} constants, not {sizes}")
    return values


def per_element(constants: Tensor, values: Tensor, shape: tuple[int, ...], index: Tensor | None) -> Tensor:
    """Return `constants` (one per tensor or one per output channel) spread over elements.

    Args:
        constants: [1] or [channels].
        values: what they belong to; all elements in the tensor's shape, or those at `index`.
        shape: the tensor's.
        index: flat positions of the elements, or None for all.
    """
    if len(constants) == 1:
        return constants
    if index is None:
        return constants.view(-1, *[1] * (values.dim() - 1))
    return constants[index // (torch.Size(shape[1:]).numel() or 1)]


def rounded_up(bounds: Tensor) -> Tensor:
    """Return magnitudes as bfloat16 that are not below them, in their own dtype."""
    near = bounds.to(torch.bfloat16).to(bounds.dtype)
    mantissa, exponent = torch.frexp(bounds)
    above = torch.ldexp(torch.ceil(mantissa * 256) / 256, exponent)
    return torch.where(near >= bounds, near, above)


def zero_word(format: NumberFormat) -> int:
    """Return the word that stands for 0."""
    return int(words_of(format.element.encode(torch.zeros(1, dtype=format.element.value_dtype)))[0])


def needs_zero_bits(format: NumberFormat, name: str) -> None:
    """Refuse a format for a protection that reads damaged bits as 0, or gives up the lowest ones.

    Raises:
        UsageError: the word of zeros does not stand for 0.
    """
    if zero_word(format):
        raise UsageError(
            f"{name}: makes bits 0, and the word 0 of {format.name} is not the number 0", "use parity, secded or tmr"
        )


def flips_beyond(count: int, bits: int, ber: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the numbers of flips of `bits` bits that are more than `count`, and the probability of each."""
    from scipy.special import bdtrc

    flips = np.arange(count, bits + 1)
    tails = np.append(bdtrc(flips[:-1], bits, ber), 0.0)  # of more flips than that
    return flips[1:], tails[:-1] - tails[1:]


def even_flips(bits: int, ber: float) -> float:
    """Return the probability that a given bit is flipped, and so are others of these `bits` that make the number even:
    what one parity bit does not see."""
    flips, chances = flips_beyond(1, bits, ber)
    even = flips % 2 == 0
    return float(chances[even] @ flips[even]) / bits
