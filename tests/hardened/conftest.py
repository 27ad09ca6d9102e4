"""The reader in C, compiled once."""

from collections.abc import Iterator

import pytest
from c_compiler import compiler
from device import Device


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if compiler() is None:
        pytest.skip("there is no C compiler: neither cc nor the package ziglang")
    with Device(tmp_path_factory.mktemp("device")) as device:
        yield device
