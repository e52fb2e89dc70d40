"""What a trained model is worth: held-out loss, baselines, gauges, and the report for people.

May import everything below it (config, model, step, data, checkpoint, infer), never `loop` or
`commands`.
"""
