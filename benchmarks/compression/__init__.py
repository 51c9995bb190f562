"""What `compress.py` trains, makes smaller and measures."""
