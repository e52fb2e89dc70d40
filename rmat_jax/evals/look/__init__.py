"""The `inspect` command, which shows in figures and a page what a memory does with one text."""
