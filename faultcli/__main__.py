"""`python -m faultcli`: the command line."""

from faultcli.cli import main

main()
