"""The pure core: what decides is a function of (state, event, now).

No file of this room but ``driver.py`` reads a clock, opens a socket, draws a random number or knows trio; none
imports another room.
"""
