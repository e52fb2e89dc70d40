"""Suites `qa` and `summary`: does a model still know a document when it is asked about it?

A document is read once, and every question goes on from there: with the document in memory, with
the memory emptied before the question, and with the question alone. Both suites report the bits
per byte of the reference, and how much a written text agrees with it, compared with luck. They
differ in prompts, scores and baselines, which `qa.py` and `summary.py` hold.

Sources: exact match and token F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250),
ROUGE is that of Lin 2004. Records are read as L-Eval, QMSum and LongBench write them. The three
conditions are our choice.
"""
