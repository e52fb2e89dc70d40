"""The room that serves a model over HTTP: OpenAI's completions and responses, sessions, scores.

`server` listens, `app` has the table of addresses, `worker` the one thread that has the engine.
`completions`, `responses`, `sessions` and `scores` answer; `store` keeps what may be gone on from.
`service` holds what they share. `limits` needs none of the packages.

May import: data, errors, files, infer, progress, signals, h11, numpy, prometheus_client, starlette,
uvicorn.
"""
