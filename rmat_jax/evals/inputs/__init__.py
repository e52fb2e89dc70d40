"""What the suites ask: texts, stories, dialogues, questions and needles, read from files or made,
and packed into rows.
"""
