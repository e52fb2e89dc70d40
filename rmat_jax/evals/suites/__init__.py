"""The suites of `evaluate`: a folder each, whose docstring says what it asks and how.

Modules in a folder serve that suite alone. What several suites share is one floor up.
"""
