"""What runs in the sandbox's own interpreter: the fork server, the runner and the referee.

These modules import the standard library and each other alone (relatively), because they are started by path in another
interpreter, with an empty environment and without site-packages.
"""
