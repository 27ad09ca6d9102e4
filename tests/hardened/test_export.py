"""The folder for a device: it compiles, its test passes, fails where it should, and it appears whole or not at all."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from c_compiler import SANITIZERS, SOURCES, compile_c, compiler, sanitized, zig

from faultcli.errors import OutputError, UsageError
from faultcli.hardened.device.c_source import identifiers, text
from faultcli.hardened.device.export import DeviceExport, export_device
from faultcli.hardened.device.golden import value_bits
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain

FILES = {
    "Makefile",
    "README.md",
    "faultcli_config.h",
    "faultcli_reader.c",
    "faultcli_reader.h",
    "golden.h",
    "test.c",
    "weights.bin",
    "weights.c",
    "weights.h",
    "weights_data.c",
}


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(5, 3, 3, 3, generator=generator) * 0.2,
        "conv_weight": torch.randn(7, 11, generator=generator) * 0.2,
        "half ä*/": torch.randn(300, generator=generator).half(),
        "double": torch.randn(70, generator=generator).double(),
        **more,
    }


def exported(folder: Path, format: str = "q2.5", chain: str = "scale=max:channel,guard,inplace=2") -> DeviceExport:
    image = MemoryImage(weights(), format, parse_chain(chain), 1e-3)
    return export_device(image.tensors, folder, title="a model */ of mine")


def make_test(folder: Path, *, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Compile the folder's test and run it, as its Makefile does."""
    if compiler() is None:
        pytest.skip("there is no C compiler: neither cc nor the package ziglang")
    sources = [folder / name for name in ("test.c", "faultcli_reader.c", "weights.c", "weights_data.c")]
    strict = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off"]
    compile_c(folder / "weights-test", *strict, *flags, *sources)
    return subprocess.run([folder / "weights-test"], capture_output=True, text=True, check=False)


MODELS = [
    ("native", "secded=64"),
    ("fp32", "scale=3,guard,mset,parity"),
    ("fp16", "cep=d7p1,tmr=msb:2"),
    ("q2.5", "scale=max:channel,guard,inplace=2"),
    ("q2.29", "scale=max,inplace=8,secded=128"),
    ("q1.2", "inplace=1,secded=64"),
    ("mxfp8-e4m3", "guard,inplace=2,secded=64"),
    ("int8-g16", "posterior=1e-3:channel,parity"),
    (
        "q2.5",
        '{"default": "inplace=2", "tensors": {"conv.*": "guard,secded=64", "half*": "scale=2,tmr", "double": "none"}}',
    ),
]


@pytest.mark.parametrize(("format", "chain"), MODELS)
def test_the_folder_compiles_and_its_test_passes(tmp_path: Path, format: str, chain: str) -> None:
    export = exported(tmp_path / "device", format, chain)
    assert {path.name for path in export.folder.iterdir()} == FILES
    flags = tuple(SANITIZERS) if compiler() is not None and sanitized(tmp_path) else ()
    done = make_test(export.folder, flags=flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"ok: 4 tensors, [1-9]\d* damaged blocks\n", done.stdout)


def test_integers_and_empty_tensors_are_exported(tmp_path: Path) -> None:
    more = {"count": torch.arange(9), "byte": torch.arange(9, dtype=torch.uint8), "none": torch.ones(0, 3)}
    export_device(MemoryImage(weights(**more), chain=parse_chain("secded=64")).tensors, tmp_path / "device", title="m")
    assert make_test(tmp_path / "device").stdout.startswith("ok: 7 tensors")


def test_make_does_it(tmp_path: Path) -> None:
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("there is no make, or no cc")
    folder = exported(tmp_path / "device").folder
    done = subprocess.run(["make", "test"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ok: 4 tensors" in done.stdout


def test_the_test_fails_where_it_should(tmp_path: Path) -> None:
    """A flip in a word and one in a check word count, though they are corrected; a wrong description reads wrongly."""
    export = exported(tmp_path / "device", "q2.5", "secded=64")
    data = (export.folder / "weights_data.c").read_text()
    head, *rows = data.split("\n    ")
    for at in (134, 136):
        values = "".join(rows).rstrip("};\n").rstrip(",").split(",")
        values[at] = str(int(values[at]) ^ 1)
        (export.folder / "weights_data.c").write_text(f"{head}\n{','.join(values)}}};\n")
        done = make_test(export.folder)
        assert done.returncode == 1
        assert "faults in memory that has none" in done.stdout
    plain = exported(tmp_path / "plain", "q2.5", "none")
    source = plain.folder / "weights.c"
    source.write_text(source.read_text().replace(".fraction_bits = 5", ".fraction_bits = 4"))
    assert "values are not those that were written" in make_test(plain.folder).stdout


def test_what_is_to_be_mapped_and_what_is_to_be_linked_are_the_same_bytes(tmp_path: Path) -> None:
    export = exported(tmp_path / "device", "q1.2", "inplace=1,secded=64")
    data = (export.folder / "weights_data.c").read_text()
    linked = bytes(int(value) for value in re.findall(r"\d+", data.partition("= {")[2]))
    mapped = (export.folder / "weights.bin").read_bytes()
    assert mapped == linked
    assert len(mapped) == export.memory_bytes
    header = (export.folder / "weights.h").read_text()
    offsets = re.findall(r"^ \* +(\d+) +(\d+)  (\S+),", header, re.MULTILINE)
    assert [name for _, _, name in offsets][:3] == ["conv.weight", "conv.weight#padding", "conv.weight#secded"]
    stored = MemoryImage(weights(), "q1.2", parse_chain("inplace=1,secded=64")).tensors["conv.weight"]
    first, at = stored.data[0] | stored.data[1] << 4, int(offsets[0][0])
    assert mapped[at] == first


def test_tables_are_shared_and_the_reader_leaves_out_what_is_not_needed(tmp_path: Path) -> None:
    export = exported(tmp_path / "device", "q2.5", "inplace=2")
    source = (export.folder / "weights.c").read_text()
    assert source.count("/* bch_table */") == 1
    assert export.table_bytes == 32 * 2 * 16 * 8 + source.count("/* lost_table */") * 256
    config = (export.folder / "faultcli_config.h").read_text()
    assert "FAULTCLI_BCH 8 " in config
    assert "FAULTCLI_SECDED 0" in config
    assert "FAULTCLI_DOUBLE 1" in config  # one tensor is read as float64
    assert "FAULTCLI_POSTERIOR 0" in config
    plain = {"w": torch.ones(8)}
    export_device(MemoryImage(plain, "q2.5").tensors, tmp_path / "plain", title="m")
    assert "FAULTCLI_DOUBLE 0" in (tmp_path / "plain" / "faultcli_config.h").read_text()
    assert make_test(tmp_path / "plain").returncode == 0


def test_a_tensor_that_needs_what_was_left_out_is_not_read(tmp_path: Path) -> None:
    export = exported(tmp_path / "device", "q2.5", "inplace=2")
    config = export.folder / "faultcli_config.h"
    config.write_text(config.read_text().replace("FAULTCLI_BCH 8", "FAULTCLI_BCH 7"))
    assert "cannot be read" in make_test(export.folder).stdout


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty") as caught:
        exported(tmp_path / "kept")
    assert caught.value.exit_code == 2
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        exported(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    exported(tmp_path / "empty")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("faultcli.hardened.device.export.golden", fail)
    with pytest.raises(OutputError, match="no space is left"):
        exported(tmp_path / "device")
    assert list(tmp_path.iterdir()) == []


def test_no_tensors_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tensors"):
        export_device({}, tmp_path / "device", title="m")


def test_names_of_tensors_become_identifiers_of_their_own() -> None:
    found = identifiers(["a.b", "a_b", "a/b", "a_b_2", "int", "3", "", "ä"], "t_")
    assert len(set(found.values())) == len(found)
    assert all(re.fullmatch(r"t_[0-9A-Za-z_]*", name) for name in found.values())
    assert found["a.b"] == "t_a_b"
    assert found["int"] == "t_int"


def test_strings_in_c_say_what_they_said() -> None:
    assert text('a"\\?ä1') == '"a\\042\\134\\077\\303\\2441"'


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int16], ids=str)
def test_the_page_shows_how_to_read_this_model(tmp_path: Path, dtype: torch.dtype) -> None:
    """Its example compiles."""
    image = MemoryImage({"w": torch.arange(100).to(dtype)})
    export = export_device(image.tensors, tmp_path / "device", title="a model */ of mine")
    page = (export.folder / "README.md").read_text()
    assert page.startswith("# a model * / of mine: hardened weights\n")
    assert len(page.splitlines()) < 60
    assert f"{export.memory_bytes:,} bytes" in page
    assert str(tmp_path) not in page
    lines = [line[4:] for line in re.findall(r"^    .*$", page, re.MULTILINE) if "make test" not in line]
    body = "\n".join(lines).replace('#include "weights.h"', "")
    program = export.folder / "example.c"
    program.write_text(
        f'#include "weights.h"\nstatic int errors_seen;\nvoid reload_weights(void);\nvoid reload_weights(void) {{}}\n'
        f"int main(void) {{\n{body}\nreturn values[0] != 0 && errors_seen; }}\n"
    )
    if compiler() is not None:
        sources = [export.folder / name for name in ("example.c", "faultcli_reader.c", "weights.c", "weights_data.c")]
        compile_c(export.folder / "example", "-std=c99", "-Wall", "-Werror", *sources)


def test_bits_of_values() -> None:
    assert value_bits(torch.tensor([1.0, -torch.nan, -0.0])).tolist() == [0x3F800000, 0x7FC00000, 0x80000000]
    assert value_bits(torch.tensor([1.0]).half()).tolist() == [0x3F800000]
    assert value_bits(torch.tensor([torch.nan]).double()).tolist() == [0x7FF8000000000000]
    assert value_bits(torch.tensor([-1], dtype=torch.int16)).tolist() == [0xFFFF]


CONFIGURATIONS = {  # name: word bits, double, flips per block, secded, posterior
    "everything": (64, 1, 30, 1, 1),
    "words of 32 bits, no double": (32, 0, 30, 1, 1),
    "inplace=2 of 8-bit words": (32, 0, 8, 0, 0),
    "secded": (32, 0, 0, 1, 0),
    "unprotected": (32, 0, 0, 0, 0),
}


def test_size_of_the_code_on_a_cortex_m4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It compiles without a C library, calls nothing but the compiler's own runtime, and is small."""
    command = zig()
    if command is None:
        pytest.skip("the package ziglang is not installed, which compiles for a Cortex-M")
    names = ("WORD_BITS", "DOUBLE", "BCH", "SECDED", "POSTERIOR")
    for name in ("faultcli_reader.h", "faultcli_reader.c"):
        shutil.copyfile(SOURCES / name, tmp_path / name)
    sizes = {}
    for title, values in CONFIGURATIONS.items():
        lines = [f"#define FAULTCLI_{name} {value}\n" for name, value in zip(names, values, strict=True)]
        (tmp_path / "faultcli_config.h").write_text("".join(lines))
        flags = ["-target", "thumb-freestanding-eabi", "-mcpu=cortex_m4", "-Os", "-std=c99", "-ffp-contract=off"]
        strict = ["-Wall", "-Wextra", "-Werror", "-c", "faultcli_reader.c", "-o", "reader.o"]
        subprocess.run([*command, *flags, *strict], cwd=tmp_path, check=True)
        sizes[title], undefined = elf32((tmp_path / "reader.o").read_bytes())
        assert all(name.startswith("__") or name in ("memcpy", "memset", "memmove") for name in undefined), undefined
    with capsys.disabled():
        print("\nbytes of code on a Cortex-M4:", ", ".join(f"{title} {size}" for title, size in sizes.items()))
    assert sizes["everything"] < 10_000
    assert sizes["unprotected"] < sizes["inplace=2 of 8-bit words"] < 6_000


def elf32(data: bytes) -> tuple[int, set[str]]:
    """Bytes of code and constants of an object file, and the names that it does not define."""
    start, entry, count = (*struct.unpack_from("<I", data, 32), *struct.unpack_from("<2H", data, 46))
    sections = [struct.unpack_from("<10I", data, start + entry * number) for number in range(count)]
    bits, alloc, symtab, unwinding = 1, 2, 2, 0x70000001
    size = sum(s[5] for s in sections if s[1] == bits and s[2] & alloc and s[1] != unwinding)
    undefined = set()
    for section in sections:
        if section[1] == symtab:
            strings = sections[section[6]][4]
            for at in range(section[4] + 16, section[4] + section[5], 16):
                name, _, _, _, _, where = struct.unpack_from("<IIIBBH", data, at)
                if where == 0:
                    undefined.add(data[strings + name : data.index(b"\0", strings + name)].decode())
    return size, undefined


def test_the_files_beside_the_modules_are_in_the_package() -> None:
    assert {path.name for path in SOURCES.iterdir() if path.suffix in (".c", ".h") or path.name == "Makefile"} == {
        "Makefile",
        "faultcli_config.h",
        "faultcli_reader.c",
        "faultcli_reader.h",
        "test.c",
    }


def test_every_width_of_integers_and_no_values_at_all(tmp_path: Path) -> None:
    kinds = ("uint8", "uint16", "uint32", "uint64", "int16")
    tensors = {name: torch.arange(70).to(getattr(torch, name)) for name in kinds}
    for place, own in enumerate((tensors, {"nothing": torch.zeros(0, 8)})):
        image = MemoryImage(own, "native", parse_chain("secded=64"))
        export_device(image.tensors, tmp_path / str(place), title="integers")
        done = make_test(tmp_path / str(place))
        assert done.returncode == 0, done.stdout + done.stderr
