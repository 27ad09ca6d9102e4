"""The page that lies beside the files for a device."""

from __future__ import annotations

from collections.abc import Mapping

from faultcli.hardened.device.c_source import comment

_PAGE = """# {title}: hardened weights

`faultcli` stored the weights of this model so that flipped bits in them are found and corrected. This folder is what a
device needs to read them: the weights with their check words, and a reader in C99 that needs no C library, allocates
nothing and does not recurse. Values are, bit for bit, those that `faultcli` measured.

    make test       # compiles everything here and holds it to values that were read when this folder was written

| file | what it is |
|---|---|
| `faultcli_reader.h`, `.c`, `faultcli_config.h` | the reader, without what this model does not need |
| `weights.h`, `weights.c` | descriptions of {tensors} tensors, and the tables that they share |
| `weights_data.c`, `weights.bin` | the same {memory} bytes twice: to be linked, or to be mapped at any address |
| `golden.h`, `test.c`, `Makefile` | the test; a device needs none of them |

    #include "weights.h"

    {type} values[{count}];
    faultcli_status status = {{0, 0, 0}};
    if (faultcli_read_{kind}(&{example}, weights_data, 0, {count}, values, &status) != FAULTCLI_OK)
        return -1;              /* the tensor has fewer values, or they are integers or doubles */
    if (status.lost != 0)
        reload_weights();       /* more flips than can be corrected: some values are not what was written */
    errors_seen += status.corrected;

Any run of values can be read; runs that begin at multiples of `faultcli_block(&tensor)` do no work twice. The address
is where the bytes of `weights.bin` lie: in flash, in RAM, mapped. Reading changes nothing there; write the bytes anew
where flips pile up. `faultcli_check` counts flips and reads nothing. `weights_tensors` lists all tensors.

**Size.** {values} values take {memory} bytes of memory with their check words, which may flip; {tables} bytes of tables
and the code have to lie where they do not. The code takes 3 to 9 KB on a Cortex-M4 at `-Os`, by what
`faultcli_config.h` leaves in; a call takes up to 3 KB of stack, or 2 KB where `FAULTCLI_WORD_BITS` is 32.

**Compile** `faultcli_reader.c` with `-ffp-contract=off`, and without `-ffast-math` or a mode that flushes subnormal
numbers to zero: rounding is part of what is read.
"""


def readme(title: str, example: str, facts: Mapping[str, int | str]) -> str:
    """Return the page for one model.

    Args:
        title: the model's name.
        example: the C name of a tensor to read in the example.
        facts: `memory`, `tables` and `values`, numbers; `tensors`, their number; `type`, `kind`: of the values
            in the example, `float` and `float`, `double` and `double`, or an unsigned integer and `words`; `count` of
            them.
    """
    written = {name: f"{value:,}" if isinstance(value, int) else value for name, value in facts.items()}
    return _PAGE.format(title=comment(title), example=example, **written)
