# The core and the extras of a training job; docs/pods.md runs it.
#
#   docker build -t rmat_jax .                                     CPU and, with the next line, TPU or GPU
#   docker build -t rmat_jax --build-arg JAX="jax[tpu]" .          or "jax[cuda12]"
FROM python:3.12-slim
ARG JAX=jax
WORKDIR /app
COPY pyproject.toml setup.py README.md LICENSE ./
COPY rmat_jax rmat_jax
COPY configs configs
COPY train.py ./
RUN pip install --no-cache-dir "$JAX" ".[text,parquet,gcs]"
CMD ["python", "train.py", "--help"]
