"""Choosing checkpoint and token counts by a budget of GMACs or milliseconds."""
