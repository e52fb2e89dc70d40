"""Measures what a trained model is worth: held-out loss, suites of questions, a report for people.

`suites/` has a folder for each suite, `look/` is the `inspect` command, and the files here are what
they share.

May import: colours, config, data, digests, drawing, errors, files, infer, machine, model, modules,
progress, train, types, flax, jax, matplotlib, numpy.
"""
