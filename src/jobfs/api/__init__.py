"""The API client: one typed method for each endpoint of the Workspace Instance API."""

import sys

# httpx has a command line of its own; without loading that, a mount is there a tenth sooner.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
