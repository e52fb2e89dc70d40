"""Suite `babi`: how far does the memory carry the facts of bAbI's stories?

From none to many chunks of other text are put between the facts of a story, or stories are read
with such text in them, from BABILong's files. The suite reports how often the right answer is the
most likely of all answers in the task's files, by task and by length of that text. It compares that
with an emptied memory, the question alone, and the most frequent answer.

Sources: the stories are those of bAbI (Weston et al. 2015, arXiv 1502.05698). Other text is put
between facts as in BABILong (Kuratov et al. 2024, arXiv 2406.10149), whose files are read too.
"""
