"""The converter's commands, one file each."""
