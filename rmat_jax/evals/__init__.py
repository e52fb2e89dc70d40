"""Measures what a trained model is worth: held-out loss, suites of questions, a report for people.

`suites/` has a folder for each suite, `look/` is the `inspect` command, and the files here are what
they share. The room may import everything below it (config, model, train.step, data,
train.checkpoint, infer), never `train.loop` or `commands`.
"""
