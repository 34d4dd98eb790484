"""The API client: one typed method for each endpoint of the Workspace Instance API."""

import sys

# Keep httpx from loading its command line: a mount starts a tenth sooner without it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
