"""One module a suite of `evaluate`, with a function of its name; `evals/suite.py` is the contract."""
