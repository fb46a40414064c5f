"""python -m serverless.fakesqs --port 9324"""

from serverless.fakesqs.server import main

main()
