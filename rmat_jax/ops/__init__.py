"""Pure functions from arrays to arrays. Nothing here knows a parameter."""
