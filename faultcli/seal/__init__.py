"""Checkpoints whose damage shows, and comes back: a checksum for every block of their files, and parity over blocks.

blocks    how a file is cut into blocks and blocks into groups; reading and hashing them
record    the seal as a file: what it says of itself, and which of it can be trusted
making    a seal of an intact checkpoint
naming    which elements of which tensors lie in a block
checking  a checkpoint against its seal
repair    damaged blocks brought back
signs     without a seal: what no checkpoint should look like
"""
