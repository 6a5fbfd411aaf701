"""Memory that all processes of a server share: the numbers that workers and master write there. Owns who may write."""
