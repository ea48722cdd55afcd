"""What can go wrong with an endpoint, by what is to be done about it."""


class EndpointError(RuntimeError):
    """A request failed for good: what it was, after how many tries, and what the last one said."""


class RequestRefused(EndpointError):
    """The server will not answer this one request, such as a text too long for its model."""


class BudgetSpent(EndpointError):
    """The cap on requests or tokens is reached; what was answered before is kept."""
