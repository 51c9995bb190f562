"""The runtime's own commands, one file each."""
