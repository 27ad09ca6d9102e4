"""Protections: what is done to weights on their way into the memory and undone on their way out.

base       what a protection is
chain      which there are, how they are chained, and which tensor has which
plan_file  chains by tensor in a file
parts      a tensor in parts of some rows
encoding   weights into words
protected_tensor  one tensor in the memory behind its protections
arranged   such a tensor where its channels lie along another dimension than the first
quantised_tensor  a quantised weight as the words of its file, with check words beside them or in them
unstorable  all tensors that cannot be stored because of NaN or infinities
regions    what of it lies in the memory: words, scales, check words
scale      store c·w
factors    what the factors are, and what multiplying and dividing by them loses
factor_search  which factors
expected   how good a factor is, in closed form
channel    what flips do to words, as probabilities
guard      bounds on what was read
distribution  how a tensor's numbers are distributed, in a few bits
posterior  the best estimate of what was written
embedded   redundancy in the low bits of a word
inplace    redundancy in the low bits of a block of words
inplace_parts  the same in words of a quantised file that are full of numbers
ldpc       redundancy in the low bits of all words of a tensor
spare_bits  the nearest words whose lowest bits are given up
sparse_code  the codes of `ldpc`
bch        the codes of `inplace`
block_code  such a code on blocks as they lie in the memory, byte by byte
checks     redundancy in memory of its own: parity, SECDED, triplication
estimate   the bit-error rate, from what was read
"""
