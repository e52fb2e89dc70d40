"""Suite `ruler`: does a model find, follow and count what a long prompt told it?

The tasks are RULER's: needles among noise, a text or other needles; variables that are set to each
other; the most frequent words of a list. They are made here, from one length to the next, or read
from published files. It reports RULER's score by task and length, beside the same question with the
memory emptied before it, the question alone, and what luck scores.

Source: RULER (Hsieh et al. 2024, arXiv 2404.06654). Numbers and kinds of needles, chains and words
are RULER's. The wording of the prompts that are made here is ours; RULER's own stands in its files.
"""
