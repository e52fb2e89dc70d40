"""The `inspect` command: what a model's memory does with one text, as plots and a page."""
