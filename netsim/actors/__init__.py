"""Who plays a validator besides the honest: none of this is in ``consensus/``; actors rewrite what a core sends and
hears, or act from outside with the key they own.

A withholding data lane and a client flood need the data plane: not built.
"""
