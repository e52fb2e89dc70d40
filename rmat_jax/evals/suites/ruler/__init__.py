"""Suite `ruler`: does a model find, follow and count what a long prompt told it?

The tasks are RULER's: needles among noise, a text or other needles; variables that are set to each
other; the most frequent words of a list. Prompts are made here at several lengths, or read from
published files. The suite reports RULER's score by task and length, compared with the same question
with the memory emptied before it, the question alone, and luck.

Source: RULER (Hsieh et al. 2024, arXiv 2404.06654). Numbers and kinds of needles, chains and words
are RULER's. Prompts that are made here have our own wording; RULER's is in its files.
"""
