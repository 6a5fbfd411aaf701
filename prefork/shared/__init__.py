"""Memory that all processes of a server share: what each worker counts and says of itself, and who may write it."""
