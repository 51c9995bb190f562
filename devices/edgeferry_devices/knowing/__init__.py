"""What a device tells about itself, with nothing installed there: each fact is a shell command and a pure parser."""
