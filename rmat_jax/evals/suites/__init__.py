"""The suites of `evaluate`, a folder each, whose docstring says what the suite asks and how.

Modules in a folder serve that suite alone. Modules that several suites share are in the folder
above.
"""
