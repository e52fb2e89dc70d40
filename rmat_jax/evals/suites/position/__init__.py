"""Suite `position`: what does a token cost by its place, and does memory help?

The suite reads the held-out tokens three times: with the memory as it is, with the memory emptied
before each chunk, and with the memory emptied once in a document. It reports the loss by place in
the document, by place in the chunk and by distance from the one emptying; fusion weights and gates;
and two baselines that are no neural networks.

Sources: readers of arXiv 2507.00453 ask about positional decay and the borders of chunks. The byte
model is that of Witten and Bell 1991. The comparison of readings is our choice.
"""
