"""Shell completion, as docs/completion.md says."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_the_script_is_shown(shell_name: str, fresh_shell: Callable[..., Any]) -> None:
    done = fresh_shell(f"_FAULTCLI_COMPLETE=source_{shell_name} faultcli")
    assert "_FAULTCLI_COMPLETE=complete_" in done.out
    assert "faultcli" in done.out


def test_bash_completes_commands_and_options(fresh_shell: Callable[..., Any]) -> None:
    """The script, sourced and called as bash calls it when somebody presses Tab."""
    press = (
        'eval "$(_FAULTCLI_COMPLETE=source_bash faultcli)"; complete -p faultcli >&2; '
        "tab() { COMP_WORDS=(faultcli $1 $2); COMP_CWORD=$3; COMPREPLY=(); _faultcli_completion faultcli; "
        'echo "${COMPREPLY[@]}"; }; tab cam "" 1; tab campaign --max 2; tab report --out 2'
    )
    done = fresh_shell(press)
    assert done.code == 0, done.err
    assert "-F _faultcli_completion" in done.err
    commands, gates, output = done.out.splitlines()
    assert commands.split() == ["campaign"]
    assert set(gates.split()) >= {"--max-drop", "--max-sdc", "--max-perplexity"}  # the last one is not in --help
    assert output.split() == ["--output"]
