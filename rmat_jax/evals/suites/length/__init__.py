"""Suite `length`: up to which distance does more context help?

The same tokens are scored with a state that began, fresh, at several distances before them. The
suite reports bits per byte by that reach, and what each reach saves against the chunk alone.

Source: our choice. Readers of arXiv 2507.00453 ask whether memory helps beyond 10,000 tokens.
"""
