"""Protections: what is done to weights on their way into the memory and undone on their way out.

chain      which there are, and how they are chained
scale      store c·w (factors: the arithmetic; factor_search, expected: how good a factor is, in closed form)
guard, posterior      better values for what was read
embedded, inplace     redundancy in the low bits of the words themselves
checks     redundancy in memory of its own: parity, SECDED, triplication
"""
