"""Linen modules of the block, and the values they carry from chunk to chunk."""
