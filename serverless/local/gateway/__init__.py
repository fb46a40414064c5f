"""The laptop's API Gateway: a WebSocket API that holds real sockets and calls the function that AWS would call.

Run by the supervisor and by tests:
    python -m serverless.local.gateway --port 8001 --stage local
Its clients connect to ws://127.0.0.1:8001/local, and `@connections` is at http://127.0.0.1:8001/local.
"""
