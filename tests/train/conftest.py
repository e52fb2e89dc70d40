"""A text to train on."""

import pytest


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A line of text, and another.\n" * 400)
    return path
