"""Late start: a run begins at the first layer that reads a changed tensor, and ends where nothing differs any more.

program   a model as the list of steps that it computes, by torch.fx
kept      which values of the run without faults are kept, within so many bytes
room      how many bytes those are, where nobody says
starting  when that is worth it, and the runs themselves
rows      the same where every run is on a few of the inputs
"""
