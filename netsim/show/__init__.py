"""Showing a run: what was recorded of it, as one HTML page (``report``) and for other tools (``export``)."""
