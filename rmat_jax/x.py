"""Experiment switches, thrown away after the measurement."""
import os
import jax, jax.numpy as jnp
X = dict((kv.split("=") + ["1"])[:2] for kv in os.environ.get("RMAT_X", "").split(",") if kv)
ENTRY = "entry" in X
OPEN = float(X.get("open", 0))
REACH = float(X.get("reach", 0))
DROP_FULL = float(X.get("dropfull", 0))
DROP_LOCAL = float(X.get("droplocal", 0))
ACTIVE = bool(REACH or DROP_FULL or DROP_LOCAL)
now = {}

def draw(key, rows, chunk):
    k = jax.random.split(key, 5)
    log = jax.random.uniform(k[0], (rows,), minval=0.0, maxval=jnp.log(float(chunk)))
    reach = jnp.where(jax.random.bernoulli(k[1], REACH, (rows,)), jnp.exp(log).astype(int), chunk)
    now["reach"] = reach
    now["full"] = jax.random.bernoulli(k[2], DROP_FULL, (rows,))
    now["local"] = jax.random.bernoulli(k[3], DROP_LOCAL, (rows,)) & ~now["full"]
