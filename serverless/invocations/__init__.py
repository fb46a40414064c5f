"""What Lambda invokes a function with: which kind of event it is, and HTTP as events around a WSGI application.

Knows nothing of Django or of our tasks.
"""

from serverless.invocations.http import HttpAdapter
from serverless.invocations.kinds import Kind, UnroutableError, kind_of, name_of

__all__ = ["HttpAdapter", "Kind", "UnroutableError", "kind_of", "name_of"]
