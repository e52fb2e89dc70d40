"""Suite `recall`: is a fact found again, by how long the context is and where in it the fact stood?

A model of text is asked for a pass key in running text, and a model of `data.synthetic=recall` for
the values of key-value pairs in noise. The suite reports accuracy by context length and depth,
compared with the same question with the memory emptied just before. It also reports how many pairs
a memory holds and for how long, and whether a key that is told again has its last value.

Sources: the pass key is that of Mohtashami and Jaggi 2023 (arXiv 2305.16300); the grid of context
and depth is the usual one of needle tests. The emptied memory as a control is our choice.
"""
