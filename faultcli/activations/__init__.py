"""Outputs of layers as a target: what a layer gives lies in a memory during one inference, and bits flip there.

asked    which formats, laws and protections go together with it
layers   which layers there are, and what they give when the model runs
guard    what layers give, kept inside the bounds that it has without faults
stored   the outputs as they lie in the memory: rounded to its format, hit, read back
faulty   a module of a program with faults in its layers' outputs, for the length of a `with` block
"""
