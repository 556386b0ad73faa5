"""Adapters in processes of their own: ``wire`` has the frames, ``child`` runs there, ``supervisor`` on this side."""
