"""Django's PostgreSQL backend, signing in with credentials that are asked for anew as they are rotated."""
