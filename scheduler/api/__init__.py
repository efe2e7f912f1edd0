"""The HTTP interface: OpenAI's Batch, Files and Images as their clients speak them, our routes, pages.

FastAPI and everything of the web stay in here; what is done with a request is done elsewhere, by the same
functions that the command line calls.
"""
