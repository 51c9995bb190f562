"""The commands that reach devices, one file each."""
