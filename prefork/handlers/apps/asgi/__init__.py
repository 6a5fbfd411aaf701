"""ASGI applications (https://asgi.readthedocs.io): lifespan, HTTP and WebSocket, on an asyncio loop that runs ours."""
