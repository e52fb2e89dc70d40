"""Serves a model over HTTP: OpenAI's completions and responses, sessions, and scores.

`server` listens, `app` has the table of addresses, and `worker` the one thread that uses the
engine. `completions`, `responses` and `sessions` answer requests, and `store` keeps the sessions.
`service` holds what they share. `limits` needs none of the packages.

May import: data, errors, files, infer, progress, signals, h11, numpy, prometheus_client, starlette,
uvicorn.
"""
