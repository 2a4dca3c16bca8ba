"""`python -m app`: the service, configured by the environment (`app.settings`)."""

import gc
import logging
import sys

from app.server import Server, log_to_stderr
from app.settings import ConfigurationError, load_settings


def main() -> None:
    log_to_stderr()
    try:
        settings = load_settings()
        server = Server(settings)
    except ConfigurationError as error:
        sys.exit(str(error))
    if not settings.users:
        logging.getLogger(__name__).warning("no [[users]] are configured, so nobody can log in: set RECALL_CONFIG")
    # Pages of recordings are many small objects and hardly ever a cycle: collecting took a fifth of the processor.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    server.run()
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
