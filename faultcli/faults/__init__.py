"""Faults: the laws that they follow, and the maps of those that were drawn.

law        what a fault law is
laws       which there are
rate       laws whose number is the probability of each fault
columns    weak columns of memory arrays, as a law
measured   the faults of one real device as a law
memories   bit-error rates that were published, by memory
one_bit    one named bit, as a law
sampling   exact random draws, the same on every machine
drawing    the fault map of one trial
maps       which bits differ: saved, replayed, their own inverse
selection  which tensors lie in the memory at risk
"""
