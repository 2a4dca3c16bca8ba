"""Why there is no embedded Elasticsearch."""


class DistributionError(RuntimeError):
    """Elasticsearch could not be downloaded."""


class NodeError(RuntimeError):
    """A node could not be started; the message has the end of its log."""
