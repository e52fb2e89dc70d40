"""Suite `code`: does a line of code find names that were defined further back than a chunk?

The suite asks for lines that use a name for the first time since the line that defined it. It
reports what the rest of the name and the line cost, and how often greedy completion is right, by
the distance to the definition: with the memory, with the memory emptied before the line, and with
the line alone. The control is a name that is new to the file.

Source: our choice. arXiv 2507.00453 names code completion as a use.
"""
