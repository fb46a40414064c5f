"""What people can do by way of the console, each function one thing.

Each does it with the functions of tasks.runtime and the ledger, on the condition that things stand as whoever asks
believes, and else raises RefusalError with what has happened meanwhile. actions.py calls them, and writes them down.
"""
