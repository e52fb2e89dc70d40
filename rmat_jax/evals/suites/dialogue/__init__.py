"""Suite `dialogue`: does a later turn of a long dialogue profit from the earlier ones?

Dialogues of a file are joined to long ones. The suite reports the bits per byte of every utterance
by its turn number: after all turns before it, with the memory emptied just before it, and on its
own.

Sources: records have the form of Schema-Guided Dialogue (Rastogi et al. 2019, arXiv 1909.05855).
The joining and the three conditions are our choice.
"""
