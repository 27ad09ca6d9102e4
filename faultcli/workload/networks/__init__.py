"""The built-in networks, one file per family; `faultcli.workload.architectures` holds their table."""
