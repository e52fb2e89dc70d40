"""How the commands that read long texts say how fast they are."""

# seconds between two lines of progress
PATIENCE = 5.0


def speed(tokens: int, seconds: float) -> str:
    """Says how many tokens were read or written, and how many a second."""
    return f"{tokens:,} tokens ({tokens / max(seconds, 1e-9):,.0f} a second)"
